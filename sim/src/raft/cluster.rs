//! Voters that start, crash and come back: the same steps as in `node`, over the simulated disk and network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use control_plane::model::Timestamp;
use control_plane::raft::{self, LogStore, Machine, Record, Replica, View};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::impls::BasicNode;
use openraft_rt::AsyncRuntime;

use super::check::Oracle;
use super::disk::Platter;
use super::mark::Mark;
use super::network::{Host, Network};
use super::runtime::{self, Virtual};
use super::swarm::Swarm;

/// openraft in the simulator.
pub(crate) type Core = raft::Core<Virtual, Platter>;

/// How often it is looked whether a node's openraft has failed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a clock that is right says at the beginning: more than a clock is ever wrong by.
const EPOCH_MS: u64 = 10_000_000;

/// How long a process whose disk has failed is down.
const FAILED_DOWN: Duration = Duration::from_millis(500);

/// Returns what a clock that is right says.
pub(crate) fn true_time() -> Timestamp {
    time_at(runtime::now())
}

/// Returns what a clock that is right says that many nanoseconds after everything began.
pub(crate) fn time_at(nanos: u64) -> Timestamp {
    Timestamp::from_millis(EPOCH_MS + nanos / 1_000_000)
}

/// Returns where a node is reached.
pub(crate) fn address(node: u64) -> String {
    format!("node-{node}")
}

/// How a node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The kernel goes on: it ends the connections and refuses new ones.
    Process,
    /// Nothing is left that could say anything.
    Power,
}

/// Who hears what becomes of the nodes' processes.
pub(crate) trait Listener: Send + Sync {
    /// A node's replica runs.
    fn started(&self, _node: u64) {}

    /// A node's process has ended, or its machine has no power any more.
    fn crashed(&self, _node: u64, _crash: Crash) {}

    /// A node's process stands still until then, in nanoseconds.
    fn paused(&self, _node: u64, _until: u64) {}

    /// A node's replica has applied more of the log.
    fn applied(&self, _node: u64) {}
}

/// Nobody listens.
impl Listener for () {}

/// A cluster; clones share it.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Shared>);

struct Shared {
    swarm: Swarm,
    network: Network,
    oracle: Oracle,
    seed: u64,
    listener: Arc<dyn Listener>,
    disks: Mutex<BTreeMap<u64, Platter>>,
    /// The machines that were taken away.
    gone: Mutex<BTreeSet<u64>>,
    views: Mutex<BTreeMap<u64, View>>,
    /// By how many milliseconds a node's clock is wrong.
    clocks: Mutex<BTreeMap<u64, i64>>,
}

impl Cluster {
    /// Returns a cluster of which no node has started yet.
    pub(crate) fn new(seed: u64, swarm: Swarm, oracle: Oracle, listener: Arc<dyn Listener>) -> Self {
        let network = Network::new(seed, swarm.clone(), oracle.clone());
        let founders = swarm.founders;
        let cluster = Self(Arc::new(Shared {
            swarm,
            network,
            oracle,
            seed,
            listener,
            disks: Mutex::default(),
            gone: Mutex::default(),
            views: Mutex::default(),
            clocks: Mutex::default(),
        }));
        (1..=founders).for_each(|node| cluster.add(node));
        cluster
    }

    /// Adds a machine with an empty disk.
    pub(crate) fn add(&self, node: u64) {
        let disk = Platter::new(self.0.seed, node, self.0.swarm.clone(), self.oracle().clone());
        self.disks().insert(node, disk);
    }

    /// Takes a machine away for good, with its disk.
    pub(crate) fn remove(&self, node: u64) {
        self.crash(&[node], Crash::Power);
        self.gone().insert(node);
    }

