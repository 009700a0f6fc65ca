//! One simulated node: the machines, what drives them, and the clock they are told. It is alone with a log of its own, or one of
//! several in a [cluster](crate::cluster).
//!
//! As in production, the machines tell each other things through queues: a demand of a dispatch, a report to the leader and
//! a changed state each arrive a moment after they were sent, in which other things happen.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use control_plane::controller::{self, Controller};
use control_plane::model::{
    Digest, FeatureLevel, FunctionName, InstanceId, NodeId, NodeSpec, Resources, RevisionId, Timestamp,
};
use control_plane::state::{Command, State};
use control_plane::supervisor::{self, Desired, Report, Supervisor, desired};

use crate::call::Errand;
use crate::journal::{Journal, Who};
use crate::log::{Log, Proposer};
use crate::mark::Mark;
use crate::member::{Member, News};
use crate::nature::Nature;
use crate::rng::{Rng, Span};
use crate::sandbox::Sandbox;
use crate::schedule::Schedule;
use crate::swarm::Swarm;
use crate::traffic::{Demand, Traffic};

/// The node that is alone.
const ALONE: NodeId = NodeId(1);

/// How often a machine may be woken at one moment before it is said to spin.
const WAKES_MAX: u32 = 100;

/// Something that happens at a time. A number tells in which life of the daemon, or of a sandbox, it has a meaning.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The first command that waits comes out of the log.
    Commit(u32),
    /// The agent looks at the changed state.
    Follow(u32),
    /// A demand of traffic reaches the agent.
    Demand(u32, Demand),
    /// A report reaches the leader.
    Report(u32, Report),
    /// A sandbox is ready, or is not going to be.
    Started(InstanceId, u32),
    /// An order reaches a sandbox.
    Ordered(InstanceId, u32),
    /// Nothing of a sandbox is left.
    Removed(InstanceId, u32),
    /// A call comes in.
    Arrive(FunctionName, Errand),
    /// A call is over, however it ends.
    Over(u128),
    /// A caller hangs up.
    HangUp(u128),
    /// An operator proposes something.
    Operate(Command),
    /// An operator goes back to the revision before the live one.
    GoBack(FunctionName),
    /// Some instance of this function, or of any, crashes.
    Crash(Option<FunctionName>),
    /// The daemon is killed and started again.
    Restart,
    /// The leader forgets what is under way.
    Depose,
    /// The log stands still.
    Stall(Duration),
    /// The machine cannot make any sandbox.
    Jam(Duration),
    /// What only a member of a cluster hears.
    News(u32, News),
}

/// Where a node's commands go, and where its state comes from.
#[derive(Debug)]
pub(crate) enum Footing {
    /// It is alone, with a log of its own.
    Alone(Log),
    /// It is one of several, which share a log.
    Member(Member),
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) now: Timestamp,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) journal: Journal,
    pub(crate) swarm: Swarm,
    pub(crate) capacity: Resources,
    /// What it says of itself beside that.
    pub(crate) labels: BTreeMap<String, String>,
    /// What its version reads of the log.
    pub(crate) features: FeatureLevel,
    /// What the code of each image is like.
    pub(crate) natures: BTreeMap<Digest, Nature>,
    pub(crate) footing: Footing,
    /// What it has applied.
    pub(crate) state: Arc<State>,
    pub(crate) controller: Controller,
    pub(crate) supervisor: Supervisor,
    pub(crate) traffic: Traffic,
    pub(crate) sandboxes: BTreeMap<InstanceId, Sandbox>,
    /// Every id under which something was started.
    pub(crate) started: BTreeSet<InstanceId>,
    /// Every revision of which an instance was ready, by what it runs.
    pub(crate) proved: BTreeSet<(RevisionId, Digest)>,
    /// When starts of a revision failed in a row, and how often.
    pub(crate) failing: BTreeMap<RevisionId, (Timestamp, u32)>,
    /// What the supervisor was told last.
    pub(crate) desired: Option<Desired>,
    /// Functions whose newest revision need not prove itself: an operator has decided otherwise since.
    pub(crate) withdrawn: BTreeSet<FunctionName>,
    /// Until when the machine cannot make sandboxes.
    pub(crate) jammed_until: Timestamp,
    /// Counts the daemon's lives: what an earlier one was told is for nobody.
    pub(crate) life: u32,
    /// The daemon serves; it does not between its start and its registration.
    pub(crate) is_up: bool,
    pub(crate) is_following: bool,
    pub(crate) rng: Rng,
    /// When some machine wants to be woken, once it is known; forgotten whenever a machine may have been told something.
    wake: Cell<Option<Option<Timestamp>>>,
}

