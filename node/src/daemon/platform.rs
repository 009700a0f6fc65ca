//! The node behind its API.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{Digest, NodeId};
use control_plane::state::{Command, Reply, State};
use futures_util::future::{BoxFuture, FutureExt};
use proto::json::{self, ErrorBody, ErrorCode};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::image_work;
use super::readiness::Readiness;
use super::room::Room;
use crate::agent::SandboxTools;
use crate::api::{
    Build, Identity, ImageResult, Import, Invocation, InvokeOutcome, Invoked, Platform, ProposeError, Running, Standing,
};
use crate::cluster::Cluster;
use crate::gateway::{CallFailure, CallOutcome, Gateway};
use crate::image::{ImageFile, Store};
use crate::raft::{self, MembersError, Raft};
use crate::telemetry::Metrics;

/// How long an invocation from the API waits at most, beside the function's own timeout.
const INVOKE_MAX: Duration = Duration::from_secs(1000);

/// This node.
pub(super) struct Local {
    pub(super) raft: Raft,
    pub(super) cluster: Cluster,
    pub(super) gateway: Gateway,
    pub(super) readiness: Readiness,
    pub(super) room: Room,
    pub(super) metrics: Arc<Metrics>,
    pub(super) images: Store,
    pub(super) tools: SandboxTools,
    pub(super) identity: Identity,
    /// Where sources are unpacked for a build.
    pub(super) work: PathBuf,
}

impl Platform for Local {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, ProposeError>> {
        async move {
            // What nodes and the leader themselves propose still has room in the log's segments, and so has what makes room.
            let makes_room = matches!(command, Command::DeleteApp { .. } | Command::DeleteFunction { .. });
            if !makes_room && !self.room.is_left() {
                return Err(ProposeError::DiskFull);
            }
            let began = Instant::now();
            let proposed = self.raft.propose(command).await;
            self.metrics.raft_commit_latency.observe(began.elapsed().as_secs_f64());
            proposed.map_err(|error| match error {
                raft::ProposeError::Rejected(rejection) => ProposeError::Rejected(rejection),
                raft::ProposeError::Timeout | raft::ProposeError::Lost(_) => ProposeError::Timeout,
                raft::ProposeError::Unavailable(reason) | raft::ProposeError::Stopped(reason) => {
                    ProposeError::Unavailable(reason)
                }
            })
        }
        .boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<(), String>> {
        async move { self.raft.catch_up().await.map_err(|error| error.to_string()) }.boxed()
    }

    fn look(&self, look: &mut dyn FnMut(&State)) {
        self.raft.read(|state| look(state));
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.raft.changes()
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn leader(&self) -> Option<NodeId> {
        self.raft.members().leader
    }

    fn unready(&self) -> Vec<String> {
        let mut reasons = self.readiness.unready();
        if self.leader().is_none() {
            reasons.push("no leader is known".to_owned());
        }
        if self.raft.read(|state| state.removed.contains(&self.identity.node)) {
            reasons.push("the node was removed from its cluster".to_owned());
        }
        reasons
    }

    fn instances(&self) -> BoxFuture<'_, Running> {
        self.cluster.instances().boxed()
    }

    fn standing(&self) -> Standing {
        Standing {
            cluster: self.cluster.peer().cluster,
            authority: self.cluster.authority(),
            certificate_end: self.cluster.certificate_end(),
            address: self.cluster.address().to_owned(),
            term: self.raft.metrics().term,
            members: self.raft.members(),
        }
    }

    fn transfer_leader(&self, to: Option<NodeId>) -> BoxFuture<'_, Result<NodeId, ErrorBody>> {
        async move {
            self.cluster.transfer_leader(to).await.map_err(|error| {
                let code = match &error {
                    MembersError::Refused(_) => ErrorCode::Conflict,
                    MembersError::Timeout(_) => ErrorCode::Timeout,
                    MembersError::NotLeader { .. } | MembersError::Stopped(_) => ErrorCode::Unavailable,
                };
                ErrorBody::new(code, error.to_string())
            })
        }
        .boxed()
    }

    fn build(&self, build: Build, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        async move {
            self.check_room()?;
            image_work::build(&self.images, &self.tools, &self.work, build, progress).await
        }
        .boxed()
    }

