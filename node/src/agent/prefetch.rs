//! Fetches images of what may run here before the first call asks for it.
//!
//! One at a time: peers have more to do than this, and what an instance waits for is fetched beside it. An image that nobody
//! gives is tried again later, as long as a revision runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{Digest, RevisionSpec, Runtime};
use control_plane::state::State;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Means;
use crate::error_chain;
use crate::image::{Capture, ImagePeers, Store};
use crate::raft::Raft;

/// How long there is between two looks at a state that changes all the time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long there is between two looks at a state that does not change: there may be peers by then.
const LOOK_LATEST: Duration = Duration::from_secs(60);

/// How long an image that did not come is left alone at first; the time doubles with each failure.
const AGAIN_MIN: Duration = Duration::from_secs(10);

/// The longest time that an image is left alone.
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Brings this node the images that it may be asked for.
pub(super) struct Prefetch {
    raft: Raft,
    images: Store,
    peers: Arc<dyn ImagePeers>,
    /// What did not come, how often, and when it is tried again.
    failed: BTreeMap<Digest, (u32, Instant)>,
    /// Whether this machine's own Python was looked at.
    has_captured: bool,
}

impl Prefetch {
    pub(super) fn new(means: &Means) -> Self {
        let (raft, images, peers) = (means.raft.clone(), means.images.clone(), Arc::clone(&means.peers));
        Self { raft, images, peers, failed: BTreeMap::new(), has_captured: false }
    }

    /// Follows the applied state until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        // A fetch that is under way is given up.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut changes = self.raft.changes();
        loop {
            changes.mark_unchanged();
            self.fetch_missing().await;
            tokio::time::sleep(LOOK_EVERY).await;
            let latest = Instant::now() + LOOK_LATEST;
            let again = self.failed.values().map(|(_, again)| *again).min().unwrap_or(latest);
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(again.min(latest)) => {}
            }
        }
    }

    /// Fetches one after the other what the state may run and is not here.
    async fn fetch_missing(&mut self) {
        if self.peers.peers().is_empty() {
            self.failed.clear();
            return;
        }
        let wanted = self.raft.read(wanted);
        self.failed.retain(|image, _| wanted.contains(image));
        for image in wanted {
            if self.images.has(&image) {
                self.failed.remove(&image);
            } else if self.failed.get(&image).is_none_or(|(_, again)| *again <= Instant::now()) {
                self.fetch(image).await;
            }
        }
        self.capture_own_python().await;
    }

    /// Captures this machine's Python once a function runs that brought its own from a peer.
    ///
    /// Equal machines have equal layers, so that what came turns out to be this machine's own, whose instances are forked.
    async fn capture_own_python(&mut self) {
        if self.has_captured {
            return;
        }
        for image in self.raft.read(of_python) {
            // What is on its way is looked at when it is here.
            if !self.images.has(&image) {
                continue;
            }
            let Ok(root) = self.images.rootfs(&image).await else { continue };
            self.has_captured = true;
            if !root.captured.is_empty() {
                return;
            }
            match self.images.capture(Capture::Python3, "python3".to_owned()).await {
                Ok(base) => tracing::debug!(%base, "captured this machine's Python"),
                Err(error) => {
                    tracing::debug!(error = error_chain::text(&error), "this machine has no Python of its own")
                }
            }
            return;
        }
    }

    async fn fetch(&mut self, image: Digest) {
        match self.images.fetch(&image, &*self.peers, Arc::new(|_| ())).await {
            Ok(built) => {
                tracing::info!(%image, bytes = built.size_bytes, "an image came from peers");
                self.failed.remove(&image);
            }
            Err(error) => {
                tracing::warn!(%image, error = error_chain::text(&*error), "an image did not come from peers");
                let (times, again) = self.failed.entry(image).or_insert((0, Instant::now()));
                *again = Instant::now() + AGAIN_MIN.saturating_mul(1 << (*times).min(6)).min(AGAIN_MAX);
                *times += 1;
            }
        }
    }
}

