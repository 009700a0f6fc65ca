//! Sandboxes made before they are needed, and the way from a request to a running one.
//!
//! Each spawner has a task that owns it and its blank sandboxes. Launches come first; the pool is filled again once a spawner
//! has had nothing to launch for a moment, so that filling never stands in the way of a burst.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cgroup::{Cgroup, Version, version};
use super::layout::Layout;
use super::process::{Known, Process as Child, reap_strangers};
use super::protocol::{Answer, CgroupLimits, Request, Workload};
use super::spawner_link::{ANSWER_MAX, AskError, SpawnerLink};
use super::{Kept, LaunchError, LaunchRequest, Network, Output, Sandbox, loopback};

/// Counts the sandboxes of this process, so that no two have the same name.
static SLOTS: AtomicUsize = AtomicUsize::new(1);

/// How long a spawner has nothing to launch before it fills its share of the pool.
const QUIET: Duration = Duration::from_millis(30);

/// How long a spawner that failed to make a blank sandbox rests before it tries again.
const REST: Duration = Duration::from_secs(1);

/// Launches that may wait for one spawner.
const LAUNCHES_MAX: usize = 4096;

/// How many sandboxes a spawner makes before another takes its place.
const SPAWNER_CREATES_MAX: u32 = 2_000;

/// How long the last processes of an ended sandbox may hold its cgroups.
const LEFTOVER_MAX: Duration = Duration::from_secs(5);

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
}

/// The way to one spawner's task.
#[derive(Debug)]
struct Lane {
    launches: mpsc::Sender<Launch>,
    load: Arc<Load>,
}

/// What a lane has to do and has ready.
#[derive(Debug, Default)]
struct Load {
    pending: AtomicUsize,
    blanks: AtomicUsize,
}

