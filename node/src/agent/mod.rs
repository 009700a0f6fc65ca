//! Makes this node match the state: drives the supervisor with real time and carries out what it answers.
//!
//! One task owns the [`Supervisor`] and is told everything through channels; every instance has a task of its own
//! (`instance.rs`) that lives from the first byte of its sandbox to its last. No effect decides: whatever comes of it goes
//! back in as an input.

mod act;
mod instance;
mod prefetch;
mod recovery;
mod request;
mod tools;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use control_plane::model::{Epoch, InstanceId, Network, NodeId, Purpose, RevisionId, Timestamp};
use control_plane::supervisor::{Input, Report, Supervisor, desired};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::tools::SandboxTools;

use self::instance::{Event, Order};
use self::prefetch::{Prefetch, startable};
use crate::clock::Clock;
use crate::gateway::{Demand, Demands, Gateway, Traffic};
use crate::image::{ImagePeers, Store};
use crate::raft::Raft;
use crate::sandbox::{Sandbox, Sandboxes};
use crate::telemetry::EventLog;
use crate::telemetry::logs::LogStore;

/// Events of instances that may wait for the agent; beyond that their tasks wait.
const EVENTS_MAX: usize = 1024;

/// How long instances get to end when the node stops them with itself.
const STOP_ALL_MAX: Duration = Duration::from_secs(10);

/// What the agent acts with.
#[derive(Clone, Debug)]
pub struct Means {
    /// This node.
    pub node: NodeId,
    /// Reads the time.
    pub clock: Clock,
    /// The replicated state.
    pub raft: Raft,
    /// Where images come from.
    pub images: Store,
    /// Who may have those that are not there.
    pub peers: Arc<dyn ImagePeers>,
    /// Where sandboxes come from.
    pub sandboxes: Sandboxes,
    /// Who sends invocations to instances.
    pub traffic: Traffic,
    /// What follows the routes of the applied state.
    pub gateway: Gateway,
    /// Where output of functions goes.
    pub logs: LogStore,
    /// Who is told what happened to instances.
    pub events: EventLog,
}

/// An instance as the agent sees it, for people.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// The instance.
    pub instance: InstanceId,
    /// What it runs.
    pub revision: RevisionId,
    /// Why it exists.
    pub purpose: Purpose,
    /// How far it is.
    pub phase: Phase,
    /// When its start began, or when it was adopted.
    pub since: Timestamp,
    /// Memory in use, in bytes, with what lies in its `/tmp`; none before its process exists.
    pub memory_bytes: Option<u64>,
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its sandbox or its code is starting.
    Starting,
    /// It takes invocations.
    Ready,
    /// It finishes what it has.
    Draining,
    /// Its process is being ended.
    Stopping,
}

impl Phase {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// What runs on this node, shared for reading.
#[derive(Clone, Debug, Default)]
pub struct Instances(Arc<Mutex<BTreeMap<InstanceId, Running>>>);

/// One instance and the way to its task.
#[derive(Debug)]
struct Running {
    view: InstanceView,
    /// Its sandbox, once there is one.
    sandbox: Option<Arc<Sandbox>>,
    orders: mpsc::Sender<Order>,
}

impl Instances {
    /// Returns what runs on this node, in order of id, without measuring it.
    pub fn list(&self) -> Vec<InstanceView> {
        self.lock().values().map(|running| running.view.clone()).collect()
    }

    /// Returns what runs on this node, in order of id, with the memory that the kernel counts for each.
    pub fn measure(&self) -> Vec<InstanceView> {
        let running: Vec<(InstanceView, Option<Arc<Sandbox>>)> =
            self.lock().values().map(|running| (running.view.clone(), running.sandbox.clone())).collect();
        // The counters are files: they are read without the lock.
        let measured = running.into_iter().map(|(view, sandbox)| {
            let used = sandbox.map(|sandbox| sandbox.usage().memory_bytes);
            // Zero is what a cgroup says that is gone.
            InstanceView { memory_bytes: used.filter(|bytes| *bytes > 0), ..view }
        });
        measured.collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceId, Running>> {
        self.0.lock().expect("no holder of this lock panics: it only touches the map")
    }

    fn set_phase(&self, instance: InstanceId, phase: Phase) {
        if let Some(running) = self.lock().get_mut(&instance) {
            running.view.phase = phase;
        }
    }

    /// Tells an instance's task what to do; an instance that is already gone needs nothing.
    fn order(&self, instance: InstanceId, order: Order) {
        if let Some(running) = self.lock().get(&instance) {
            // A full channel holds an order that ends the instance already.
            let _ = running.orders.try_send(order);
        }
    }
}

/// The running agent of a node.
#[derive(Debug)]
pub struct Agent {
    task: tokio::task::JoinHandle<()>,
    prefetch: tokio::task::JoinHandle<()>,
}

impl Agent {
    /// Starts the agent; `adopted` are sandboxes that outlived the daemon before this one.
    ///
    /// It does nothing before the node has `registered`: in an earlier epoch another process of it may have started things.
    pub fn start(
        means: Means,
        instances: Instances,
        demands: Demands,
        adopted: Vec<Sandbox>,
        reports: mpsc::Sender<Report>,
        registered: watch::Receiver<Option<Epoch>>,
        stop: CancellationToken,
    ) -> Self {
        let (events_tx, events) = mpsc::channel(EVENTS_MAX);
        let prefetch = tokio::spawn(Prefetch::new(&means).run(stop.clone()));
        let driver = Driver {
            supervisor: Supervisor::new(means.node),
            means,
            instances,
            events_tx,
            reports,
            newcomer: None,
            expects_egress: false,
        };
        let task = tokio::spawn(driver.run(demands, events, adopted, registered, stop));
        Self { task, prefetch }
    }