impl Node {
    /// Returns a node that is alone and has begun to start.
    pub(crate) fn alone(seed: u64, now: Timestamp, capacity: Resources, swarm: Swarm, is_story: bool) -> Self {
        let footing = Footing::Alone(Log::new(seed, now));
        let mut node = Self::new(ALONE, Rng::stream(seed, "node"), now, capacity, swarm, footing, is_story);
        node.register();
        node
    }

    /// Returns a node whose daemon has not started.
    pub(crate) fn new(
        id: NodeId,
        rng: Rng,
        now: Timestamp,
        capacity: Resources,
        swarm: Swarm,
        footing: Footing,
        is_story: bool,
    ) -> Self {
        Self {
            id,
            now,
            schedule: Schedule::new(),
            journal: Journal::new(is_story),
            swarm,
            capacity,
            labels: BTreeMap::new(),
            features: FeatureLevel::NEWEST,
            natures: BTreeMap::new(),
            footing,
            state: Arc::default(),
            controller: Controller::new(id),
            supervisor: Supervisor::new(id),
            traffic: Traffic::default(),
            sandboxes: BTreeMap::new(),
            started: BTreeSet::new(),
            proved: BTreeSet::new(),
            failing: BTreeMap::new(),
            desired: None,
            withdrawn: BTreeSet::new(),
            jammed_until: now,
            life: 0,
            is_up: false,
            is_following: false,
            rng,
            wake: Cell::new(None),
        }
    }

