//! Every way a call can fail, and what its caller is told.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use control_plane::dispatch::{DeclineReason, Refusal};
use control_plane::model::{FunctionName, InstanceFailure, NodeId, RevisionId};
use control_plane::route::MethodSet;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::Serialize;

use super::record::CallOutcome;
use crate::contract::ErrorReport;

/// Says whose fault a 502 is: `function` or `instance`.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-hearth-error");

/// The seconds after which somebody who was refused may ask again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why a call has no answer of its function.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallFailure {
    /// There is no such function.
    #[error("there is no function {name:?}")]
    NoFunction {
        /// The name that was asked for.
        name: String,
        /// The nearest name there is.
        nearest: Option<FunctionName>,
    },
    /// The function has no such revision that could be called.
    #[error("revision {0} is not served")]
    NoRevision(RevisionId),
    /// Nothing is routed there.
    #[error("no function is routed at {place}")]
    NotFound {
        /// Host and path.
        place: String,
    },
    /// The path is routed, but not for this method.
    #[error("no function is routed there for this method")]
    MethodNotAllowed {
        /// The methods that are.
        allowed: MethodSet,
    },
    /// The request is none that can be served.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The body is too long.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// The longest it may be, in bytes.
        limit: u64,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", .limit.as_secs())]
    SlowBody {
        /// How long it may take.
        limit: Duration,
    },
    /// The function takes HTTP requests and no bare events, or the other way round.
    #[error("{function} serves HTTP and takes no bare events")]
    NoEvents {
        /// The function.
        function: FunctionName,
    },
    /// The request asks for an upgrade, and the function runs on another node.
    #[error("WebSocket connections are served only by a node that has an instance of the function or room for one")]
    NoUpgrade,
    /// The function was never live.
    #[error("{function} is starting for the first time")]
    Starting {
        /// The function.
        function: FunctionName,
    },
    /// No revision of the function starts.
    #[error("no revision of {function} starts: {reason}")]
    NeverStarted {
        /// The function.
        function: FunctionName,
        /// Why not.
        reason: String,
    },
    /// As many calls wait as may.
    #[error("too many calls of {function} are waiting")]
    QueueFull {
        /// The function.
        function: FunctionName,
    },
    /// No instance became free in time.
    #[error("no instance of {function} became free within {} s", .waited.as_secs())]
    Waited {
        /// The function.
        function: FunctionName,
        /// How long the call waited.
        waited: Duration,
    },
    /// No instance can be started.
    #[error("there is no capacity for {function}: {reason}")]
    NoCapacity {
        /// The function.
        function: FunctionName,
        /// What is missing.
        reason: String,
    },
    /// The function went away while the call waited.
    #[error("{function} is not served any more")]
    Retired {
        /// The function.
        function: FunctionName,
    },
    /// The node that passes the call on is not a member of the cluster any more.
    #[error("{0} is not a member of this cluster any more")]
    Removed(NodeId),
    /// The function failed and said how.
    #[error("the function failed: {0}")]
    Function(ErrorReport),
    /// The instance died or broke its contract; the text says how.
    #[error("{0}")]
    Instance(String),
    /// The function took too long.
    #[error("the function did not answer within {} s", .limit.as_secs_f64())]
    TimedOut {
        /// How long it may take.
        limit: Duration,
    },
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl CallFailure {
    pub(super) fn refused(function: &FunctionName, waited: Duration, refusal: Refusal) -> Self {
        let function = function.clone();
        match refusal {
            Refusal::QueueFull => Self::QueueFull { function },
            Refusal::Deadline => Self::Waited { function, waited },
            Refusal::Declined(DeclineReason::NoCapacity(reason)) => Self::NoCapacity { function, reason },
            Refusal::Declined(DeclineReason::Retired) => Self::Retired { function },
            Refusal::Declined(DeclineReason::Failing(InstanceFailure::Init(text))) => {
                Self::Function(ErrorReport::new("Runtime.InitError", &text))
            }
            Refusal::Declined(DeclineReason::Failing(failure)) => Self::Instance(failure.to_string()),
        }
    }

    /// Returns the status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoFunction { .. } | Self::NoRevision(_) | Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest(_) | Self::NoEvents { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NoUpgrade => StatusCode::NOT_IMPLEMENTED,
            Self::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Starting { .. }
            | Self::NeverStarted { .. }
            | Self::Waited { .. }
            | Self::NoCapacity { .. }
            | Self::Retired { .. }
            | Self::Removed(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Function(_) | Self::Instance(_) => StatusCode::BAD_GATEWAY,
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns how records and metrics name it.
    pub fn outcome(&self) -> CallOutcome {
        match self {
            Self::NoFunction { .. }
            | Self::NoRevision(_)
            | Self::NotFound { .. }
            | Self::MethodNotAllowed { .. }
            | Self::BadRequest(_)
            | Self::TooLarge { .. }
            | Self::SlowBody { .. }
            | Self::NoEvents { .. } => CallOutcome::BadRequest,
            Self::NoUpgrade => CallOutcome::Refused,
            Self::Starting { .. }
            | Self::NeverStarted { .. }
            | Self::QueueFull { .. }
            | Self::Waited { .. }
            | Self::NoCapacity { .. }
            | Self::Retired { .. }
            | Self::Removed(_) => CallOutcome::Refused,
            Self::Function(_) => CallOutcome::FunctionError,
            Self::Instance(_) => CallOutcome::InstanceError,
            Self::TimedOut { .. } => CallOutcome::TimedOut,
        }
    }

    /// Returns what the caller may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoFunction { nearest, .. } => nearest.as_ref().map(|name| format!("did you mean {name}?")),
            Self::NotFound { .. } => Some("every function is also reached at /function/NAME".to_owned()),
            Self::MethodNotAllowed { allowed } => Some(format!("use {}", allow(*allowed))),
            Self::NoUpgrade => Some("connect to a node that `hearth get instances` shows for the function".to_owned()),
            Self::NoEvents { function } => Some(format!("send a request to /function/{function} instead")),
            Self::NoRevision(_)
            | Self::BadRequest(_)
            | Self::TooLarge { .. }
            | Self::SlowBody { .. }
            | Self::Starting { .. }
            | Self::NeverStarted { .. }
            | Self::QueueFull { .. }
            | Self::Waited { .. }
            | Self::NoCapacity { .. }
            | Self::Retired { .. }
            | Self::Removed(_)
            | Self::Function(_)
            | Self::Instance(_)
            | Self::TimedOut { .. } => None,
        }
    }

    /// Returns the answer that says so.
    pub(super) fn to_response(&self) -> Response<Bytes> {
        let body = match self {
            Self::Function(report) => report.json.clone(),
            _ => {
                let error = self.to_string();
                let body = ErrorBody { error: &error, hint: self.hint() };
                serde_json::to_vec(&body).expect("text can be written as JSON").into()
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        self.add_headers(response.headers_mut());
        response
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_TYPE, JSON);
        match self {
            Self::Function(_) => {
                headers.insert(ERROR_HEADER, HeaderValue::from_static("function"));
            }
            Self::Instance(_) => {
                headers.insert(ERROR_HEADER, HeaderValue::from_static("instance"));
            }
            Self::MethodNotAllowed { allowed } => {
                let value = HeaderValue::try_from(allow(*allowed)).expect("methods are letters");
                headers.insert(ALLOW, value);
            }
            Self::Starting { .. }
            | Self::NeverStarted { .. }
            | Self::QueueFull { .. }
            | Self::Waited { .. }
            | Self::NoCapacity { .. }
            | Self::Retired { .. }
            | Self::Removed(_) => {
                headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            Self::NoFunction { .. }
            | Self::NoRevision(_)
            | Self::NotFound { .. }
            | Self::BadRequest(_)
            | Self::TooLarge { .. }
            | Self::SlowBody { .. }
            | Self::NoEvents { .. }
            | Self::NoUpgrade
            | Self::TimedOut { .. } => {}
        }
    }
}

fn allow(methods: MethodSet) -> String {
    methods.iter().fold(String::new(), |mut text, method| {
        let separator = if text.is_empty() { "" } else { ", " };
        write!(text, "{separator}{method}").expect("a string takes what is written to it");
        text
    })
}
