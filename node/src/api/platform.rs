//! What the API needs of the rest of the node: one trait, so that tests serve the API without a node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use control_plane::model::{AppName, Digest, FunctionName, NodeId, RevisionNumber, Timestamp};
use control_plane::state::{Command, Rejection, Reply, State};
use futures_util::future::BoxFuture;
use proto::json;
use tokio::sync::{mpsc, watch};

use crate::auth::ClusterId;
use crate::image::ImageFile;
use crate::raft::Members;

/// The node behind the API.
pub trait Platform: Send + Sync + 'static {
    /// Proposes a command, and answers once it is applied on this node.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, ProposeError>>;

    /// Waits until this node has applied all that was acknowledged anywhere before the call; says why it cannot know.
    fn catch_up(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Shows the state as far as this node has applied it; `look` must be short, because it holds up applying.
    fn look(&self, look: &mut dyn FnMut(&State));

    /// Returns a channel that changes whenever more of the log is applied.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Returns who this node is.
    fn identity(&self) -> Identity;

    /// Returns what this node knows of its cluster beside the state.
    fn standing(&self) -> Standing;

    /// Lets another voter lead, whoever leads now; returns who that is.
    fn transfer_leader(&self, to: Option<NodeId>) -> BoxFuture<'_, Result<NodeId, json::ErrorBody>>;

    /// Returns the node that leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId>;

    /// Returns what the node still waits for before it serves; empty once it does.
    fn unready(&self) -> Vec<String>;

    /// Returns the instances on all nodes that live, as far as they answer.
    fn instances(&self) -> BoxFuture<'_, Running>;

    /// Builds the image of a function.
    ///
    /// Dropping the future gives the build up and leaves nothing half-done. Progress that finds the channel full is lost.
    fn build(&self, build: Build, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult>;

    /// Fetches an image from a registry; the reference is as the client wrote it. For progress and dropping see
    /// [`build`](Self::build).
    fn pull(&self, reference: String, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult>;

    /// Imports an OCI layout. For progress and dropping see [`build`](Self::build).
    fn import(&self, import: Import, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult>;

    /// Makes a base image of what the machine has. For progress and dropping see [`build`](Self::build).
    fn capture(
        &self,
        request: json::CaptureRequest,
        progress: mpsc::Sender<json::ImageEvent>,
    ) -> BoxFuture<'_, ImageResult>;

    /// Returns the images in the store, each with the remembered revisions that need it.
    fn images(&self) -> BoxFuture<'_, Result<Vec<json::Image>, json::ErrorBody>>;

    /// Returns whether an image is in the store.
    fn has_image(&self, image: Digest) -> BoxFuture<'_, bool>;

    /// Deletes images that no revision runs and no name leads to.
    fn sweep_images(&self) -> BoxFuture<'_, Result<json::GcReport, json::ErrorBody>>;

    /// Returns the files of an image, which is fetched from peers if it is not here; none if nobody has it.
    fn image_files(&self, image: Digest) -> BoxFuture<'_, Result<Option<Vec<ImageFile>>, json::ErrorBody>>;

    /// Brings an image into the store out of an OCI layout in a folder; its tag there is its digest.
    fn take_image(&self, layout: PathBuf, image: Digest) -> BoxFuture<'_, Result<(), json::ErrorBody>>;

    /// Calls a function with an event; ends within the deadline of the invocation.
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Invoked>;
}

impl dyn Platform {
    /// Returns what `look` finds in the state as far as this node has applied it.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        let mut look = Some(look);
        let mut found = None;
        self.look(&mut |state| {
            if let Some(look) = look.take() {
                found = Some(look(state));
            }
        });
        found.expect("a platform shows its state when it is asked to")
    }
}

/// What runs on the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The instances, by node and id.
    pub instances: Vec<json::Instance>,
    /// The nodes that count as living and did not answer: what runs there is missing.
    pub silent: Vec<NodeId>,
}

/// Why a command was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state refused it; nothing has changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nobody could take it; nothing has changed.
    #[error("the cluster cannot decide: {0}")]
    Unavailable(String),
    /// The disk is full; nothing has changed.
    #[error("the disk of the data directory is full")]
    DiskFull,
    /// No answer came in time; it may still be applied.
    #[error("the cluster did not answer in time, the change may still happen")]
    Timeout,
}

/// Who a node is, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// The name people call it by.
    pub name: String,
    /// Where its gateway listens.
    pub gateway: SocketAddr,
    /// Where its API listens.
    pub api: SocketAddr,
}

/// What a node knows of its cluster beside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The cluster.
    pub cluster: ClusterId,
    /// The digest of its authority's certificate, which join tokens carry.
    pub authority: Digest,
    /// When the certificate ends that this node shows to others.
    pub certificate_end: Timestamp,
    /// Where this node is reached by others.
    pub address: String,
    /// The election in which the leader was chosen.
    pub term: u64,
    /// Who votes, who follows, and where each is reached.
    pub members: Members,
}

/// One build as the API hands it over.
#[derive(Debug)]
pub struct Build {
    /// The app the function belongs to.
    pub app: AppName,
    /// The function.
    pub function: FunctionName,
    /// What its manifest says about building it.
    pub request: json::BuildRequest,
    /// The source.
    pub source: Upload,
}

/// One OCI layout as the API hands it over.
#[derive(Debug)]
pub struct Import {
    /// A tar of it.
    pub layout: Upload,
    /// Which of its images.
    pub tag: Option<String>,
    /// The name that leads to it afterwards.
    pub name: Option<String>,
}

/// A tar as it was uploaded, in a file that goes away when this is dropped. Nothing about its content has been checked but
/// its length.
#[derive(Debug)]
pub struct Upload {
    path: PathBuf,
    length: u64,
}

impl Upload {
    /// Takes charge of the file at `path`.
    pub fn new(path: PathBuf, length: u64) -> Self {
        Self { path, length }
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn set_length(&mut self, length: u64) {
        self.length = length;
    }

    /// Returns its length, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an upload was left behind");
        }
    }
}

/// What became of a build, a pull or a capture.
pub type ImageResult = Result<StoredImage, json::ErrorBody>;

/// An image that is in the store, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// It was there already.
    pub reused: bool,
    /// The size of its blobs.
    pub size_bytes: u64,
}

/// A call of a function by its name.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The function.
    pub function: FunctionName,
    /// The revision; none means the live one.
    pub revision: Option<RevisionNumber>,
    /// The event, in JSON.
    pub payload: Bytes,
    /// How long to wait for an answer at most; the function's own timeout applies too.
    pub deadline: Option<Duration>,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Invoked {
    /// The id under which it is logged; none if it was refused before it got one.
    pub request_id: Option<String>,
    /// The revision that answered.
    pub revision: Option<RevisionNumber>,
    /// The answer.
    pub outcome: InvokeOutcome,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvokeOutcome {
    /// The function's answer, in JSON.
    Answered(Bytes),
    /// The function raised: `{errorType, errorMessage, stackTrace}` in JSON.
    Raised(Bytes),
    /// The instance died or broke the contract; or the call was refused, timed out, or there is no such function. The code
    /// tells which.
    Failed(json::ErrorBody),
}
