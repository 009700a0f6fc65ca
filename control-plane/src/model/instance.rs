//! How instances begin and end.

use std::fmt;

/// Why an instance exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A call asked for it; it goes once it has been idle long enough.
    Demand,
    /// It proves that a revision starts, and then serves like one on demand.
    Verify,
    /// It is one of the function's minimum and stays while idle.
    Minimum,
}

/// Why an instance failed, as the caller, the log and the revision's status tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceFailure {
    /// The image or the sandbox could not be made; the text says what the node could not do.
    Sandbox(String),
    /// The function's own code failed before it was ready; the text is its error.
    Init(String),
    /// It was not ready in time.
    InitTimeout,
    /// Its process ended by itself with this exit code, or by a signal (negative), or unknown.
    Exited(Option<i32>),
    /// The kernel ended it for going over its memory limit.
    OutOfMemory,
}

impl fmt::Display for InstanceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(reason) => write!(f, "the sandbox could not be made: {reason}"),
            Self::Init(reason) => write!(f, "the function failed to start: {reason}"),
            Self::InitTimeout => f.write_str("the function was not ready in time"),
            Self::Exited(Some(code)) if *code < 0 => {
                write!(f, "the process was ended by signal {}", -code)
            }
            Self::Exited(Some(code)) => write!(f, "the process exited with code {code}"),
            Self::Exited(None) => f.write_str("the process ended"),
            Self::OutOfMemory => f.write_str("the process went over its memory limit"),
        }
    }
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to stop and did.
    Stopped,
    /// It failed.
    Failed(InstanceFailure),
    /// Its node came back without it.
    Lost,
}
