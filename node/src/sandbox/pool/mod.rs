//! Sandboxes made before they are needed, and the way from a request to a running one.
//!
//! Each spawner has a task that owns it and its blank sandboxes (`lane.rs`). Launches come first; the pool is filled again once a spawner
//! has had nothing to launch for a moment, so that filling never stands in the way of a burst.

mod adopt;
mod lane;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::adopt::{adopt, remove_leftover};
use self::lane::{LaneState, LaneTask, Launch, Load};
use super::cgroup::{Cgroup, Version, version};
use super::layout::Layout;
use super::process::Known;
use super::{Kept, LaunchError, LaunchRequest, Network, Sandbox, Start, ZygoteSpec};
use crate::error_chain;
use crate::net::{self, Egress};

/// Launches that may wait for one spawner.
const LAUNCHES_MAX: usize = 4096;

/// What sandboxes are made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where what lives as long as the machine goes: on tmpfs, not shared with another daemon.
    pub run_dir: PathBuf,
    /// The executable that has the hidden subcommand.
    pub executable: PathBuf,
    /// How many spawners: one for each core.
    pub spawners: usize,
    /// How many blank sandboxes are kept.
    pub pool_size: usize,
    /// The cgroup below which each sandbox has its own, without a leading slash; not shared with another daemon.
    pub cgroup_parent: String,
    /// How those reach out that may.
    pub egress: net::Config,
}

/// Why sandboxes cannot be made here.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The process may not make containers.
    #[error("containers need root")]
    NotRoot,
    /// No cgroups are mounted.
    #[error("no cgroups are mounted at /sys/fs/cgroup")]
    NoCgroups,
    /// The run directory cannot be made.
    #[error("the run directory {path} cannot be made")]
    RunDir {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A spawner cannot be started.
    #[error("a spawner cannot be started")]
    Spawner(#[source] io::Error),
}

/// The sandboxes of a node.
#[derive(Clone, Debug)]
pub struct Sandboxes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    layout: Layout,
    version: Version,
    spawners: Vec<Lane>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    next: AtomicUsize,
    zygote: watch::Sender<Option<ZygoteSpec>>,
    egress: Egress,
}

/// The way to one spawner's task.
#[derive(Debug)]
struct Lane {
    launches: mpsc::Sender<Launch>,
    load: Arc<Load>,
}

impl Sandboxes {
    /// Starts the spawners and returns what was running here before: instances that outlived their daemon.
    ///
    /// Blank sandboxes of an earlier daemon are ended, and its way out is taken away unless one of its instances uses it.
    pub fn start(config: Config) -> Result<(Self, Vec<Sandbox>), StartError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StartError::NotRoot);
        }
        let version = version().ok_or(StartError::NoCgroups)?;
        let layout = Layout::new(config.run_dir.clone());
        layout.prepare().map_err(|source| StartError::RunDir { path: config.run_dir.clone(), source })?;
        let known = Known::default();
        let adopted = adopt(&config, &layout, version, &known);
        let egress = Egress::new(config.egress.clone());
        if uses_egress(&layout) {
            expect(egress.clone());
        } else {
            egress.sweep_leftovers();
        }
        let share = config.pool_size.div_ceil(config.spawners.max(1));
        let stop = CancellationToken::new();
        let zygote = watch::Sender::new(None);
        let mut spawners = Vec::new();
        let mut tasks = Vec::new();
        for number in 0..config.spawners.max(1) {
            let (launches, waiting) = mpsc::channel(LAUNCHES_MAX);
            let load = Arc::new(Load::default());
            let task = LaneTask {
                number,
                share,
                config: config.clone(),
                layout: layout.clone(),
                version,
                load: Arc::clone(&load),
                known: known.clone(),
                zygote: zygote.subscribe(),
                wiring: egress.wiring(),
                egress_layer: egress.layer(),
                state: LaneState::default(),
            };
            task.connect_now().map_err(StartError::Spawner).map(|task| {
                tasks.push(tokio::spawn(task.run(waiting, stop.clone())));
                spawners.push(Lane { launches, load });
            })?;
        }
        let next = AtomicUsize::new(0);
        let shared = Shared { config, layout, version, spawners, tasks: Mutex::new(tasks), stop, next, zygote, egress };
        Ok((Self(Arc::new(shared)), adopted))
    }

    /// Starts a sandbox; returns once its process was told to begin.
    pub async fn launch(&self, request: LaunchRequest) -> Result<Sandbox, LaunchError> {
        if let Start::Zygote(spec) = &request.start {
            self.0.zygote.send_if_modified(|wanted| {
                let is_other = wanted.as_ref() != Some(spec);
                if is_other {
                    *wanted = Some(spec.clone());
                }
                is_other
            });
        }
        if request.network == Network::Egress {
            self.0.egress.open().await?;
        }
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        let count = self.0.spawners.len();
        // The lane with the least to do, one with a blank sandbox before one without.
        let lane = (0..count)
            .map(|offset| &self.0.spawners[(turn + offset) % count])
            .min_by_key(|lane| {
                let pending = lane.load.pending.load(Ordering::Relaxed);
                (pending, lane.load.blanks(request.network) == 0)
            })
            .ok_or(LaunchError::ShutDown)?;
        let (reply, answer) = oneshot::channel();
        lane.load.pending.fetch_add(1, Ordering::Relaxed);
        let sent = lane.launches.send(Launch { request, reply }).await;
        if sent.is_err() {
            lane.load.pending.fetch_sub(1, Ordering::Relaxed);
            return Err(LaunchError::ShutDown);
        }
        answer.await.map_err(|_| LaunchError::ShutDown)?
    }

    /// Returns how many blank sandboxes for a network are ready.
    pub fn blank_count(&self, network: Network) -> usize {
        self.0.spawners.iter().map(|lane| lane.load.blanks(network)).sum()
    }

    /// Makes a way out, and blank sandboxes that have one, before the first is asked for.
    ///
    /// Should that fail, it is told to whoever asks for one.
    pub fn expect_egress(&self) {
        expect(self.0.egress.clone());
    }

    /// Ends the spawners and the blank sandboxes; running sandboxes go on.
    pub async fn shutdown(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().expect("no holder of this lock panics"));
        // A spawner in the middle of a container finishes it first.
        self.0.stop.cancel();
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a spawner's task ended by a panic");
            }
        }
        for name in self.0.layout.names() {
            if !self.0.layout.slot(&name).join("kept.json").exists() {
                remove_leftover(&self.0.config, &self.0.layout, self.0.version, &name);
            }
        }
        self.0.egress.close(uses_egress(&self.0.layout)).await;
        // Gone once nothing runs in it any more.
        Cgroup::new(self.0.version, &self.0.config.cgroup_parent).remove();
    }
}

/// Opens a way out without waiting for it.
fn expect(egress: Egress) {
    tokio::spawn(async move {
        if let Err(error) = egress.open().await {
            tracing::warn!(error = error_chain::text(&error), "functions with a way out cannot start");
        }
    });
}

/// Returns whether a sandbox that goes on has a way out.
fn uses_egress(layout: &Layout) -> bool {
    let network = |slot: &String| Kept::read(layout, slot).map(|kept| kept.network);
    layout.names().iter().any(|slot| network(slot) == Some(Network::Egress))
}