    fn gone(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<u64, Platter>> {
        self.0.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn oracle(&self) -> &Oracle {
        &self.0.oracle
    }

    pub(crate) fn network(&self) -> &Network {
        &self.0.network
    }

    pub(crate) fn swarm(&self) -> &Swarm {
        &self.0.swarm
    }

    /// Returns a machine's disk.
    ///
    /// # Panics
    ///
    /// Where there is no such machine.
    pub(crate) fn disk(&self, node: u64) -> Platter {
        self.disks()[&node].clone()
    }

    /// Sets by how many milliseconds a node's clock is wrong.
    pub(crate) fn set_clock(&self, node: u64, offset: i64) {
        self.oracle().tell(|| format!("the clock of {node} is wrong by {offset} ms"));
        self.0.clocks.lock().unwrap_or_else(PoisonError::into_inner).insert(node, offset);
    }

    /// Returns what a node's clock says.
    pub(crate) fn time(&self, node: u64) -> Timestamp {
        let offset = self.0.clocks.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied().unwrap_or(0);
        Timestamp::from_millis(true_time().as_millis().saturating_add_signed(offset))
    }

    /// Returns every node.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        let gone = self.gone();
        self.disks().keys().copied().filter(|node| !gone.contains(node)).collect()
    }

    /// Returns a voter's openraft, while it runs.
    pub(crate) fn core(&self, node: u64) -> Option<Core> {
        match self.network().host(node) {
            Host::Up(_, Some(replica)) => Some(replica.core().clone()),
            Host::Up(_, None) | Host::Down | Host::Off => None,
        }
    }

    /// Returns read access to a voter's state, as of its last start.
    pub(crate) fn view(&self, node: u64) -> Option<View> {
        self.0.views.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Returns who says that it leads, in the highest term in which somebody does.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |node: &u64| {
            let watched = self.core(*node)?.metrics();
            let metrics = watched.borrow_watched();
            (metrics.state == ServerState::Leader).then_some((metrics.current_term, *node))
        };
        self.nodes().iter().filter_map(leads).max().map(|(_, node)| node)
    }

    /// Returns the leader that a majority follows.
    pub(crate) fn agreed_leader(&self) -> Option<u64> {
        let leader = self.leader()?;
        let follows = |node: &u64| {
            self.core(*node).is_some_and(|core| core.metrics().borrow_watched().current_leader == Some(leader))
        };
        let followers = self.nodes().iter().filter(|node| follows(node)).count() as u64;
        (followers * 2 > self.nodes().len() as u64).then_some(leader)
    }

    /// Returns who votes, as far as a node has applied; every node before anybody is known to.
    pub(crate) fn voting(&self, node: u64) -> Vec<u64> {
        let mut voting = self.view(node).map(|view| view.voters()).unwrap_or_default();
        voting.sort_unstable();
        voting.dedup();
        if voting.is_empty() { self.nodes() } else { voting }
    }

    /// Starts a node that does not run.
    pub(crate) fn boot(&self, node: u64) {
        if matches!(self.network().host(node), Host::Up(..)) || self.gone().contains(&node) {
            return;
        }
        let voters = self.nodes();
        if runtime::now() > 0
            && voters.iter().any(|other| *other != node && !matches!(self.network().host(*other), Host::Up(..)))
        {
            self.oracle().mark(Mark::RestartedBesideDown);
        }
        let records = self.disk(node).open();
        self.oracle().tell(|| format!("{node} starts with {} records", records.len()));
        let group = runtime::group();
        self.network().set(node, Host::Up(group, None));
        // What stood before the power failed is reset by the first thing that is sent over it.
        self.network().end_connections(node, None);
        let cluster = self.clone();
        runtime::spawn_in(group, async move {
            let ended = Box::pin(cluster.start(node, group, records)).await;
            if cluster.disk(node).has_failed() {
                // As in production: the process ends, and nothing is written a second time.
                cluster.oracle().tell(|| format!("the disk of {node} has failed"));
                runtime::after(Duration::ZERO, move || cluster.replace_disk(node));
            } else if let Err(error) = ended {
                cluster.oracle().blame(&format!("{node} failed: {error}"));
            }
        });
    }

    async fn start(&self, node: u64, group: runtime::Group, records: Vec<Record>) -> Result<(), String> {
        let disk = self.disk(node);
        let log = LogStore::open(disk.clone(), records).map_err(|error| error.to_string())?;
        let is_pristine = log.is_pristine();
        let (seen, oracle, listener) =
            (Arc::new(OnceLock::<View>::new()), self.oracle().clone(), Arc::clone(&self.0.listener));
        let watched = Arc::clone(&seen);
        let on_applied = move |last| {
            if let Some(view) = watched.get() {
                oracle.applied(node, last, view);
                listener.applied(node);
            }
        };
        let machine = Machine::open(disk, Arc::new(on_applied)).map_err(|error| error.to_string())?;
        let view = machine.view();
        self.oracle().opened(node, &view);
        self.0.views.lock().unwrap_or_else(PoisonError::into_inner).insert(node, view.clone());
        seen.set(view.clone()).map_err(|_| "the view was set before".to_owned())?;
        let settings = Arc::new(self.swarm().settings().validate().map_err(|error| error.to_string())?);
        let transport = self.network().transport(node);
        let network = raft::Network::new(transport.clone(), view);
        let core = Core::new(node, settings, network, log, machine).await.map_err(|error| error.to_string())?;
        let oracle = self.oracle().clone();
        let told = move |leader| oracle.tell(|| format!("{node} takes leader {leader} for dead"));
        runtime::spawn_in(group, raft::watch_leader(core.clone(), transport, told));
        runtime::spawn_in(group, raft::tick_while_voting(core.clone()));
        self.network().set(node, Host::Up(group, Some(Replica::new(core.clone()))));
        self.0.listener.started(node);
        if is_pristine && node == 1 {
            let address = |node: u64| (node, BasicNode::new(address(node)));
            let members: BTreeMap<u64, BasicNode> = (1..=self.swarm().founders).map(address).collect();
            // Refused if the cluster is there already, which is as good.
            let _ = core.initialize(members).await;
        }
        let metrics = core.metrics();
        drop(core);
        loop {
            let fatal = metrics.borrow_watched().running_state.as_ref().err().map(ToString::to_string);
            if self.disk(node).has_failed() {
                return Ok(());
            }
            if let Some(fatal) = fatal {
                return Err(fatal);
            }
            Virtual::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops nodes at one instant.
    pub(crate) fn crash(&self, nodes: &[u64], crash: Crash) {
        self.oracle().tell(|| format!("{nodes:?} crash: {crash:?}"));
        let before: Vec<(u64, Host)> = nodes.iter().map(|node| (*node, self.network().host(*node))).collect();
        for (node, host) in &before {
            match (crash, host) {
                (Crash::Power, _) => self.network().set(*node, Host::Off),
                (Crash::Process, Host::Off) => {}
                (Crash::Process, Host::Down | Host::Up(..)) => self.network().set(*node, Host::Down),
            }
            match (crash, host) {
                (Crash::Power, Host::Off) | (Crash::Process, Host::Off | Host::Down) => {}
                (Crash::Power, Host::Down | Host::Up(..)) | (Crash::Process, Host::Up(..)) => {
                    self.0.listener.crashed(*node, crash);
                }
            }
        }
        for (node, host) in before {
            if let Host::Up(group, replica) = host {
                runtime::kill(group);
                drop(replica);
                self.disk(node).crash();
                if crash == Crash::Process {
                    self.network().end_connections(node, None);
                }
            }
        }
    }

    /// Ends a process whose disk has failed, and starts it again on what is left, unless something else has done so.
    fn replace_disk(&self, node: u64) {
        if self.disk(node).has_failed() {
            self.crash(&[node], Crash::Process);
            let cluster = self.clone();
            runtime::after(FAILED_DOWN, move || cluster.boot(node));
        }
    }

    /// Lets a node's process stand still for a while.
    pub(crate) fn pause(&self, node: u64, duration: Duration) {
        if let Host::Up(group, _) = self.network().host(node) {
            self.oracle().tell(|| format!("{node} stands still for {duration:?}"));
            runtime::pause(group);
            self.0.listener.paused(node, runtime::now() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
            runtime::after(duration, move || runtime::resume(group));
        }
    }

    /// Ends everything that goes wrong: every node runs, nothing is lost or slow.
    pub(crate) fn calm(&self) {
        self.oracle().tell(|| "faults stop".to_owned());
        self.network().calm();
        for node in self.nodes() {
            self.disk(node).calm();
            if let Host::Up(group, _) = self.network().host(node) {
                runtime::resume(group);
                self.0.listener.paused(node, runtime::now());
            }
            self.boot(node);
        }
    }

    /// Drops every node.
    pub(crate) fn end(&self) {
        for node in self.nodes() {
            if let Host::Up(group, replica) = self.network().host(node) {
                self.network().set(node, Host::Off);
                runtime::kill(group);
                drop(replica);
            }
        }
    }
}
