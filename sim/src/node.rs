//! One simulated node: the machines, the log between them, and the sandboxes they are told about.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use control_plane::controller::{self, Controller};
use control_plane::model::{
    Bytes, Ending, FunctionName, InstanceFailure, InstanceId, MilliCpu, NodeId, NodeSpec, Resources, RevisionId,
    Timestamp,
};
use control_plane::state::{Command, State, violations};
use control_plane::supervisor::{self, Supervisor, desired};

use crate::Report;
use crate::rng::{Rng, Span};
use crate::traffic::Traffic;

/// This node.
const NODE: NodeId = NodeId(1);

/// How often a machine may be woken at one moment before it is said to spin.
const WAKES_MAX: u32 = 100;

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A command comes out of the log.
    Apply(Command, bool),
    /// A sandbox is ready, or is not going to be.
    Started(InstanceId, u32),
    /// A call is done by its function.
    Done(u128),
    /// A call comes in.
    Arrive(FunctionName),
    /// An operator proposes something.
    Operate(Command),
    /// Some instance crashes.
    Crash,
    /// The agent is killed and comes back.
    Restart,
    /// The leader forgets what is under way.
    Depose,
}

/// What a simulated sandbox is doing.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) revision: RevisionId,
    pub(crate) is_ready: bool,
    /// Counts the agent's lives: what an earlier one was told is for nobody.
    life: u32,
}