struct Launch {
    request: LaunchRequest,
    reply: oneshot::Sender<Result<Sandbox, LaunchError>>,
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
                link: None,
                blanks: Vec::new(),
                created: 0,
            };
            task.connect_now().map_err(StartError::Spawner).map(|task| {
                tasks.push(tokio::spawn(task.run(waiting, stop.clone())));
                spawners.push(Lane { launches, load });
            })?;
        }
        let next = AtomicUsize::new(0);
        let shared = Shared { config, layout, version, spawners, tasks: Mutex::new(tasks), stop, next };
        Ok((Self(Arc::new(shared)), adopted))
    }

    /// Starts a sandbox; returns once its process was told to begin.
    pub async fn launch(&self, request: LaunchRequest) -> Result<Sandbox, LaunchError> {
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

/// The task that owns one spawner.
struct LaneTask {
    number: usize,
    share: usize,
    config: Config,
    layout: Layout,
    version: Version,
    load: Arc<Load>,
    known: Known,
    link: Option<SpawnerLink>,
    blanks: Vec<Blank>,
    created: u32,
}

/// A blank sandbox, as the daemon sees it.
struct Blank {
    slot: String,
    pid: i32,
}

impl LaneTask {
    fn connect_now(mut self) -> io::Result<Self> {
        self.connect()?;
        Ok(self)
    }

    fn connect(&mut self) -> io::Result<()> {
        let link = SpawnerLink::start(&self.config.executable, &self.config.run_dir, &self.config.cgroup_parent)?;
        self.known.insert(link.pid());
        self.link = Some(link);
        self.created = 0;
        Ok(())
    }

    async fn run(mut self, mut launches: mpsc::Receiver<Launch>, stop: CancellationToken) {
        let mut pause = Duration::ZERO;
        loop {
            let wants_blank = self.blanks.len() < self.share;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                launch = launches.recv() => {
                    let Some(launch) = launch else { break };
                    let result = self.launch(launch.request).await;
                    self.load.pending.fetch_sub(1, Ordering::Relaxed);
                    // Whoever asked may have gone: then nobody needs the sandbox.
                    if let Err(Ok(sandbox)) = launch.reply.send(result) {
                        sandbox.destroy().await;
                    }
                    pause = QUIET;
                }
                () = tokio::time::sleep(pause), if wants_blank => {
                    pause = Duration::ZERO;
                    match self.fill(false).await {
                        Ok(blank) => self.keep(blank),
                        Err(error) => {
                            tracing::warn!(spawner = self.number, %error, "a blank sandbox could not be made");
                            pause = REST;
                        }
                    }
                }
            }
        }
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    fn keep(&mut self, blank: Blank) {
        self.blanks.push(blank);
        self.load.blanks.store(self.blanks.len(), Ordering::Relaxed);
    }

    /// Asks the spawner; one that fails to answer is replaced, and its blank sandboxes are ended with it.
    async fn ask(&mut self, request: &Request) -> Result<(Answer, Vec<std::os::fd::OwnedFd>), LaunchError> {
        if self.link.is_none() {
            self.connect().map_err(LaunchError::Unusable)?;
        }
        let Some(link) = self.link.as_mut() else {
            return Err(LaunchError::ShutDown);
        };
        match link.ask(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                tracing::error!(spawner = self.number, %error, "a spawner is replaced");
                self.replace();
                Err(match error {
                    AskError::Timeout => LaunchError::Timeout(ANSWER_MAX),
                    AskError::Gone | AskError::Io(_) => LaunchError::Refused(error.to_string()),
                })
            }
        }
    }

    fn replace(&mut self) {
        if let Some(link) = self.link.take() {
            self.known.remove(link.pid());
        }
        for blank in std::mem::take(&mut self.blanks) {
            remove_leftover(&self.config, &self.layout, self.version, &blank.slot);
            self.known.remove(blank.pid);
        }
        self.load.blanks.store(0, Ordering::Relaxed);
    }

    /// Makes a blank sandbox.
    async fn fill(&mut self, is_on_host_network: bool) -> Result<Blank, LaunchError> {
        if self.created >= SPAWNER_CREATES_MAX && self.blanks.is_empty() {
            self.replace();
        }
        self.created += 1;
        let slot = format!("s{}-{}-{}", std::process::id(), self.number, SLOTS.fetch_add(1, Ordering::Relaxed));
        let request = Request::Fill { slot: slot.clone(), is_on_host_network };
        let answer = self.ask(&request).await?.0;
        let filled = match answer {
            Answer::Filled { pid } => {
                self.known.insert(pid);
                Ok(Blank { slot, pid })
            }
            Answer::Failed { reason } => Err(LaunchError::Refused(reason)),
            Answer::Started => Err(LaunchError::Refused("the spawner answered something else".to_owned())),
        };
        reap_strangers(&self.known);
        filled
    }

    async fn launch(&mut self, request: LaunchRequest) -> Result<Sandbox, LaunchError> {
        let is_on_host_network = request.network == Network::Host;
        let blank = match self.blanks.pop().filter(|_| !is_on_host_network) {
            Some(blank) => blank,
            None => self.fill(is_on_host_network).await?,
        };
        self.load.blanks.store(self.blanks.len(), Ordering::Relaxed);
        let slot = blank.slot.clone();
        match self.bring_up(blank, request).await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                remove_leftover(&self.config, &self.layout, self.version, &slot);
                Err(error)
            }
        }
    }

    async fn bring_up(&mut self, blank: Blank, request: LaunchRequest) -> Result<Sandbox, LaunchError> {
        let Blank { slot, pid } = blank;
        let cgroup = Cgroup::new(self.version, &format!("{}/{slot}", self.config.cgroup_parent));
        let child = Child::watch(pid, cgroup.clone(), self.known.clone()).map_err(LaunchError::Unusable)?;
        let listener = match request.loopback_port {
            Some(port) => Some(loopback::listen(pid, port).await.map_err(LaunchError::Unusable)?),
            None => None,
        };
        let mut layers = vec![self.layout.skeleton()];
        layers.extend(request.layers);
        if request.network == Network::Host {
            layers.push(self.layout.host_network());
        } else if layers.len() == 1 {
            // An overlay needs two.
            layers.push(self.layout.blank_root());
        }
        let start = Request::Start {
            slot: slot.clone(),
            layers,
            tmp_bytes: request.limits.tmp_bytes,
            limits: CgroupLimits {
                memory_bytes: request.limits.memory_bytes,
                cpu_milli: request.limits.cpu_milli,
                pids: request.limits.pids,
            },
            workload: Workload {
                argv: request.process.argv,
                env: request.process.env,
                cwd: request.process.cwd,
                uid: request.process.uid,
                gid: request.process.gid,
                has_channel: request.channel,
            },
        };
        let (answer, descriptors) = self.ask(&start).await?;
        match answer {
            Answer::Started => {}
            Answer::Failed { reason } => return Err(LaunchError::Refused(reason)),
            Answer::Filled { .. } => {
                return Err(LaunchError::Refused("the spawner answered something else".to_owned()));
            }
        }
        let kept = Kept { id: request.id, label: request.label, pid };
        keep(&self.layout, &slot, &kept).map_err(LaunchError::Unusable)?;
        if let Some(control) = descriptors.into_iter().next() {
            report_failure(UnixStream::from(control), kept.id.clone());
        }
        let output = open_output(&self.layout, &slot).map_err(LaunchError::Unusable)?;
        Ok(Sandbox {
            id: kept.id,
            label: kept.label,
            slot,
            layout: self.layout.clone(),
            cgroup,
            child,
            output: Mutex::new(Some(output)),
            listener: Mutex::new(listener),
        })
    }
}