/// Returns every revision that may be started: live ones and candidates.
pub(super) fn startable(state: &State) -> impl Iterator<Item = &RevisionSpec> {
    let revisions = state.functions.values().flat_map(|function| {
        [function.live, function.candidate].into_iter().flatten().filter_map(|number| function.revisions.get(&number))
    });
    revisions.map(|revision| &revision.spec)
}

/// Returns the images that may be started.
fn wanted(state: &State) -> BTreeSet<Digest> {
    startable(state).map(|spec| spec.image).collect()
}

/// Returns the images of handlers in Python.
fn of_python(state: &State) -> BTreeSet<Digest> {
    startable(state).filter(|spec| spec.runtime == Runtime::Python3).map(|spec| spec.image).collect()
}

#[cfg(test)]
mod tests {
    use control_plane::model::{
        Bytes, Concurrency, Constraints, FunctionSpec, MilliCpu, Network, NodeId, Resources, Scaling,
    };
    use control_plane::raft::Timing;
    use control_plane::state::Command;

    use super::*;
    use crate::clock::Clock;
    use crate::image::Settings;
    use crate::image::tests::layer;
    use crate::image::tests::scripted::{Known, Peer, Script};
    use crate::raft;

    /// How long anything may take here; only a failure waits for it.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn function(image: Digest) -> FunctionSpec {
        let revision = RevisionSpec {
            runtime: Runtime::Http,
            image,
            command: Vec::new(),
            handler: None,
            environment: BTreeMap::new(),
            resources: Resources { cpu: MilliCpu(100), memory: Bytes(1 << 20), disk: Bytes(1 << 20), pids: 10 },
            timeout: Duration::from_secs(1),
            concurrency: Concurrency::new(1).expect("it is valid"),
            network: Network::None,
            placement: Constraints::default(),
            user: None,
        };
        let scaling = Scaling::new(0, 1, Duration::from_secs(60)).expect("it is valid");
        FunctionSpec { name: "box".parse().expect("a name"), revision, scaling, triggers: Vec::new() }
    }

    #[tokio::test]
    async fn an_image_comes_once_a_revision_runs_it() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let config = raft::Config { dir: folder.path().join("raft"), node: NodeId(1), timing: Timing::default() };
        let raft = Raft::open(config, None, Clock::system()).await.expect("it opens");
        let images = Store::open(&folder.path().join("images"), Settings::default()).expect("it opens");
        let script = Arc::new(Script::default());
        let (peer, other) = (Peer::start(2, &script).await, Peer::start(3, &script).await);
        let (wanted, unwanted) = (peer.image(&[layer(b"wanted")]), other.image(&[layer(b"unwanted")]));
        let missing = Digest::from_bytes([0; 32]);
        let deploy = async |image: Digest| {
            let app = "shop".parse().expect("a name");
            let deploy = Command::DeployApp { app, functions: vec![function(image)], check_index: None };
            raft.propose(deploy).await.expect("it is sound");
        };
        let mut prefetch = Prefetch {
            raft: raft.clone(),
            images: images.clone(),
            peers: Arc::new(Known::from([&peer, &other])),
            failed: BTreeMap::new(),
            has_captured: true,
        };
        prefetch.fetch_missing().await;
        assert!(images.list().is_empty(), "nothing runs yet");
        deploy(missing).await;
        prefetch.fetch_missing().await;
        assert_eq!(prefetch.failed.get(&missing).map(|(times, _)| *times), Some(1), "nobody has it");
        prefetch.fetch_missing().await;
        assert_eq!(prefetch.failed.get(&missing).map(|(times, _)| *times), Some(1), "it is left alone for a while");

        let stop = CancellationToken::new();
        let running = tokio::spawn(prefetch.run(stop.clone()));
        deploy(wanted).await;
        let come = async {
            while !images.has(&wanted) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, come).await.expect("it comes by itself");
        assert!(!images.has(&unwanted));
        stop.cancel();
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("it did not panic");
        raft.shutdown().await;
    }
}
