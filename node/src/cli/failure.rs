//! How a command fails: a message, what to do next, an exit code.

use std::fmt;

use proto::json::{ErrorBody, ErrorCode};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    hint: Option<String>,
    exit_code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit_code: 1 }
    }

    /// A failure with the exit code of a code of the API.
    pub(super) fn coded(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { exit_code: code.exit_code(), ..Self::new(message) }
    }

    /// A failure with an exit code of its own.
    pub(super) fn exit(exit_code: u8, message: impl Into<String>) -> Self {
        Self { exit_code, ..Self::new(message) }
    }

    /// Returns what several things failed with, under one headline; the first decides the exit code. None if none failed.
    pub(super) fn of_several(headline: &str, failures: Vec<(String, Self)>) -> Option<Self> {
        let exit_code = failures.first()?.1.exit_code;
        let told = failures.into_iter().map(|(name, failure)| {
            let hint = failure.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            format!("\n{name}: {}{hint}", failure.message)
        });
        Some(Self::exit(exit_code, format!("{headline}{}", told.collect::<String>())))
    }

    /// Ends a command without a word because nobody reads its output any more, as after `| head -1`.
    pub(super) fn nobody_reads() -> Self {
        Self::exit(0, "")
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns an error with everything that caused it, on one line.
    pub(super) fn of(error: &dyn std::error::Error) -> Self {
        Self::new(crate::error_chain::text(error))
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self { message: body.error, hint: body.hint, exit_code: body.code.exit_code() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            return Ok(());
        }
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}