/// Logs why a workload could not be executed, should that happen: the executor says it before it exits.
fn report_failure(mut control: UnixStream, id: String) {
    tokio::task::spawn_blocking(move || {
        let mut reason = String::new();
        // The socket closes when the workload is executed, or when its sandbox ends.
        if control.read_to_string(&mut reason).is_ok() && !reason.is_empty() {
            tracing::warn!(instance = %id, %reason, "the workload could not be executed");
        }
    });
}

/// Writes what a later daemon needs to adopt a sandbox.
fn keep(layout: &Layout, slot: &str, kept: &Kept) -> io::Result<()> {
    let folder = layout.slot(slot);
    fs::write(folder.join("kept.tmp"), serde_json::to_vec(kept)?)?;
    fs::rename(folder.join("kept.tmp"), folder.join("kept.json"))
}

fn open_output(layout: &Layout, slot: &str) -> io::Result<Output> {
    let open = |name| pipe::OpenOptions::new().open_receiver(layout.slot(slot).join(name));
    Ok(Output { stdout: open("stdout")?, stderr: open("stderr")? })
}

/// Returns the sandboxes that still run from before, and removes everything else that an earlier daemon left.
fn adopt(config: &Config, layout: &Layout, version: Version, known: &Known) -> Vec<Sandbox> {
    let mut adopted = Vec::new();
    for slot in layout.names() {
        match adopt_one(config, layout, version, known, &slot) {
            Some(sandbox) => adopted.push(sandbox),
            None => remove_leftover(config, layout, version, &slot),
        }
    }
    adopted
}

fn adopt_one(config: &Config, layout: &Layout, version: Version, known: &Known, slot: &str) -> Option<Sandbox> {
    let bytes = fs::read(layout.slot(slot).join("kept.json")).ok()?;
    let kept: Kept = serde_json::from_slice(&bytes).ok()?;
    if !is_in_sandbox(config, slot, kept.pid) {
        return None;
    }
    let cgroup = Cgroup::new(version, &format!("{}/{slot}", config.cgroup_parent));
    let child = Child::watch(kept.pid, cgroup.clone(), known.clone()).ok()?;
    // Its number may have gone to another process between the look and the watch.
    if !is_in_sandbox(config, slot, kept.pid) {
        return None;
    }
    Some(Sandbox {
        id: kept.id,
        label: kept.label,
        slot: slot.to_owned(),
        layout: layout.clone(),
        cgroup,
        child,
        output: Mutex::new(Some(open_output(layout, slot).ok()?)),
        listener: Mutex::new(None),
    })
}

/// Returns whether a process lives in the cgroups of a sandbox: numbers are used again, cgroups are not.
fn is_in_sandbox(config: &Config, slot: &str, pid: i32) -> bool {
    let path = format!("/{}/{slot}", config.cgroup_parent);
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups.lines().any(|line| line.ends_with(&path))
}

/// Ends whatever is left of a sandbox and removes it.
///
/// Its processes are those in its cgroups: also what a container was left with whose making was cut short.
fn remove_leftover(config: &Config, layout: &Layout, version: Version, slot: &str) {
    let cgroup = Cgroup::new(version, &format!("{}/{slot}", config.cgroup_parent));
    let start = std::time::Instant::now();
    loop {
        let processes = cgroup.processes();
        if processes.is_empty() || start.elapsed() > LEFTOVER_MAX {
            break;
        }
        for pid in processes {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            // It is a child of this daemon or of none.
            let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    layout.remove(slot);
    cgroup.remove();
}
