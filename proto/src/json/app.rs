//! Apps: what one manifest deploys together, and what deploying it did or would do.

use serde::{Deserialize, Serialize};

use super::{ErrorBody, FunctionSpec};

/// An app: `GET /v1/apps/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: String,
    /// Goes up whenever the app changes; `check_index` compares against it.
    pub index: u64,
    /// When it was last deployed, in milliseconds since the Unix epoch.
    pub deployed_at_ms: u64,
    /// The names of its functions.
    pub functions: Vec<String>,
}

/// Makes an app exactly these functions, all or nothing: `PUT /v1/apps/NAME`.
///
/// The answer is a stream of [`DeployEvent`]; with `detach=1` it does not wait until everything serves, with `timeout_ms` it
/// waits at most so long, else ten minutes. Functions of the app that are not listed are deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRequest {
    /// All functions of the app; every image is built or pulled already.
    pub functions: Vec<FunctionSpec>,
    /// Refuse with `conflict` unless the app's index is this; zero means the app must not exist.
    #[serde(default)]
    pub check_index: Option<u64>,
}

/// One line of the stream that answers a [`DeployRequest`].
///
/// Without `detach=1` it ends once every revised function serves or failed; with it, right after `accepted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DeployEvent {
    /// The cluster agreed on the deployment; it is durable.
    Accepted {
        /// The app's index after it.
        index: u64,
        /// What became of each function, deleted ones included.
        functions: Vec<AppliedFunction>,
    },
    /// A revision takes the traffic of its function.
    Serving(RevisionRef),
    /// A revision does not start; what served before still serves.
    Failed {
        /// The function.
        function: String,
        /// The number of the revision.
        revision: u32,
        /// Why, for people.
        reason: String,
    },
    /// Last line: everything asked for serves, or `detach` was asked for.
    Done {
        /// The app's index at the end.
        index: u64,
    },
    /// Last line: not everything serves: a revision failed, or the wait ran out.
    Error(ErrorBody),
}

/// One revision of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionRef {
    /// The function.
    pub function: String,
    /// The number of the revision.
    pub revision: u32,
}

/// What a deployment did to one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedFunction {
    /// The function.
    pub name: String,
    /// Its newest revision; none once it is deleted.
    pub revision: Option<u32>,
    /// What happened.
    pub change: Change,
}

/// What happens to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It did not exist before.
    Created,
    /// It has another revision.
    Revised,
    /// Only scaling or triggers change.
    Adjusted,
    /// Nothing changes.
    Unchanged,
    /// It goes.
    Deleted,
}

/// Asks what a deployment would change: `POST /v1/apps/NAME/plan`. Nothing is built or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// All functions of the app. Where `revision.image` is none, the code is not compared.
    pub functions: Vec<FunctionSpec>,
}

/// What a deployment would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The app.
    pub app: String,
    /// Its index, to be given as `check_index` when the plan is carried out; zero while the app does not exist.
    pub index: u64,
    /// Every function of the app, before and after, by name.
    pub functions: Vec<FunctionDiff>,
}

/// What a deployment would change of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionDiff {
    /// The function.
    pub name: String,
    /// What would happen to it.
    pub change: Change,
    /// The fields that differ, by path; all fields for a created function, none for a deleted one.
    pub fields: Vec<FieldDiff>,
}

/// One field that would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldDiff {
    /// Where it is in a [`FunctionSpec`], for example `revision.resources.memory_bytes`.
    pub path: String,
    /// Its value before as compact JSON; none if it was not there.
    pub before: Option<String>,
    /// Its value after as compact JSON; none if it would not be there.
    pub after: Option<String>,
}
