//! The bodies of the operator's HTTP API, shared by the server and its clients.
//!
//! Names are `snake_case` and stable: fields are added, never renamed or given another meaning. A reader passes over fields
//! it does not know, so a client works with a newer node; the server refuses requests with fields it does not know.
//! Quantities carry their unit in the name: `_ms` and `_us` since the Unix epoch or as durations, `_bytes`, `_milli`.
//!
//! Streams are newline-delimited JSON ([`NDJSON`]): one value per line, and a last line that says how it ended. A stream
//! that ends without such a line was cut off. Empty lines only show that the server is still there.
//!
//! `POST /v1/functions/FN/invoke?revision=&timeout_ms=` has no body of its own: the event goes in and the answer comes out as
//! they are. Its answer says in [`ERROR_HEADER`] whose failure it was: with `function` the body is
//! `{errorType, errorMessage, stackTrace}`, else an [`ErrorBody`].

mod app;
mod cluster;
mod error;
mod event;
mod function;
mod image;
mod instance;
mod log;
mod node;
mod snapshot;

pub use app::{
    App, AppliedFunction, Change, DeployEvent, DeployRequest, FieldDiff, FunctionDiff, Plan, PlanRequest, RevisionRef,
};
pub use cluster::{
    Cluster, DrainRequest, JoinToken, LabelRequest, Leader, Member, NodeLabels, NodeStatus, Role, TokenRequest,
    TransferRequest,
};
pub use error::{ErrorBody, ErrorCode};
pub use event::{Event, EventKind};
pub use function::{
    Function, FunctionPhase, FunctionSpec, HttpTrigger, Network, Placement, Resources, Revision, RevisionPhase,
    RevisionSpec, RollbackRequest, Runtime, ScaleRequest, Scaling, Spread, Trigger,
};
pub use image::{BuildRequest, CaptureRequest, GcReport, Image, ImageEvent, PullRequest};
pub use instance::{Instance, InstancePhase, Purpose};
pub use log::{LogLine, LogStream};
pub use node::{Done, Node, Readiness, Version};
pub use snapshot::{MissingImage, Restored, Snapshot, SnapshotImage};

/// The media type of streams: one JSON value per line.
pub const NDJSON: &str = "application/x-ndjson";

/// The request header of a build: the standard base64 of a [`BuildRequest`] in JSON.
pub const BUILD_HEADER: &str = "x-hearth-build";

/// The response header that tells whose failure it was: `function`, `instance` or `platform`.
pub const ERROR_HEADER: &str = "x-hearth-error";

/// The response header with the request's id: 32 hexadecimal digits.
pub const REQUEST_ID_HEADER: &str = "x-hearth-request-id";

/// The response header with the number of the revision that answered.
pub const REVISION_HEADER: &str = "x-hearth-revision";