    /// Waits until the agent's tasks have ended after their token was cancelled; instances keep running.
    pub async fn join(self) {
        for task in [self.task, self.prefetch] {
            if let Err(error) = task.await
                && error.is_panic()
            {
                tracing::error!(%error, "the agent ended by a panic");
            }
        }
    }
}

/// Ends every instance, politely at first; what is left after a deadline is killed with its sandbox by the caller.
pub async fn stop_all(instances: &Instances) {
    let ids: Vec<InstanceId> = instances.lock().keys().copied().collect();
    for instance in ids {
        instances.order(instance, Order::Stop);
    }
    let empty = async {
        while !instances.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(STOP_ALL_MAX, empty).await.is_err() {
        tracing::warn!(left = instances.lock().len(), "instances did not end in time");
    }
}

/// The task that owns the supervisor.
struct Driver {
    supervisor: Supervisor,
    means: Means,
    instances: Instances,
    events_tx: mpsc::Sender<Event>,
    reports: mpsc::Sender<Report>,
    /// The instance that has just become ready, until the supervisor has said what becomes of it.
    newcomer: Option<act::Newcomer>,
    /// Whether a function was seen that has a way out.
    expects_egress: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut demands: Demands,
        mut events: mpsc::Receiver<Event>,
        adopted: Vec<Sandbox>,
        mut registered: watch::Receiver<Option<Epoch>>,
        stop: CancellationToken,
    ) {
        let has_registered = tokio::select! {
            () = stop.cancelled() => return,
            waited = registered.wait_for(Option::is_some) => waited.is_ok(),
        };
        if !has_registered {
            return;
        }
        let mut changes = self.means.raft.changes();
        self.recover(adopted).await;
        changes.mark_changed();
        loop {
            let now = self.means.clock.now();
            let wake = self.supervisor.wake_at().map(|at| at.since(now));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take_state();
                }
                Some(demand) = demands.recv() => self.take_demand(demand),
                Some(event) = events.recv() => self.take_event(event),
                () = async { tokio::time::sleep(wake.unwrap_or(Duration::MAX)).await }, if wake.is_some() => {
                    self.feed(Input::Woke);
                }
            }
        }
    }

    fn take_state(&mut self) {
        let node = self.means.node;
        let expects_egress = self.expects_egress;
        let wanted = self.means.raft.read(|state| {
            self.means.gateway.set_state(state);
            self.expects_egress = expects_egress || startable(state).any(|spec| spec.network == Network::Egress);
            if state.removed.contains(&node) { Some(Input::Removed) } else { desired(state, node).map(Input::Desired) }
        });
        if self.expects_egress && !expects_egress {
            // So that the first call finds a sandbox with a way out.
            self.means.sandboxes.expect_egress();
        }
        if let Some(input) = wanted {
            self.feed(input);
        }
    }

    fn take_demand(&mut self, demand: Demand) {
        match demand {
            Demand::Wanted { revision, starting } => self.feed(Input::Wanted { revision, starting }),
            Demand::Retired { instance } => self.feed(Input::Retired { instance }),
            Demand::Kill { instance, reason } => {
                tracing::warn!(%instance, ?reason, "an instance is killed");
                self.instances.order(instance, Order::Kill);
            }
        }
    }

    /// Gives the supervisor an input and carries out what it answers.
    fn feed(&mut self, input: Input) {
        let effects = self.supervisor.on_input(self.means.clock.now(), input);
        for effect in effects {
            self.act(effect);
        }
    }
}