    pub(crate) fn at(&mut self, time: Timestamp, event: Event) {
        self.schedule.enter(time.max(self.now), event);
    }

    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.schedule.enter(self.now + wait, event);
    }

    pub(crate) fn draw(&mut self, span: Span) -> Duration {
        self.rng.wait(span)
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.journal.marks.insert(mark);
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        self.journal.count(what);
    }

    pub(crate) fn blame(&mut self, violation: String) {
        self.journal.tell(self.now, Who::Nobody, || format!("VIOLATION: {violation}"));
        self.journal.blame(self.now, violation);
    }

    pub(crate) fn tell(&mut self, who: Who, text: impl FnOnce() -> String) {
        self.journal.tell(self.now, who, text);
    }

    /// Lets everything happen that happens before or at `end`.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        let mut wakes = (self.now, 0);
        loop {
            let event = self.schedule.next_at();
            let wake = self.wake_at();
            let Some(next) = [event, wake].into_iter().flatten().min().map(|next| next.max(self.now)) else { break };
            if next > end {
                break;
            }
            self.now = next;
            if event.is_some_and(|time| time <= next) {
                if let Some(event) = self.schedule.pop() {
                    self.happen(event);
                }
                wakes = (self.now, 0);
            } else {
                wakes = if wakes.0 == next { (next, wakes.1 + 1) } else { (next, 0) };
                if wakes.1 > WAKES_MAX {
                    let (supervisor, dispatch) = (self.supervisor.wake_at(), self.traffic.wake_at());
                    let machines = format!("the supervisor at {supervisor:?}, a dispatch at {dispatch:?}");
                    self.blame(format!("a machine spins: it wants to be woken at {wake:?}; {machines}"));
                    return;
                }
                self.wake();
            }
            self.check_calls();
        }
        self.now = end;
    }

    /// Returns when something happens here next.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        [self.schedule.next_at(), self.wake_at()].into_iter().flatten().min()
    }

    /// Returns when some machine wants to be woken; a daemon that is down has none.
    fn wake_at(&self) -> Option<Timestamp> {
        if let Some(known) = self.wake.get() {
            debug_assert_eq!(known, self.find_wake(), "something happened and nobody was stirred");
            return known;
        }
        let found = self.find_wake();
        self.wake.set(Some(found));
        found
    }

    /// Something is about to happen to the machines.
    pub(crate) fn stir(&mut self) {
        self.wake.set(None);
    }

    fn find_wake(&self) -> Option<Timestamp> {
        let decides = self.controller.wake_at().filter(|_| self.leads());
        if !self.is_up {
            return decides;
        }
        [decides, self.supervisor.wake_at(), self.traffic.wake_at()].into_iter().flatten().min()
    }

    fn wake(&mut self) {
        self.stir();
        let now = self.now;
        if self.leads() && self.controller.wake_at().is_some_and(|at| at <= now) {
            self.feed_controller(|state| controller::Input::Woke(state));
        }
        if !self.is_up {
            return;
        }
        if self.supervisor.wake_at().is_some_and(|at| at <= now) {
            self.feed_supervisor(supervisor::Input::Woke);
        }
        self.wake_traffic();
    }

    fn happen(&mut self, event: Event) {
        self.journal.note(self.now, &event);
        self.stir();
        match event {
            Event::Commit(life) if life == self.life => self.commit(),
            Event::Follow(life) if life == self.life => self.follow(),
            Event::Demand(life, demand) if life == self.life => self.take_demand(demand),
            Event::Report(life, report) if life == self.life => {
                self.feed_controller(move |state| {
                    let epoch = state.nodes.get(&report.node).map(|node| node.epoch).unwrap_or_default();
                    let beat = controller::Beat { node: report.node, epoch, events: vec![report.event] };
                    controller::Input::Heard(state, beat)
                });
            }
            Event::News(life, news) if life == self.life => self.hear(news),
            Event::Commit(_) | Event::Follow(_) | Event::Demand(..) | Event::Report(..) | Event::News(..) => {}
            Event::Started(instance, life) => self.sandbox_started(instance, life),
            Event::Ordered(instance, life) => self.sandbox_ordered(instance, life),
            Event::Removed(instance, life) => self.sandbox_removed(instance, life),
            Event::Arrive(function, errand) => self.call_arrived(&function, errand),
            Event::Over(call) => self.call_over(call),
            Event::HangUp(call) => self.call_cancelled(call),
            Event::Operate(command) => self.operate(command),
            Event::GoBack(function) => self.go_back(&function),
            Event::Crash(function) => self.crash(function.as_ref()),
            Event::Restart => self.restart(),
            Event::Depose => self.depose(),
            Event::Stall(wait) => self.stall_log(self.now + wait),
            Event::Jam(wait) => self.jammed_until = self.jammed_until.max(self.now + wait),
        }
    }

    fn operate(&mut self, command: Command) {
        if self.is_up {
            self.propose(command, Proposer::Operator);
        }
    }

    fn go_back(&mut self, function: &FunctionName) {
        let Some(known) = self.state.functions.get(function) else { return };
        let Some(live) = known.live else { return };
        if let Some((number, _)) = known.revisions.range(..live).next_back() {
            let revision = RevisionId { function: function.clone(), number: *number };
            self.operate(Command::Promote { revision });
        }
    }

    fn depose(&mut self) {
        if !self.is_up {
            return;
        }
        if self.state.functions.values().any(|function| function.candidate.is_some()) {
            self.mark(Mark::DeposedWhileProving);
        }
        self.feed_controller(|_| controller::Input::Deposed);
        self.feed_controller(|state| controller::Input::Applied(state));
    }

    /// The state has changed: the agent will look at it, once for all changes that come before it does.
    pub(crate) fn changed(&mut self) {
        if !self.is_up {
            return;
        }
        if self.is_following {
            return self.mark(Mark::ChangesCoalesced);
        }
        self.is_following = true;
        let wait = self.draw(self.swarm.hand_over);
        self.after(wait, Event::Follow(self.life));
    }

    fn follow(&mut self) {
        self.is_following = false;
        self.follow_state();
        self.desired = desired(&self.state, self.id);
        if let Some(desired) = self.desired.clone() {
            self.failing.retain(|revision, _| desired.revisions.contains_key(revision));
            self.feed_supervisor(supervisor::Input::Desired(desired));
        }
        self.check_dead_revisions();
    }

    /// Returns whether this node's controller decides.
    pub(crate) fn leads(&self) -> bool {
        match &self.footing {
            Footing::Alone(_) => self.is_up,
            Footing::Member(member) => member.leads,
        }
    }

    /// Gives the controller one input, unless another node leads, and carries out what it answers.
    pub(crate) fn feed_controller(&mut self, input: impl for<'a> FnOnce(&'a State) -> controller::Input<'a>) {
        if let Footing::Member(Member { leads: false, .. }) = self.footing {
            return;
        }
        let effects = self.controller.on_input(self.now, input(&self.state));
        for effect in effects {
            let controller::Effect::Propose(command) = effect else { continue };
            self.journal.note(self.now, &command);
            self.propose(command, Proposer::Controller);
        }
    }

    pub(crate) fn feed_supervisor(&mut self, input: supervisor::Input) {
        let effects = self.supervisor.on_input(self.now, input);
        for effect in effects {
            self.journal.note(self.now, &effect);
            match effect {
                supervisor::Effect::Start { instance, revision, .. } => self.start_sandbox(instance, revision),
                supervisor::Effect::Serve { instance, revision } => self.instance_ready(&revision, instance),
                supervisor::Effect::Drain { instance, .. } => self.drain(instance),
                supervisor::Effect::Stop { instance } => self.stop_sandbox(instance),
                supervisor::Effect::Decline { revision, reason } => self.decline(&revision, reason),
                supervisor::Effect::Propose(command) => self.propose(command, Proposer::Supervisor),
                supervisor::Effect::Report(report) => self.send_report(report),
            }
        }
    }

    fn send_report(&mut self, report: Report) {
        if let Footing::Member(_) = self.footing {
            return self.note_report(report.event);
        }
        if self.rng.chance(self.swarm.report_lost_permille) {
            return self.mark(Mark::ReportLost);
        }
        let wait = self.draw(self.swarm.hand_over);
        self.after(wait, Event::Report(self.life, report));
    }

    /// A daemon starts: it registers before anything else.
    pub(crate) fn register(&mut self) {
        let spec = NodeSpec {
            name: self.id.to_string(),
            capacity: self.capacity,
            labels: self.labels.clone(),
            features: self.features,
        };
        self.propose(Command::RegisterNode { node: self.id, spec }, Proposer::Daemon);
    }

    /// The daemon is registered: its machines begin, and take over what runs.
    pub(crate) fn begin(&mut self) {
        self.is_up = true;
        self.is_following = false;
        self.supervisor = Supervisor::new(self.id);
        self.desired = None;
        self.failing.clear();
        let instances = self.recover();
        self.follow_state();
        self.feed_supervisor(supervisor::Input::Recovered { instances });
    }

    /// The daemon is killed and comes back at once: what it knew is gone, the log and the sandboxes are not.
    fn restart(&mut self) {
        self.count("restarts");
        self.tell(Who::Nobody, || "the daemon is killed and starts again".to_owned());
        self.end_life();
        self.orphan_sandboxes();
        self.reopen_log();
        self.register();
    }

    /// The daemon is gone, and with it what its machines knew.
    pub(crate) fn end_life(&mut self) {
        self.stir();
        self.life += 1;
        self.is_up = false;
        self.controller = Controller::new(self.id);
        self.traffic_lost();
    }

    pub(crate) fn stop_faults(&mut self) {
        let Swarm { queue_wait, queue_max, .. } = self.swarm;
        self.swarm = Swarm { queue_wait, queue_max, ..Swarm::calm() };
        self.jammed_until = self.now;
        self.stall_log(self.now);
    }
}
