//! The one shape of errors, and what each code means to HTTP and to the command line.

use serde::{Deserialize, Serialize};

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, for people: lower case, without a full stop.
    pub error: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong, for programs.
    pub code: ErrorCode,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $status:literal, $exit:literal;)+) => {
        /// The kinds of errors.
        ///
        /// A code decides the HTTP status and the exit code of the command line; this is the only table of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)+
            /// A code of a newer node that this client does not know.
            #[serde(other)]
            Unknown,
        }

        impl ErrorCode {
            /// Every code a node sends.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Returns the name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unknown => "unknown",
                }
            }

            /// Returns the status of the HTTP answer.
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)+
                    Self::Unknown => 500,
                }
            }

            /// Returns the exit code of the command line.
            pub const fn exit_code(self) -> u8 {
                match self {
                    $(Self::$variant => $exit,)+
                    Self::Unknown => 1,
                }
            }
        }
    };
}

codes! {
    /// The request is malformed: its JSON, a name, a quantity, a parameter.
    BadRequest, "bad_request", 400, 2;
    /// No token, or none this node knows.
    Unauthenticated, "unauthenticated", 401, 5;
    /// The caller is known and may not do this.
    Denied, "denied", 403, 5;
    /// No such app, function, revision, instance, image or path.
    NotFound, "not_found", 404, 3;
    /// The path exists, with other methods.
    MethodNotAllowed, "method_not_allowed", 405, 2;
    /// What is there contradicts the request: the index changed, a name or a route is taken.
    Conflict, "conflict", 409, 4;
    /// A body or an upload is over its limit.
    TooLarge, "too_large", 413, 2;
    /// A source could not be built; the text is the builder's reason.
    BuildFailed, "build_failed", 422, 1;
    /// A language that the function needs is not installed on the node.
    LanguageMissing, "language_missing", 422, 1;
    /// A revision does not start; what served before still serves.
    RevisionFailed, "revision_failed", 422, 1;
    /// Content does not have the digest it was asked for by.
    VerificationFailed, "verification_failed", 422, 9;
    /// A limit is reached; trying later may help.
    LimitReached, "limit_reached", 429, 1;
    /// The node failed in a way that its log tells.
    Internal, "internal", 500, 1;
    /// The function raised an error.
    FunctionFailed, "function_failed", 502, 8;
    /// The instance died or broke the contract.
    InstanceFailed, "instance_failed", 502, 8;
    /// No quorum, no capacity, or the node is starting or stopping.
    Unavailable, "unavailable", 503, 7;
    /// It took longer than allowed.
    Timeout, "timeout", 504, 6;
    /// The disk of the node is full; nothing was changed.
    DiskFull, "disk_full", 507, 1;
}

impl ErrorBody {
    /// Makes an error without a hint.
    pub fn new(code: ErrorCode, error: impl Into<String>) -> Self {
        Self { error: error.into(), hint: None, code }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
