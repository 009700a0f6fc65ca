//! The node's own log: `tracing`, written to standard error.
//!
//! `HEARTH_LOG` says what is written, in the words of `tracing_subscriber::EnvFilter`: `info`, `hearth::access=off,debug`.
//! `HEARTH_LOG_FORMAT` says how: `text` or `json`.

use std::io;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// What is written unless `HEARTH_LOG` says otherwise.
const FILTER_DEFAULT: &str = "info,openraft=warn";

/// How lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// `HEARTH_LOG` is no filter.
    #[error("HEARTH_LOG is {value:?}, which is no filter")]
    Filter {
        /// What it says.
        value: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// `HEARTH_LOG_FORMAT` is no format.
    #[error("HEARTH_LOG_FORMAT is {0:?}, it is text or json")]
    Format(String),
    /// The process has a log already.
    #[error("the log was started twice")]
    Started(#[source] TryInitError),
}

impl FromStr for Format {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        match text {
            "" | "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(TraceError::Format(text.to_owned())),
        }
    }
}

/// Starts the log of this process; `filter` and `format` are the values of the two variables, none if they are not set.
///
/// Fails when either makes no sense, or when it was started before.
pub fn start_tracing(filter: Option<&str>, format: Option<&str>) -> Result<(), TraceError> {
    let text = filter.filter(|text| !text.is_empty()).unwrap_or(FILTER_DEFAULT);
    let filter = EnvFilter::try_new(text).map_err(|source| TraceError::Filter { value: text.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format.unwrap_or_default().parse()? {
        Format::Text => builder.with_ansi(false).finish().try_init(),
        Format::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TraceError::Started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_or_format_that_makes_no_sense_is_told() {
        let told = start_tracing(Some("info,==="), None).unwrap_err().to_string();
        assert_eq!(told, "HEARTH_LOG is \"info,===\", which is no filter");
        let told = start_tracing(None, Some("xml")).unwrap_err().to_string();
        assert_eq!(told, "HEARTH_LOG_FORMAT is \"xml\", it is text or json");
    }
}