pub(crate) struct Node {
    pub(crate) now: Timestamp,
    heap: BinaryHeap<Reverse<(Timestamp, u64, usize)>>,
    events: Vec<Option<Event>>,
    pub(crate) state: State,
    controller: Controller,
    supervisor: Supervisor,
    pub(crate) traffic: Traffic,
    pub(crate) sandboxes: BTreeMap<InstanceId, Sandbox>,
    started: BTreeSet<InstanceId>,
    life: u32,
    last_apply: Timestamp,
    pub(crate) faults: bool,
    rng: Rng,
    hash: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Node {
    pub(crate) fn new(seed: u64, now: Timestamp) -> Self {
        let mut node = Self {
            now,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            state: State::default(),
            controller: Controller::new(),
            supervisor: Supervisor::new(NODE),
            traffic: Traffic::default(),
            sandboxes: BTreeMap::new(),
            started: BTreeSet::new(),
            life: 0,
            last_apply: now,
            faults: true,
            rng: Rng::stream(seed, "node"),
            hash: 0xcbf2_9ce4_8422_2325,
            violations: Vec::new(),
            counts: BTreeMap::new(),
        };
        node.feed_supervisor(supervisor::Input::Recovered { instances: Vec::new() });
        node.register();
        node
    }

    fn register(&mut self) {
        let gib = 1 + self.rng.below(4);
        let capacity =
            Resources { cpu: MilliCpu(16_000), memory: Bytes(gib << 30), disk: Bytes(1 << 40), pids: 1 << 20 };
        let spec = NodeSpec { name: "one".to_owned(), capacity, labels: BTreeMap::new() };
        self.propose(Command::RegisterNode { node: NODE, spec }, false);
    }

    pub(crate) fn at(&mut self, time: Timestamp, event: Event) {
        let place = self.events.len();
        self.events.push(Some(event));
        self.heap.push(Reverse((time.max(self.now), place as u64, place)));
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn blame(&mut self, violation: String) {
        if self.violations.len() < 20 {
            self.violations.push(format!("{}: {violation}", self.now));
        }
    }

    /// Mixes what happens into the hash (FNV-1a of its text).
    pub(crate) fn note(&mut self, what: &dyn std::fmt::Debug) {
        for byte in format!("{} {what:?}", self.now).bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Lets everything happen that happens before `end`.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        let mut wakes = (self.now, 0);
        loop {
            let event = self.heap.peek().map(|Reverse((time, ..))| *time);
            let wake = [self.controller.wake_at(), self.supervisor.wake_at(), self.traffic.wake_at()];
            let wake = wake.into_iter().flatten().min();
            let Some(next) = [event, wake].into_iter().flatten().min().map(|next| next.max(self.now)) else { break };
            if next > end {
                break;
            }
            self.now = next;
            if event.is_some_and(|time| time <= next) {
                let Some(Reverse((_, _, place))) = self.heap.pop() else { break };
                if let Some(event) = self.events[place].take() {
                    self.happen(event);
                }
                wakes = (self.now, 0);
            } else {
                wakes = if wakes.0 == next { (next, wakes.1 + 1) } else { (next, 0) };
                if wakes.1 > WAKES_MAX {
                    self.blame(format!("a machine spins: it wants to be woken at {wake:?}"));
                    return;
                }
                self.wake();
            }
            self.check_calls();
        }
        self.now = end;
    }

    fn wake(&mut self) {
        let now = self.now;
        if self.controller.wake_at().is_some_and(|at| at <= now) {
            self.feed_controller(|state| controller::Input::Woke(state));
        }
        if self.supervisor.wake_at().is_some_and(|at| at <= now) {
            self.feed_supervisor(supervisor::Input::Woke);
        }
        self.wake_traffic();
    }

    fn happen(&mut self, event: Event) {
        self.note(&event);
        match event {
            Event::Apply(command, is_controllers) => self.apply(command, is_controllers),
            Event::Started(instance, life) if life == self.life => self.sandbox_started(instance),
            Event::Started(..) => {}
            Event::Done(call) => self.call_done(call),
            Event::Arrive(function) => self.call_arrived(&function),
            Event::Operate(command) => self.propose(command, false),
            Event::Crash => self.crash(),
            Event::Restart => self.restart(),
            Event::Depose => {
                self.feed_controller(|_| controller::Input::Deposed);
                self.feed_controller(|state| controller::Input::Applied(state));
            }
        }
    }

    /// Puts a command into the log: it comes out in the same order, some milliseconds later.
    fn propose(&mut self, command: Command, is_controllers: bool) {
        let slow = if self.faults && self.rng.chance(20) { Span::new(100, 3000) } else { Span::new(0, 3) };
        let at = (self.now + self.rng.wait(slow)).max(self.last_apply);
        self.last_apply = at;
        self.at(at, Event::Apply(command, is_controllers));
    }

    fn apply(&mut self, command: Command, is_controllers: bool) {
        let before = self.state.clone();
        let result = self.state.apply(self.now, command.clone());
        self.note(&result);
        if result.is_err() && self.state != before {
            self.blame(format!("a refused command changed the state: {command:?}"));
        }
        for violation in violations(&self.state) {
            self.blame(violation);
        }
        self.count(if result.is_ok() { "commands" } else { "rejections" });
        self.follow_state();
        if is_controllers {
            self.feed_controller(move |state| controller::Input::Answered(state, command, result));
        } else {
            self.feed_controller(|state| controller::Input::Applied(state));
        }
        if let Some(desired) = desired(&self.state, NODE) {
            self.feed_supervisor(supervisor::Input::Desired(desired));
        }
    }

    fn feed_controller(&mut self, input: impl for<'a> FnOnce(&'a State) -> controller::Input<'a>) {
        let effects = self.controller.on_input(self.now, input(&self.state));
        for controller::Effect::Propose(command) in effects {
            self.note(&command);
            self.propose(command, true);
        }
    }

    pub(crate) fn feed_supervisor(&mut self, input: supervisor::Input) {
        let effects = self.supervisor.on_input(self.now, input);
        for effect in effects {
            self.note(&effect);
            match effect {
                supervisor::Effect::Start { instance, revision, .. } => self.start_sandbox(instance, revision),
                supervisor::Effect::Drain { instance, .. } => self.drain(instance),
                supervisor::Effect::Stop { instance } => self.stop_sandbox(instance),
                supervisor::Effect::Decline { revision, reason } => self.decline(&revision, reason),
                supervisor::Effect::Propose(command) => self.propose(command, false),
                supervisor::Effect::Report(report) => {
                    self.feed_controller(move |state| controller::Input::Reported(state, report));
                }
            }
        }
    }

    fn start_sandbox(&mut self, instance: InstanceId, revision: RevisionId) {
        self.count("starts");
        // What the leader placed may be started again under its id after a restart of the agent; nothing else may.
        if self.sandboxes.contains_key(&instance) || (!self.started.insert(instance) && instance.origin != 0) {
            self.blame(format!("{instance} is started twice"));
        }
        self.sandboxes.insert(instance, Sandbox { revision, is_ready: false, life: self.life });
        if instance.origin != 0 {
            self.check_grant();
        }
        let wait = self.rng.wait(Span::new(1, if self.rng.clone().chance(100) { 4000 } else { 60 }));
        self.at(self.now + wait, Event::Started(instance, self.life));
    }

    fn sandbox_started(&mut self, instance: InstanceId) {
        let Some(sandbox) = self.sandboxes.get_mut(&instance) else { return };
        let revision = sandbox.revision.clone();
        // Every third revision of a function whose name says so is broken.
        let is_broken = revision.function.as_str().starts_with("shaky") && revision.number.0.is_multiple_of(3);
        let fails = self.faults && self.rng.chance(30);
        if is_broken || fails {
            self.sandboxes.remove(&instance);
            let failure = if is_broken {
                InstanceFailure::Init("broken".to_owned())
            } else {
                InstanceFailure::Sandbox("bad luck".to_owned())
            };
            self.count("failed starts");
            self.feed_supervisor(supervisor::Input::StartFailed { instance, failure });
            return;
        }
        sandbox.is_ready = true;
        self.instance_ready(&revision, instance);
        self.feed_supervisor(supervisor::Input::Started { instance });
    }

    fn stop_sandbox(&mut self, instance: InstanceId) {
        let Some(sandbox) = self.sandboxes.remove(&instance) else {
            self.blame(format!("{instance} is stopped and does not exist"));
            return;
        };
        self.instance_gone(instance);
        self.count("stops");
        if sandbox.is_ready {
            self.feed_supervisor(supervisor::Input::Ended { instance, ending: Ending::Stopped });
        } else {
            let failure = InstanceFailure::Sandbox("stopped".to_owned());
            self.feed_supervisor(supervisor::Input::StartFailed { instance, failure });
        }
    }

    fn crash(&mut self) {
        let ready: Vec<InstanceId> =
            self.sandboxes.iter().filter(|(_, sandbox)| sandbox.is_ready).map(|(instance, _)| *instance).collect();
        if !self.faults || ready.is_empty() {
            return;
        }
        let instance = *self.rng.pick(&ready);
        self.sandboxes.remove(&instance);
        self.count("crashes");
        self.instance_gone(instance);
        let ending = Ending::Failed(InstanceFailure::Exited(Some(1)));
        self.feed_supervisor(supervisor::Input::Ended { instance, ending });
    }

    /// The agent dies and comes back at once: sandboxes that were ready go on, the others are gone.
    fn restart(&mut self) {
        if !self.faults {
            return;
        }
        self.count("restarts");
        self.life += 1;
        self.traffic_lost();
        self.sandboxes.retain(|_, sandbox| sandbox.is_ready);
        self.supervisor = Supervisor::new(NODE);
        self.controller = Controller::new();
        let life = self.life;
        let mut instances = Vec::new();
        for (instance, sandbox) in &mut self.sandboxes {
            sandbox.is_ready = false;
            sandbox.life = life;
            instances.push((*instance, sandbox.revision.clone()));
        }
        self.follow_state();
        for (instance, _) in &instances {
            let wait = self.rng.wait(Span::new(1, 20));
            self.at(self.now + wait, Event::Started(*instance, life));
        }
        self.feed_supervisor(supervisor::Input::Recovered { instances });
        self.register();
    }

    pub(crate) fn stop_faults(&mut self) {
        self.faults = false;
    }

    pub(crate) fn draw(&mut self, span: Span) -> Duration {
        self.rng.wait(span)
    }

    pub(crate) fn into_report(self) -> Report {
        Report { hash: self.hash, violations: self.violations, counts: self.counts }
    }
}
