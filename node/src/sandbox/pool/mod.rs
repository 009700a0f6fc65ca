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
use super::{LaunchError, LaunchRequest, Sandbox, Start, ZygoteSpec};

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
    /// Blank sandboxes of an earlier daemon are ended.
    pub fn start(config: Config) -> Result<(Self, Vec<Sandbox>), StartError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StartError::NotRoot);
        }
        let version = version().ok_or(StartError::NoCgroups)?;
        let layout = Layout::new(config.run_dir.clone());
        layout.prepare().map_err(|source| StartError::RunDir { path: config.run_dir.clone(), source })?;
        let known = Known::default();
        let adopted = adopt(&config, &layout, version, &known);
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
                state: LaneState::default(),
            };
            task.connect_now().map_err(StartError::Spawner).map(|task| {
                tasks.push(tokio::spawn(task.run(waiting, stop.clone())));
                spawners.push(Lane { launches, load });
            })?;
        }
        let next = AtomicUsize::new(0);
        let shared = Shared { config, layout, version, spawners, tasks: Mutex::new(tasks), stop, next, zygote };
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
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        let count = self.0.spawners.len();
        // The lane with the least to do, one with a blank sandbox before one without.
        let lane = (0..count)
            .map(|offset| &self.0.spawners[(turn + offset) % count])
            .min_by_key(|lane| {
                let pending = lane.load.pending.load(Ordering::Relaxed);
                (pending, lane.load.blanks.load(Ordering::Relaxed) == 0)
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

    /// Returns how many blank sandboxes are ready.
    pub fn blank_count(&self) -> usize {
        self.0.spawners.iter().map(|lane| lane.load.blanks.load(Ordering::Relaxed)).sum()
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
        // Gone once nothing runs in it any more.
        Cgroup::new(self.0.version, &self.0.config.cgroup_parent).remove();
    }
}
