//! The node's own log: `tracing`, written to standard error.
//!
//! The configuration says what is written, in the words of `tracing_subscriber::EnvFilter`: `info`, `hearth::access=off,debug`;
//! and how: as text or as JSON.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::lines::Lines;

/// The log of this process.
static LINES: OnceLock<Lines> = OnceLock::new();

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The filter is none.
    #[error("the log filter {value:?} makes no sense")]
    Filter {
        /// What it says.
        value: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("the log was started twice")]
    Started(#[source] TryInitError),
}

/// Starts the log of this process.
///
/// Fails when the filter makes no sense, or when it was started before.
pub fn start_tracing(filter: &str, format: Format) -> Result<(), TraceError> {
    let filter =
        EnvFilter::try_new(filter).map_err(|source| TraceError::Filter { value: filter.to_owned(), source })?;
    // A log that nobody reads any more must not end the node: it would be told on the very stream that is closed.
    let lines = LINES.get_or_init(Lines::default).clone();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).log_internal_errors(false);
    match format {
        Format::Text => builder.with_ansi(false).finish().try_init(),
        Format::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TraceError::Started)
}

/// Writes what of the log still waits, before the process ends.
pub fn flush_tracing() {
    if let Some(lines) = LINES.get() {
        // A log that nobody reads any more must not keep the process from ending well.
        drop(lines.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_makes_no_sense_is_told() {
        let told = start_tracing("info,===", Format::Text).unwrap_err().to_string();
        assert_eq!(told, "the log filter \"info,===\" makes no sense");
    }
}
