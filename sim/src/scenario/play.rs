//! Plays one seed of a scenario: forms the cluster, deploys, calls, breaks, mends, and looks all the while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use control_plane::model::{
    AppName, Bytes, FeatureLevel, FunctionSpec, MilliCpu, NodeId, Purpose, Resources, RevisionId, Scaling, Timestamp,
};
use control_plane::state::Command;
use serde::Serialize;

use super::text::as_millis;
use super::{FunctionLoad, Scenario};
use crate::call::{Errand, Kind as CallKind, Outcome as CallOutcome};
use crate::cluster::{Machine, World};
use crate::journal::End;
use crate::message;
use crate::nature::{Nature, image};
use crate::node::{Event, Node};
use crate::raft::{self, Host, Micros, Oracle, runtime};
use crate::rng::{Rng, Span};
use crate::sandbox::Stage;
use crate::schedule::Schedule;
use crate::swarm::Swarm;
use crate::workload::revision;

/// How often it is looked how the cluster is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long deployments may take to be live, with every minimum ready.
const LIVE_MAX: Duration = Duration::from_secs(60);

/// How long the cluster is left alone before the load begins.
const WARM_UP: Duration = Duration::from_secs(1);

/// What one seed came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash of everything that happened: the same seed of the same scenario has the same.
    pub hash: u64,
    /// How much time went by in the simulation.
    #[serde(rename = "span-ms", serialize_with = "as_millis")]
    pub span: Duration,
    /// How many calls there were.
    pub calls: u64,
    /// How many were answered.
    pub answered: u64,
    /// How long the median of those took.
    #[serde(rename = "p50-ms", serialize_with = "as_millis")]
    pub p50: Duration,
    /// How long all but one of a hundred took.
    #[serde(rename = "p99-ms", serialize_with = "as_millis")]
    pub p99: Duration,
    /// How many of those waited for an instance.
    pub cold: u64,
    /// How long all but one of a hundred of those took.
    #[serde(rename = "cold-p99-ms", serialize_with = "as_millis")]
    pub cold_p99: Duration,
    /// How many changes an operator asked for.
    pub changes: u64,
    /// How many of them were acknowledged.
    pub acknowledged: u64,
    /// How many of those are not there at the end.
    pub lost_acked: u64,
    /// How long each fault was felt.
    pub recoveries: Vec<Recovery>,
    /// What must never happen and did.
    pub violations: Vec<String>,
    /// What happened, line by line; only if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

/// How long one fault was felt, from its beginning until the next one's.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recovery {
    /// The fault, as the scenario has it.
    pub fault: String,
    /// The nodes it happened to.
    pub nodes: Vec<String>,
    /// Until a leader was there that a majority follows.
    #[serde(rename = "leader-ms", serialize_with = "as_millis")]
    pub leader: Duration,
    /// Until every minimum was ready on nodes that are reached.
    #[serde(rename = "placed-ms", serialize_with = "as_millis")]
    pub placed: Duration,
    /// How many calls were not answered.
    pub unanswered: u64,
}

impl Recovery {
    /// Returns until when anything of it was felt.
    pub fn total(&self) -> Duration {
        self.leader.max(self.placed)
    }
}

/// Something on the way through a scenario.
enum Step {
    Call(usize),
    Change,
    Begin(usize),
    End(usize),
    Look,
}

/// A fault that has begun.
pub(super) struct Felt {
    pub(super) began: Timestamp,
    pub(super) recovery: Recovery,
}

/// A scenario that is being played.
pub(super) struct Player<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) world: World,
    steps: Schedule<Step>,
    pub(super) rng: Rng,
    begin: Timestamp,
    /// When the next call of each function comes, in microseconds after the beginning.
    arrivals: Vec<u64>,
    /// Whom each fault has hit.
    pub(super) targets: Vec<Vec<NodeId>>,
    pub(super) felt: Vec<Felt>,
    changes: u64,
}

