//! The operator's HTTP API: `/v1`, and what machines ask: `/metrics`, `/healthz`, `/readyz`.
//!
//! It is served on a Unix socket, where the file's mode says who may call, and over TCP, where callers show a token. The bodies
//! are those of [`proto::json`]; errors have one shape and one table of codes, [`ErrorCode`](proto::json::ErrorCode). Whatever
//! the API does goes through [`Platform`]; it keeps nothing itself.

mod app;
pub mod body;
mod cluster;
mod diff;
mod error;
mod function;
mod image;
mod log;
mod node;
pub mod platform;
mod request;
mod routes;
mod server;
mod snapshot;
mod stream;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use control_plane::model::{FunctionName, RevisionNumber};
use control_plane::state::{Command, Reply};
use proto::json::{ErrorCode, Event, EventKind};

use crate::clock::Clock;
use crate::telemetry::logs::LogStore;
use crate::telemetry::{EventLog, Metrics};
use error::Refusal;
pub use log::{LINES_DEFAULT, LINES_MAX};
pub use platform::{
    Build, Identity, ImageResult, Import, Invocation, InvokeOutcome, Invoked, Platform, ProposeError, Running,
    Standing, StoredImage, Upload,
};
pub use request::{BODY_MAX_BYTES, BODY_PIECE_WAIT_MAX, DEPLOY_BODY_MAX_BYTES};
pub use server::{CONNECTIONS_MAX, ServeError, Server};

/// The description of the API in OpenAPI 3.1; a test holds it equal to the routes and the bodies.
pub const OPENAPI: &str = include_str!("openapi.json");

/// How large what comes in may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest upload of a source, in bytes of tar.
    pub upload_max_bytes: u64,
    /// The largest upload of an image, in bytes.
    pub image_max_bytes: u64,
    /// The largest event of an invocation, in bytes.
    pub payload_max_bytes: u64,
}

/// What requests are answered with; cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The node.
    pub platform: Arc<dyn Platform>,
    /// What functions wrote.
    pub logs: LogStore,
    /// What happened lately.
    pub events: EventLog,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What time it is.
    pub clock: Clock,
    /// A folder of its own for uploads on their way to the builder; what a crash leaves there may be deleted.
    pub uploads: Arc<PathBuf>,
    /// How large what comes in may be.
    pub limits: Limits,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("uploads", &self.uploads).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Api {
    /// Proposes a command that is answered with an index.
    async fn change(&self, command: Command) -> Result<u64, Refusal> {
        match self.platform.propose(command).await? {
            Reply::Done { index } | Reply::Deployed { index, .. } => Ok(index),
            reply @ (Reply::Admitted { .. }
            | Reply::Registered { .. }
            | Reply::Placed { .. }
            | Reply::PlacedMany { .. }) => {
                Err(Refusal::new(ErrorCode::Internal, format!("a change was answered with {reply:?}")))
            }
        }
    }

    /// Waits until what is read next holds all that was acknowledged before.
    async fn catch_up(&self) -> Result<(), Refusal> {
        self.platform.catch_up().await.map_err(|reason| {
            Refusal::new(ErrorCode::Unavailable, format!("the cluster cannot say what holds: {reason}"))
                .hint("`hearth cluster status` tells who is there")
        })
    }

    /// Remembers that something was done here.
    fn tell(&self, kind: EventKind, about: Option<(&FunctionName, Option<RevisionNumber>)>, message: String) {
        self.events.push(Event {
            at_ms: self.clock.now().as_millis(),
            kind,
            node: self.platform.identity().node.to_string(),
            about: None,
            function: about.map(|(function, _)| function.to_string()),
            revision: about.and_then(|(_, revision)| revision).map(|number| number.0),
            instance: None,
            message,
        });
    }
}
