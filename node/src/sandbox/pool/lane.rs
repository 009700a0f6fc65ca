//! One spawner, the blank sandboxes it has made, and the task that owns both.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::super::cgroup::{Cgroup, Version};
use super::super::layout::Layout;
use super::super::process::{Known, Process as Child, reap_strangers};
use super::super::protocol::{Answer, BlankNetwork, CgroupLimits, Request, Workload};
use super::super::spawner_link::{ANSWER_MAX, AskError, SpawnerLink};
use super::super::{Kept, LaunchError, LaunchRequest, Network, Output, Sandbox, Start, ZygoteSpec, loopback};
use super::Config;
use super::adopt::remove_leftover;
use crate::error_chain;
use crate::net::Wiring;

/// Counts the sandboxes of this process, so that no two have the same name.
static SLOTS: AtomicUsize = AtomicUsize::new(1);

/// How long a spawner has nothing to launch before it fills its share of the pool.
const QUIET: Duration = Duration::from_millis(30);

/// How long a spawner that failed to make a blank sandbox rests before it tries again.
const REST: Duration = Duration::from_secs(1);

/// How many sandboxes a spawner makes before another takes its place.
const SPAWNER_CREATES_MAX: u32 = 2_000;

/// How often a zygote may fail before its spawner does without.
const ZYGOTE_FAILURES_MAX: u32 = 3;

/// What a lane has to do and has ready.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) pending: AtomicUsize,
    blanks: AtomicUsize,
    wired_blanks: AtomicUsize,
}

impl Load {
    /// Returns how many blank sandboxes for a network are ready.
    pub(super) fn blanks(&self, network: Network) -> usize {
        match network {
            Network::None => self.blanks.load(Ordering::Relaxed),
            Network::Egress => self.wired_blanks.load(Ordering::Relaxed),
            Network::Host => 0,
        }
    }
}

/// A sandbox that somebody waits for.
pub(super) struct Launch {
    pub(super) request: LaunchRequest,
    pub(super) reply: oneshot::Sender<Result<Sandbox, LaunchError>>,
}

/// The task that owns one spawner.
pub(super) struct LaneTask {
    pub(super) number: usize,
    pub(super) share: usize,
    pub(super) config: Config,
    pub(super) layout: Layout,
    pub(super) version: Version,
    pub(super) load: Arc<Load>,
    pub(super) known: Known,
    /// The zygote that launches ask for.
    pub(super) zygote: watch::Receiver<Option<ZygoteSpec>>,
    /// How sandboxes with a way out are connected, once there is one.
    pub(super) wiring: watch::Receiver<Option<Wiring>>,
    /// What they see of the host's files.
    pub(super) egress_layer: PathBuf,
    pub(super) state: LaneState,
}

/// What a lane has at the moment.
#[derive(Default)]
pub(super) struct LaneState {
    link: Option<SpawnerLink>,
    blanks: Vec<Blank>,
    created: u32,
    /// The zygote that the spawner was told to start.
    zygote: Option<ZygoteSpec>,
    zygote_failures: u32,
    /// Whether the last sandbox that was to have a way out got none.
    cannot_wire: bool,
}

/// A blank sandbox, as the daemon sees it.
struct Blank {
    slot: String,
    pid: i32,
    network: Network,
    /// Whether a fork of the zygote waits in it.
    has_guest: bool,
}

/// What a lane does while nothing is to be launched.
enum Chore {
    StartZygote(ZygoteSpec),
    Fill(Network),
    /// Let the zygote fork into the blank sandbox of this number.
    Attach(usize),
}

impl LaneTask {
    pub(super) fn connect_now(mut self) -> io::Result<Self> {
        self.connect()?;
        Ok(self)
    }

    fn connect(&mut self) -> io::Result<()> {
        let link = SpawnerLink::start(&self.config.executable, &self.config.run_dir, &self.config.cgroup_parent)?;
        self.known.insert(link.pid());
        self.state.link = Some(link);
        self.state.created = 0;
        self.state.zygote = None;
        Ok(())
    }