/// Plays one seed; tells it line by line if `is_told`.
pub fn play(scenario: &Scenario, seed: u64, is_told: bool) -> Outcome {
    runtime::begin(seed);
    let oracle = Oracle::default();
    if is_told {
        oracle.facts().journal.lines = Some(Vec::new());
    }
    let mut player = Player {
        scenario,
        world: World::new(seed, replicas(scenario), surroundings(), oracle.clone(), is_told),
        steps: Schedule::new(),
        rng: Rng::stream(seed, "scenario"),
        begin: Timestamp::default(),
        arrivals: vec![0; scenario.functions.len()],
        targets: vec![Vec::new(); scenario.faults.len()],
        felt: Vec::new(),
        changes: 0,
    };
    // A panic must not leave nodes behind: they would be dropped while the thread ends.
    let played = catch_unwind(AssertUnwindSafe(|| player.run()));
    let span = Duration::from_nanos(runtime::now());
    let cleared = catch_unwind(AssertUnwindSafe(|| player.world.switch_off()));
    let hash = player.world.hash(runtime::end());
    for panic in [played.err(), cleared.err()].into_iter().flatten() {
        oracle.facts().journal.blame(&format!("it panicked: {}", message(panic.as_ref())));
    }
    let mut outcome = player.outcome(seed, hash, span);
    let mut facts = std::mem::take(&mut *oracle.facts());
    outcome.violations = std::mem::take(&mut facts.journal.violations);
    outcome.lines = facts.journal.lines.unwrap_or_default();
    outcome
}

fn replicas(scenario: &Scenario) -> raft::Swarm {
    let latency = u64::try_from(scenario.latency.as_micros()).unwrap_or(u64::MAX);
    let nodes = u64::from(scenario.nodes());
    let delay = Micros(latency, latency + latency / 4);
    raft::Swarm { founders: 1, delay, coalesced: (latency / 4).max(1), ..raft::Swarm::calm(nodes) }
}

/// Returns surroundings in which nothing goes wrong by itself, and things take no longer than they must.
pub(crate) fn surroundings() -> Swarm {
    Swarm { hand_over: Span::new(0, 1), order: Span::new(0, 2), ..Swarm::calm() }
}