    fn pull(&self, reference: String, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        image_work::pull(&self.images, reference, progress).boxed()
    }

    fn import(&self, import: Import, progress: mpsc::Sender<json::ImageEvent>) -> BoxFuture<'_, ImageResult> {
        image_work::import(&self.images, &self.work, import, progress).boxed()
    }

    fn capture(
        &self,
        request: json::CaptureRequest,
        progress: mpsc::Sender<json::ImageEvent>,
    ) -> BoxFuture<'_, ImageResult> {
        async move {
            self.check_room()?;
            image_work::capture(&self.images, request, progress).await
        }
        .boxed()
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<json::Image>, ErrorBody>> {
        let revisions: Vec<(String, Digest)> = self.raft.read(|state| {
            let all = state.functions.iter().flat_map(|(name, function)| {
                function
                    .revisions
                    .iter()
                    .map(move |(number, revision)| (format!("{name}@{number}"), revision.spec.image))
            });
            all.collect()
        });
        let images = self.images.clone();
        async move {
            let listed = tokio::task::spawn_blocking(move || image_work::list(&images, &revisions)).await;
            listed.map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))
        }
        .boxed()
    }

    fn has_image(&self, image: Digest) -> BoxFuture<'_, bool> {
        async move { self.images.has(&image) }.boxed()
    }

    fn sweep_images(&self) -> BoxFuture<'_, Result<json::GcReport, ErrorBody>> {
        let live = self.raft.read(|state| {
            let revisions = state.functions.values().flat_map(|function| function.revisions.values());
            revisions.map(|revision| revision.spec.image).collect()
        });
        image_work::sweep(&self.images, live).boxed()
    }

    fn image_files(&self, image: Digest) -> BoxFuture<'_, Result<Option<Vec<ImageFile>>, ErrorBody>> {
        image_work::files(&self.images, &self.cluster, image).boxed()
    }

    fn take_image(&self, layout: PathBuf, image: Digest) -> BoxFuture<'_, Result<(), ErrorBody>> {
        image_work::take(&self.images, layout, image).boxed()
    }

    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Invoked> {
        async move {
            let deadline = Instant::now() + invocation.deadline.unwrap_or(INVOKE_MAX).min(INVOKE_MAX);
            let name = invocation.function.as_str();
            let done = self.gateway.invoke(name, invocation.revision, invocation.payload, deadline).await;
            let outcome = match done.result {
                Ok(answer) => InvokeOutcome::Answered(answer),
                Err(CallFailure::Function(report)) => InvokeOutcome::Raised(report.json),
                Err(failure) => InvokeOutcome::Failed(failed(&failure)),
            };
            let revision = done.revision.map(|revision| revision.number);
            Invoked { request_id: Some(done.request_id.to_string()), revision, outcome }
        }
        .boxed()
    }
}

impl Local {
    /// Refuses what would fill the disk.
    fn check_room(&self) -> Result<(), ErrorBody> {
        if self.room.is_left() {
            return Ok(());
        }
        let told = "the disk of the data directory is full";
        Err(ErrorBody::new(ErrorCode::DiskFull, told).hint("make room there: `hearth image gc`, `hearth delete`"))
    }
}

/// Returns a failed call as the API tells it.
fn failed(failure: &CallFailure) -> ErrorBody {
    let code = match (failure.outcome(), failure.status().as_u16()) {
        (_, 404) => ErrorCode::NotFound,
        (_, 413) => ErrorCode::TooLarge,
        (_, 429) => ErrorCode::LimitReached,
        (CallOutcome::TimedOut, _) => ErrorCode::Timeout,
        (CallOutcome::Refused, _) => ErrorCode::Unavailable,
        (CallOutcome::BadRequest, _) => ErrorCode::BadRequest,
        (CallOutcome::FunctionError, _) => ErrorCode::FunctionFailed,
        (CallOutcome::InstanceError | CallOutcome::Cancelled | CallOutcome::Answered, _) => ErrorCode::InstanceFailed,
    };
    ErrorBody { error: failure.to_string(), hint: failure.hint(), code }
}