    pub(super) async fn run(mut self, mut launches: mpsc::Receiver<Launch>, stop: CancellationToken) {
        let mut pause = Duration::ZERO;
        loop {
            let chore = self.chore();
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
                () = tokio::time::sleep(pause), if chore.is_some() => {
                    if let Some(chore) = chore {
                        pause = self.attend(chore).await;
                    }
                }
                // Another zygote is wanted: the next look at the chores finds it.
                Ok(()) = self.zygote.changed() => self.state.zygote_failures = 0,
                // There is a way out: the next look at the chores finds what is missing.
                Ok(()) = self.wiring.changed() => {}
            }
        }
        if let Some(link) = self.state.link.take() {
            link.close().await;
        }
    }

    /// Returns what is to be done next when nothing is to be launched.
    fn chore(&self) -> Option<Chore> {
        let wanted = self.zygote.borrow().clone().filter(|_| self.state.zygote_failures < ZYGOTE_FAILURES_MAX);
        if let Some(spec) = wanted.clone().filter(|_| wanted != self.state.zygote) {
            return Some(Chore::StartZygote(spec));
        }
        let networks: &[Network] =
            if self.wiring.borrow().is_some() { &[Network::None, Network::Egress] } else { &[Network::None] };
        let short = networks.iter().copied().find(|network| self.count(*network) < self.share).map(Chore::Fill);
        let without_guest = || networks.iter().find_map(|network| self.without_guest(*network)).map(Chore::Attach);
        // What cannot be wired for now keeps nothing else waiting.
        if self.state.cannot_wire && !matches!(short, Some(Chore::Fill(Network::None))) {
            return without_guest().or(short);
        }
        short.or_else(without_guest)
    }

    fn count(&self, network: Network) -> usize {
        self.state.blanks.iter().filter(|blank| blank.network == network).count()
    }

    /// Returns a blank sandbox for a network that should have a guest.
    fn without_guest(&self, network: Network) -> Option<usize> {
        self.state.zygote.as_ref()?;
        let blanks = &self.state.blanks;
        let guests = blanks.iter().filter(|blank| blank.network == network && blank.has_guest).count();
        // One stays without, for what is executed.
        let wants_guest = guests < self.share.saturating_sub(1).max(1);
        wants_guest.then(|| blanks.iter().position(|blank| blank.network == network && !blank.has_guest)).flatten()
    }

    /// Does a chore and returns how long to rest before the next.
    async fn attend(&mut self, chore: Chore) -> Duration {
        let done = match chore {
            Chore::StartZygote(spec) => self.start_zygote(spec).await.map(|()| Duration::ZERO),
            Chore::Fill(network) => self.fill(network).await.map(|blank| {
                self.keep(blank);
                Duration::ZERO
            }),
            Chore::Attach(number) => {
                let blank = self.state.blanks.remove(number);
                match self.attach(blank).await {
                    Ok(blank) => {
                        let pause = if blank.has_guest { Duration::ZERO } else { QUIET };
                        self.keep(blank);
                        Ok(pause)
                    }
                    Err(error) => Err(error),
                }
            }
        };
        done.unwrap_or_else(|error| {
            tracing::warn!(spawner = self.number, %error, "a sandbox could not be prepared");
            REST
        })
    }

    fn keep(&mut self, blank: Blank) {
        self.state.blanks.push(blank);
        self.count_blanks();
    }

    fn count_blanks(&self) {
        self.load.blanks.store(self.count(Network::None), Ordering::Relaxed);
        self.load.wired_blanks.store(self.count(Network::Egress), Ordering::Relaxed);
    }

    /// Asks the spawner; one that fails to answer is replaced, and its blank sandboxes are ended with it.
    async fn ask(&mut self, request: &Request) -> Result<(Answer, Vec<OwnedFd>), LaunchError> {
        if self.state.link.is_none() {
            self.connect().map_err(LaunchError::Unusable)?;
        }
        let Some(link) = self.state.link.as_mut() else {
            return Err(LaunchError::ShutDown);
        };
        match link.ask(request).await {
            Ok((Answer::Failed { reason }, _)) => Err(LaunchError::Refused(reason)),
            Ok(answer) => Ok(answer),
            Err(error) => {
                tracing::error!(spawner = self.number, %error, "a spawner is replaced");
                self.replace();
                Err(match error {
                    AskError::Timeout => LaunchError::Timeout(ANSWER_MAX),
                    AskError::Gone | AskError::Io(_) => LaunchError::Refused(error_chain::text(&error)),
                })
            }
        }
    }

    fn replace(&mut self) {
        if let Some(link) = self.state.link.take() {
            self.known.remove(link.pid());
        }
        self.state.zygote = None;
        for blank in std::mem::take(&mut self.state.blanks) {
            self.discard(&blank);
        }
        self.count_blanks();
    }

    /// Ends a blank sandbox.
    fn discard(&self, blank: &Blank) {
        remove_leftover(&self.config, &self.layout, self.version, &blank.slot);
        self.known.remove(blank.pid);
    }

    /// Makes a blank sandbox.
    async fn fill(&mut self, network: Network) -> Result<Blank, LaunchError> {
        if self.state.created >= SPAWNER_CREATES_MAX && self.state.blanks.is_empty() {
            self.replace();
        }
        let connection = self.connection(network)?;
        self.state.created += 1;
        let slot = format!("s{}-{}-{}", std::process::id(), self.number, SLOTS.fetch_add(1, Ordering::Relaxed));
        let request = Request::Fill { slot: slot.clone(), network: connection };
        let filled = match self.ask(&request).await {
            Ok((Answer::Filled { pid }, _)) => {
                self.known.insert(pid);
                Ok(Blank { slot, pid, network, has_guest: false })
            }
            Ok(_) => Err(unexpected()),
            Err(error) => {
                // Its init may be there already, and waits for a start that will not come.
                remove_leftover(&self.config, &self.layout, self.version, &slot);
                Err(error)
            }
        };
        reap_strangers(&self.known);
        if network == Network::Egress {
            self.state.cannot_wire = filled.is_err();
        }
        filled
    }

    /// Returns what a blank sandbox for a network is connected by.
    fn connection(&self, network: Network) -> Result<BlankNetwork, LaunchError> {
        match network {
            Network::None => Ok(BlankNetwork::Own),
            Network::Host => Ok(BlankNetwork::Host),
            // It is opened before anybody asks for it, and closed with the pool.
            Network::Egress => self.wiring.borrow().clone().map(BlankNetwork::Wired).ok_or(LaunchError::ShutDown),
        }
    }

    /// Has the spawner start a zygote in place of another; it warms up by itself.
    async fn start_zygote(&mut self, spec: ZygoteSpec) -> Result<(), LaunchError> {
        // What was forked from another zygote is another interpreter.
        let (forked, blanks) = std::mem::take(&mut self.state.blanks).into_iter().partition(|blank| blank.has_guest);
        self.state.blanks = blanks;
        self.count_blanks();
        let forked: Vec<Blank> = forked;
        for blank in &forked {
            self.discard(blank);
        }
        self.ask(&Request::StartZygote { spec: spec.clone() })
            .await
            .inspect_err(|_| self.state.zygote_failures += 1)?;
        self.state.zygote = Some(spec);
        Ok(())
    }

    /// Lets the zygote fork into a blank sandbox; one that is not warm yet leaves it as it was.
    async fn attach(&mut self, mut blank: Blank) -> Result<Blank, LaunchError> {
        match self.ask(&Request::Attach { slot: blank.slot.clone() }).await {
            Ok((Answer::Done, _)) => blank.has_guest = true,
            Ok((Answer::NotReady, _)) => {}
            Ok(_) => return Err(unexpected()),
            Err(error) => {
                self.state.zygote = None;
                self.state.zygote_failures += 1;
                self.discard(&blank);
                self.count_blanks();
                return Err(error);
            }
        }
        Ok(blank)
    }

    /// Returns a blank sandbox for a request: with a fork of the zygote in it if that is how it is to start.
    async fn blank_for(&mut self, request: &LaunchRequest) -> Result<Blank, LaunchError> {
        let network = request.network;
        let wants_guest = match &request.start {
            Start::Exec => false,
            Start::Zygote(spec) => self.state.zygote.as_ref() == Some(spec),
        };
        let blanks = &mut self.state.blanks;
        let find =
            |fits: &dyn Fn(&Blank) -> bool| blanks.iter().rposition(|blank| blank.network == network && fits(blank));
        let best = find(&|blank| blank.has_guest == wants_guest).or_else(|| find(&|_| true));
        let blank = match best {
            Some(number) => blanks.remove(number),
            None => self.fill(network).await?,
        };
        self.count_blanks();
        if !wants_guest || blank.has_guest {
            return Ok(blank);
        }
        match self.attach(blank).await {
            Ok(blank) => Ok(blank),
            Err(error) => {
                tracing::warn!(spawner = self.number, %error, "the zygote could not fork; the program is executed");
                self.fill(network).await
            }
        }
    }

    async fn launch(&mut self, request: LaunchRequest) -> Result<Sandbox, LaunchError> {
        let blank = self.blank_for(&request).await?;
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
        let Blank { slot, pid, network, has_guest } = blank;
        let goes_on = has_guest && matches!(request.start, Start::Zygote(_));
        let cgroup = Cgroup::new(self.version, &format!("{}/{slot}", self.config.cgroup_parent));
        let child = Child::watch(pid, goes_on, cgroup.clone(), self.known.clone()).map_err(LaunchError::Unusable)?;
        let listener = match request.loopback_port {
            Some(port) => Some(loopback::listen(pid, port).await.map_err(LaunchError::Unusable)?),
            None => None,
        };
        // Before the start: what a process wrote is lost when it has ended, and nobody had the pipe open to read.
        let output = open_output(&self.layout, &slot).map_err(LaunchError::Unusable)?;
        let mut layers = vec![self.layout.skeleton()];
        layers.extend(request.layers);
        match network {
            Network::Host => layers.push(self.layout.host_network()),
            Network::Egress => layers.push(self.egress_layer.clone()),
            // An overlay needs two.
            Network::None if layers.len() == 1 => layers.push(self.layout.blank_root()),
            Network::None => {}
        }
        let start = Request::Start {
            slot: slot.clone(),
            layers,
            tmp_bytes: request.limits.tmp_bytes,
            limits: CgroupLimits {
                memory_bytes: request.limits.memory_bytes,
                cpu_milli: request.limits.cpu_milli,
                // The init that waits for a fork is ours, and not the function's to count.
                pids: request.limits.pids.saturating_add(u32::from(goes_on)),
            },
            workload: Workload {
                argv: request.process.argv,
                env: request.process.env,
                cwd: request.process.cwd,
                uid: request.process.uid,
                gid: request.process.gid,
                has_channel: request.channel,
            },
            is_fork: goes_on,
        };
        let (Answer::Done, descriptors) = self.ask(&start).await? else {
            return Err(unexpected());
        };
        let kept = Kept { id: request.id, label: request.label, pid, network };
        keep(&self.layout, &slot, &kept).map_err(LaunchError::Unusable)?;
        if let Some(control) = descriptors.into_iter().next() {
            report_failure(UnixStream::from(control), kept.id.clone());
        }
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

fn unexpected() -> LaunchError {
    LaunchError::Refused("the spawner answered something else".to_owned())
}

/// Logs why a workload did not begin, should that happen: it is said before the exit.
fn report_failure(mut control: UnixStream, id: String) {
    tokio::task::spawn_blocking(move || {
        let mut reason = String::new();
        // The socket closes when the workload begins, or when its sandbox ends.
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

pub(super) fn open_output(layout: &Layout, slot: &str) -> io::Result<Output> {
    let open = |name| pipe::OpenOptions::new().open_receiver(layout.slot(slot).join(name));
    Ok(Output { stdout: open("stdout")?, stderr: open("stderr")? })
}