impl Player<'_> {
    fn run(&mut self) {
        let scenario = self.scenario;
        let machines = self.machines();
        let zones: Vec<String> = machines.iter().map(|machine| machine.zone.clone()).collect();
        self.world.set_distances(&zones, scenario.latency_between);
        if !self.world.form(&machines) || !self.deploy() {
            return;
        }
        self.begin = self.world.now();
        for node in self.world.nodes_mut() {
            node.journal.ends = Some(Vec::new());
            node.journal.acknowledged.clear();
        }
        for function in 0..scenario.functions.len() {
            self.call_later(function);
        }
        for (number, fault) in scenario.faults.iter().enumerate() {
            self.steps.enter(self.begin + fault.at, Step::Begin(number));
            self.steps.enter(self.begin + fault.at + fault.length, Step::End(number));
        }
        if let Some(every) = scenario.change_every {
            self.steps.enter(self.begin + every, Step::Change);
        }
        self.steps.enter(self.begin + LOOK_EVERY, Step::Look);
        let end = self.begin + scenario.length;
        while let Some(at) = self.steps.next_at().filter(|at| *at <= end) {
            self.world.run_until(at);
            if let Some(step) = self.steps.pop() {
                self.take(step);
            }
        }
        self.world.run_until(end);
        self.finish();
    }

    fn machines(&self) -> Vec<Machine> {
        let (cpu, memory) = self.scenario.capacity;
        let capacity = Resources { cpu, memory, disk: Bytes(1 << 40), pids: 1 << 20 };
        let zones = self.scenario.zones.iter();
        let each =
            zones.flat_map(|(zone, count)| std::iter::repeat_n(zone.clone(), usize::try_from(*count).unwrap_or(0)));
        each.map(|zone| Machine { capacity, zone, features: FeatureLevel::NEWEST }).collect()
    }

    /// Deploys every function; returns whether all are live, with their minimums, in time.
    fn deploy(&mut self) -> bool {
        let mut functions = Vec::new();
        for (number, function) in (1..).zip(&self.scenario.functions) {
            self.world.add_nature(image(number), nature(function));
            let resources = Resources { cpu: MilliCpu(100), memory: function.memory, disk: Bytes::mebi(64), pids: 64 };
            functions.push(FunctionSpec {
                name: function.name.clone(),
                revision: revision(number, resources, function.timeout, function.concurrency),
                scaling: function.scaling,
                triggers: Vec::new(),
            });
        }
        let app: AppName = "scenario".parse().expect("the name is valid");
        let by = self.some_node().unwrap_or(NodeId(1));
        self.world.operate(by, Command::DeployApp { app, functions, check_index: None });
        let until = self.world.now() + LIVE_MAX;
        while !self.is_placed() {
            if self.world.now() >= until {
                self.world.blame("not in time: every function is live and its minimum ready; is there room for them?");
                return false;
            }
            self.world.run_until(self.world.now() + LOOK_EVERY);
        }
        self.world.run_until(self.world.now() + WARM_UP);
        true
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Call(function) => {
                self.call(function);
                self.call_later(function);
            }
            Step::Change => {
                self.change();
                let every = self.scenario.change_every.unwrap_or(self.scenario.length);
                self.steps.enter(self.world.now() + every, Step::Change);
            }
            Step::Begin(number) => self.break_something(number),
            Step::End(number) => self.mend(number),
            Step::Look => {
                self.look();
                self.steps.enter(self.world.now() + LOOK_EVERY, Step::Look);
            }
        }
    }

    /// Lets a call come in through a node that takes connections, as a balancer would choose it.
    fn call(&mut self, function: usize) {
        let Some(node) = self.some_node() else { return };
        let name = self.scenario.functions[function].name.clone();
        let errand = Errand { kind: CallKind::Plain, tries: 0 };
        self.world.at(self.world.now(), node, Event::Arrive(name, errand));
    }

    fn call_later(&mut self, function: usize) {
        let rate = u64::from(self.scenario.functions[function].rate);
        let Some(mean) = 1_000_000_u64.checked_div(rate) else { return };
        // Drawn as milliseconds and taken as microseconds: the gaps are shorter than the clock's steps.
        let gap = self.rng.exponential(Duration::from_millis(mean)).as_millis();
        self.arrivals[function] += u64::try_from(gap).unwrap_or(u64::MAX);
        let at = self.begin + Duration::from_micros(self.arrivals[function]);
        self.steps.enter(at, Step::Call(function));
    }

    /// Lets an operator change how a function scales: back and forth, so that every change is one.
    fn change(&mut self) {
        let function =
            &self.scenario.functions[usize::try_from(self.changes).unwrap_or(0) % self.scenario.functions.len()];
        let (scaling, name) = (function.scaling, function.name.clone());
        let more = u32::try_from(self.changes % 2).unwrap_or(0);
        let Ok(scaling) = Scaling::new(scaling.min(), scaling.max().saturating_add(more), scaling.idle_max()) else {
            return;
        };
        if let Some(node) = self.some_node() {
            self.changes += 1;
            self.world.operate(node, Command::Scale { function: name, change: scaling.into() });
        }
    }

    /// Returns a node that takes connections, if any does.
    pub(super) fn some_node(&mut self) -> Option<NodeId> {
        let up: Vec<NodeId> = self.world.nodes().filter(|node| node.is_up).map(|node| node.id).collect();
        if up.is_empty() { None } else { Some(*self.rng.pick(&up)) }
    }

    /// Notes how long the last fault has been felt.
    fn look(&mut self) {
        if self.felt.is_empty() {
            return;
        }
        let leader = self.world.replicas().agreed_leader().and_then(|leader| u32::try_from(leader).ok());
        // Who follows one that is away does not know it yet.
        let is_led = leader.is_some_and(|leader| !self.is_away(NodeId(leader)));
        let is_placed = self.is_placed();
        let now = self.world.now();
        if let Some(Felt { began, recovery }) = self.felt.last_mut() {
            let since = now.since(*began);
            if !is_led {
                recovery.leader = since;
            }
            if !is_placed {
                recovery.placed = since;
            }
        }
    }

    /// Returns whether every function is live, with its minimum ready on nodes that are reached.
    fn is_placed(&self) -> bool {
        let state = self.world.state();
        let reached: Vec<&Node> = self.world.nodes().filter(|node| node.is_up && !self.is_away(node.id)).collect();
        self.scenario.functions.iter().all(|function| {
            let known = state.functions.get(&function.name);
            let Some(number) = known.and_then(|known| known.live) else { return false };
            let revision = RevisionId { function: function.name.clone(), number };
            let is_one = |node: &Node| {
                let sandboxes = node.sandboxes.iter();
                let ready = sandboxes.filter(|(_, one)| one.stage == Stage::Ready && one.revision == revision);
                let is_kept = |id| state.placements.get(id).is_some_and(|place| place.purpose == Purpose::Minimum);
                ready.filter(|(id, _)| is_kept(*id)).count()
            };
            let ready: usize = reached.iter().map(|node| is_one(node)).sum();
            ready >= usize::try_from(function.scaling.min()).unwrap_or(usize::MAX)
        })
    }

    /// Returns whether a node is cut off, or stands still.
    fn is_away(&self, node: NodeId) -> bool {
        let number = u64::from(node.0);
        let replicas = self.world.replicas();
        if !matches!(replicas.network().host(number), Host::Up(..)) || self.world.is_paused(node) {
            return true;
        }
        let others = self.world.nodes().count() - 1;
        replicas.network().out_of_reach(number) * 2 > others
    }

    /// Lets every call come to its end.
    fn finish(&mut self) {
        let longest = self.scenario.functions.iter().map(|function| function.timeout).max().unwrap_or_default();
        let until = self.world.now() + surroundings().queue_wait + longest;
        while self.world.now() < until && self.world.nodes().any(|node| node.traffic.open() > 0) {
            self.world.run_until(self.world.now() + LOOK_EVERY);
        }
        for node in self.world.nodes().filter(|node| node.traffic.open() > 0) {
            self.world.blame(&format!("{} calls never come to an end on {}", node.traffic.open(), node.id));
        }
    }

    fn outcome(self, seed: u64, hash: u64, span: Duration) -> Outcome {
        let ends: Vec<&End> = self.world.nodes().flat_map(|node| node.journal.ends.iter().flatten()).collect();
        let mut warm: Vec<Duration> = Vec::new();
        let mut cold: Vec<Duration> = Vec::new();
        for end in ends.iter().filter(|end| end.outcome == CallOutcome::Done) {
            warm.push(end.took);
            if end.has_waited {
                cold.push(end.took);
            }
        }
        let calls = self.world.nodes().map(|node| node.journal.counted("calls")).sum();
        let acknowledged: Vec<u64> = self.world.nodes().flat_map(|node| node.journal.acknowledged.clone()).collect();
        let index = self.world.state().index;
        let starts: Vec<Timestamp> = self.felt.iter().map(|felt| felt.began).collect();
        let recoveries = self.felt.into_iter().enumerate().map(|(number, felt)| {
            let until = starts.get(number + 1).copied();
            let is_within = |end: &&&End| end.at >= felt.began && until.is_none_or(|until| end.at < until);
            let unanswered =
                ends.iter().filter(is_within).filter(|end| end.outcome != CallOutcome::Done).count() as u64;
            Recovery { unanswered, ..felt.recovery }
        });
        Outcome {
            seed,
            hash,
            span,
            calls,
            answered: warm.len() as u64,
            p50: percentile(&mut warm, 50),
            p99: percentile(&mut warm, 99),
            cold: cold.len() as u64,
            cold_p99: percentile(&mut cold, 99),
            changes: self.changes,
            acknowledged: acknowledged.len() as u64,
            lost_acked: acknowledged.iter().filter(|acknowledged| **acknowledged > index).count() as u64,
            recoveries: recoveries.collect(),
            violations: Vec::new(),
            lines: Vec::new(),
        }
    }
}

fn nature(function: &FunctionLoad) -> Nature {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let span = |(least, most): (Duration, Duration)| Span::new(millis(least), millis(most));
    Nature { start: span(function.start), call: span(function.call), ..Nature::plain() }
}

/// Returns what so many of a hundred are not above; zero where there are none.
fn percentile(figures: &mut [Duration], percent: usize) -> Duration {
    figures.sort_unstable();
    let rank = (figures.len() * percent).div_ceil(100).max(1);
    figures.get(rank - 1).copied().unwrap_or_default()
}
