//! One invocation as an instance sees it, and every way it can end.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::frame::{FrameError, Kind};
use super::stream::AnswerStream;

/// An event on its way to a function.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Names this execution everywhere: to the function, in logs, to the caller.
    pub request_id: Arc<str>,
    /// What the handler gets: JSON.
    pub event: Bytes,
    /// When an answer is of no use any more.
    pub deadline: Deadline,
    /// The trace it belongs to, as in `X-Amzn-Trace-Id`.
    pub trace_id: Option<String>,
    /// What a caller passes beside the event: JSON.
    pub client_context: Option<String>,
}

/// One moment, as the daemon waits for it and as a function is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// On the daemon's monotonic clock.
    pub at: Instant,
    /// The same moment in milliseconds since 1970.
    pub epoch_ms: u64,
}

/// Which function an instance runs: what its `context` says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The function's name.
    pub function: String,
    /// Its revision.
    pub version: String,
    /// What limits its memory, in MiB.
    pub memory_mb: u64,
    /// The name by which Lambda clients know it.
    pub arn: String,
    /// Tells this instance's log from its siblings'.
    pub log_stream: String,
}

/// How an invocation ended.
#[derive(Debug)]
pub enum Outcome {
    /// The function answered.
    Answer(Bytes),
    /// The function answers bit by bit; the invocation ends with the stream.
    Stream(AnswerStream),
    /// The function failed and said how.
    FunctionError(ErrorReport),
    /// The instance ended. Unless `may_have_started`, the function never saw the event.
    InstanceDied {
        /// The event had left for the instance.
        may_have_started: bool,
    },
    /// The instance does not keep to the contract and should be replaced.
    Broken(Breach),
    /// The invocation was not sent, through no fault of the instance.
    Refused(Refusal),
    /// The deadline passed. The function may still be running: its instance is to be killed.
    TimedOut,
}

/// What an instance says of itself once it can take invocations.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReadyInfo {
    /// The language and its version, empty where nobody tells.
    #[serde(default)]
    pub runtime: String,
    /// Milliseconds from the start of the bootstrap until it could take invocations.
    #[serde(default)]
    pub init_ms: u64,
    /// What still runs for a daemon that is gone; its answers reach nobody.
    #[serde(default)]
    pub in_flight: Vec<InFlight>,
}

/// An invocation that an instance was given over an earlier connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InFlight {
    /// Its number in frames.
    pub id: u64,
    /// Its name.
    pub request_id: String,
}

/// Why an instance will never take an invocation.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InitFailure {
    /// The function could not be loaded and said why.
    #[error("the function could not be loaded: {0}")]
    Function(ErrorReport),
    /// The instance ended before it was ready.
    #[error("the instance ended before it was ready")]
    InstanceDied,
    /// The instance does not keep to the contract.
    #[error("the instance breaks its contract")]
    Broken(#[source] Breach),
    /// The deadline passed first.
    #[error("the instance was not ready in time")]
    TimedOut,
}

/// How an instance broke its contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// Bytes arrived that are no frame, or a frame over the limit.
    #[error("it sent what is no frame")]
    Frame(#[from] FrameError),
    /// A frame arrived that this end never gets, or whose content cannot be read.
    #[error("it sent a {kind:?} frame that means nothing here")]
    Meaningless {
        /// The kind of the frame.
        kind: Kind,
    },
    /// A streamed answer ran ahead of what its reader allowed.
    #[error("it sent more of a stream than it was allowed to")]
    Overrun,
}

/// Why an invocation was not even sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The instance has as many invocations as anyone may give it.
    #[error("the instance holds {limit} invocations, which is the limit")]
    Full {
        /// How many it holds.
        limit: usize,
    },
    /// The event and what is said beside it are too long to be sent.
    #[error("an invocation of {bytes} bytes is longer than {limit}")]
    TooLarge {
        /// How long it is.
        bytes: usize,
        /// What can be sent.
        limit: usize,
    },
    /// Its request id is in use.
    #[error("the instance already works on request {request_id}")]
    Duplicate {
        /// The id.
        request_id: Arc<str>,
    },
}

/// What a function says about its own failure: Lambda's `errorType`, `errorMessage`, `stackTrace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReport {
    /// The name of the exception, or a `Runtime.…` name for failures before and around handlers.
    pub error_type: String,
    /// Its message.
    pub error_message: String,
    /// The whole report as the function sent it: a JSON object with at least the two above.
    pub json: Bytes,
}

impl std::fmt::Display for ErrorReport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.error_type, self.error_message)
    }
}

impl ErrorReport {
    /// Returns the report of a failure that the platform saw from outside.
    pub fn new(error_type: &str, error_message: &str) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            error_type: &'a str,
            error_message: &'a str,
            stack_trace: [&'a str; 0],
        }
        let written = Written { error_type, error_message, stack_trace: [] };
        let json = serde_json::to_vec(&written).expect("strings can be written as JSON");
        Self { error_type: error_type.to_owned(), error_message: error_message.to_owned(), json: json.into() }
    }

    /// Reads a report. What is no report becomes the message of one, with `fallback_type`.
    pub fn parse(json: Bytes, fallback_type: Option<&str>) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Reported {
            error_type: String,
            #[serde(default)]
            error_message: String,
        }
        match serde_json::from_slice::<Reported>(&json) {
            Ok(Reported { error_type, error_message }) => Self { error_type, error_message, json },
            Err(_) => {
                let message = String::from_utf8_lossy(&json);
                Self::new(fallback_type.unwrap_or("Unhandled"), &message)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_kept_as_sent_and_anything_else_becomes_one() {
        let sent = Bytes::from_static(br#"{"errorType":"E","errorMessage":"m","extra":1}"#);
        let report = ErrorReport::parse(sent.clone(), Some("Other"));
        assert_eq!((report.to_string(), report.json), ("E: m".to_owned(), sent));
        let report = ErrorReport::parse(Bytes::from_static(b"oh \"no\""), Some("Other"));
        assert_eq!(&report.json[..], br#"{"errorType":"Other","errorMessage":"oh \"no\"","stackTrace":[]}"#);
    }
}
