//! What is known of a call once it is over: for the access log and for metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{FunctionName, InstanceId, NodeId, RevisionId};
use http::{Method, Uri};
use tokio::time::Instant;

use super::call::Answered;
use super::client::Active;
use super::failure::CallFailure;
use super::phases::Phases;

/// Told of every call.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A call is over: its answer has been sent, or its caller has gone. Runs on the path of calls and must not block.
    fn on_done(&self, record: &CallRecord);
}

/// Nobody who is told of calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn on_done(&self, _record: &CallRecord) {}
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The function answered.
    Answered,
    /// The function failed.
    FunctionError,
    /// The instance died or broke its contract.
    InstanceError,
    /// The time of the call was over.
    TimedOut,
    /// It found no instance: the queue is full, there is no capacity, or waiting took too long.
    Refused,
    /// The request itself was at fault, or for nobody.
    BadRequest,
    /// The caller went away before the answer was complete.
    Cancelled,
}

impl CallOutcome {
    pub(super) const ALL: [Self; 7] = [
        Self::Answered,
        Self::FunctionError,
        Self::InstanceError,
        Self::TimedOut,
        Self::Refused,
        Self::BadRequest,
        Self::Cancelled,
    ];

    /// Returns the outcome as metrics and logs name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::FunctionError => "function_error",
            Self::InstanceError => "instance_error",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::BadRequest => "bad_request",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is known of one call.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// Names the call everywhere.
    pub request_id: Arc<str>,
    /// The function, if the request was for one.
    pub function: Option<FunctionName>,
    /// The revision that took it.
    pub revision: Option<RevisionId>,
    /// The instance that worked on it last.
    pub instance: Option<InstanceId>,
    /// The method; POST for an invocation that did not come over HTTP.
    pub method: Method,
    /// What was asked for; empty for an invocation that did not come over HTTP.
    pub uri: Uri,
    /// The status of the answer; 0 if the caller went away before there was one.
    pub status: u16,
    /// How it ended.
    pub outcome: CallOutcome,
    /// Where the time went.
    pub phases: Phases,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
    /// How many bytes of body came.
    pub bytes_in: u64,
    /// How many bytes of body were sent.
    pub bytes_out: u64,
    /// The node at which it came in, if that was another one.
    pub forwarded_by: Option<NodeId>,
    /// The node that answered it, if that was another one.
    pub served_by: Option<NodeId>,
    /// A peer was told that the call has not begun here, and looks elsewhere.
    pub(super) is_turned: bool,
    pub(super) started: Instant,
}

impl CallRecord {
    pub(super) fn new(request_id: Arc<str>, method: Method, uri: Uri) -> Self {
        Self {
            request_id,
            function: None,
            revision: None,
            instance: None,
            method,
            uri,
            status: 0,
            outcome: CallOutcome::Cancelled,
            phases: Phases::default(),
            duration: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
            forwarded_by: None,
            served_by: None,
            is_turned: false,
            started: Instant::now(),
        }
    }

    /// Returns whether this node counts the call: of the two nodes of a hop, the one that answered it does.
    pub fn is_counted(&self) -> bool {
        self.served_by.is_none() && !self.is_turned
    }

    /// Notes how the call went.
    pub(super) fn end(&mut self, answered: &Result<Answered, CallFailure>) {
        self.outcome = match answered {
            // The peer has said how.
            Ok(Answered::Away(..)) => self.outcome,
            Ok(_) => CallOutcome::Answered,
            Err(failure) => failure.outcome(),
        };
    }

    /// Returns whether the call waited for an instance to start.
    pub fn is_cold(&self) -> bool {
        self.phases.start.is_some()
    }
}

/// A call that is not over. Its drop is its end: then it is written to the access log and the observer is told.
#[derive(Debug)]
pub(super) struct Ongoing {
    pub(super) record: Box<CallRecord>,
    observer: Arc<dyn Observer>,
    /// Tells the connection, where there is one, that it is in use.
    _active: Option<Active>,
}

impl Ongoing {
    pub(super) fn new(record: CallRecord, observer: Arc<dyn Observer>, active: Option<Active>) -> Self {
        Self { record: Box::new(record), observer, _active: active }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let record = &mut self.record;
        record.duration = record.started.elapsed();
        self.observer.on_done(record);
        tracing::info!(
            target: "hearth::access",
            request_id = %record.request_id,
            function = record.function.as_ref().map(tracing::field::display),
            revision = record.revision.as_ref().map(|revision| revision.number.0),
            instance = record.instance.as_ref().map(tracing::field::display),
            method = %record.method,
            path = record.uri.path(),
            status = record.status,
            outcome = record.outcome.as_str(),
            cold_start = record.is_cold(),
            duration_ms = record.duration.as_secs_f64() * 1000.0,
            run_ms = record.phases.run.as_secs_f64() * 1000.0,
            bytes_in = record.bytes_in,
            bytes_out = record.bytes_out,
            forwarded_by = record.forwarded_by.as_ref().map(tracing::field::display),
            served_by = record.served_by.as_ref().map(tracing::field::display),
        );
    }
}
