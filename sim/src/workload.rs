//! What callers, operators and bad luck do to a node, drawn from its seed.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::{
    AppName, Bytes, Concurrency, Constraints, Digest, FunctionName, FunctionSpec, MilliCpu, Network, Resources,
    RevisionSpec, Runtime, Scaling, Timestamp,
};
use control_plane::state::Command;

use crate::call::{Errand, Kind};
use crate::nature::{Init, Nature, image};
use crate::node::{Event, Node};
use crate::rng::Rng;
use crate::swarm::Swarm;

/// How many images a seed's deployments choose from.
const IMAGES: u32 = 6;

/// How many calls of a storm come at one moment.
const STORM_MAX: u64 = 120;

/// Draws the node of a seed.
pub(crate) fn node(seed: u64, now: Timestamp) -> Node {
    let mut rng = Rng::stream(seed, "swarm");
    // Storms outlast the shorter one, and what waits is to be told so.
    let queue_wait = Duration::from_secs(*Rng::stream(seed, "queue wait").pick(&[5, 60]));
    let swarm = Swarm { queue_wait, ..Swarm::draw(&mut rng) };
    let mebi = *rng.pick(&[256, 1024, 2048, 4096]);
    let capacity = Resources { cpu: MilliCpu(16_000), memory: Bytes::mebi(mebi), disk: Bytes(1 << 40), pids: 1 << 20 };
    Node::alone(seed, now, capacity, swarm, false)
}

/// What is drawn for a seed: what the code of each image is like, and what happens when.
#[derive(Default)]
pub(crate) struct Drawn {
    pub(crate) natures: BTreeMap<Digest, Nature>,
    pub(crate) events: Vec<(Timestamp, Event)>,
}

/// Within which bounds it is drawn.
pub(crate) struct Bounds {
    pub(crate) begin: Timestamp,
    pub(crate) end: Timestamp,
    /// So little room that one instance per function is all that is kept.
    pub(crate) is_small: bool,
    /// How many functions there are at most.
    pub(crate) functions_max: u64,
    /// How many seconds an instance may idle, at most.
    pub(crate) idle_max: u64,
    /// How long a call may take.
    pub(crate) timeout: Duration,
    /// How long a machine may be unable to make sandboxes, in milliseconds.
    pub(crate) jams: [u64; 3],
    /// How code that does not start fails.
    pub(crate) broken: &'static [Init],
}

/// What is drawn from.
struct Plan {
    rng: Rng,
    bounds: Bounds,
    busy_ms: u64,
    names: Vec<FunctionName>,
    /// The kinds of calls there are; the first is what most are.
    kinds: Vec<Kind>,
    drawn: Drawn,
}

/// Lets happen to a node that is alone whatever its seed says until `end`.
pub(crate) fn begin(node: &mut Node, seed: u64, end: Timestamp) {
    let bounds = Bounds {
        begin: node.now,
        end,
        is_small: node.capacity.memory < Bytes::mebi(1024),
        functions_max: 4,
        idle_max: 700,
        timeout: Duration::from_secs(10),
        jams: [500, 10_000, 115_000],
        broken: &[Init::Raises, Init::Exits, Init::Hangs],
    };
    let Drawn { natures, events } = draw(Rng::stream(seed, "workload"), bounds);
    node.natures.extend(natures);
    for (at, event) in events {
        node.at(at, event);
    }
}

/// How many seconds the longest of the short keep-alives lasts.
const SHORT_SECS: u64 = 20;

/// Draws everything that will happen.
pub(crate) fn draw(mut rng: Rng, bounds: Bounds) -> Drawn {
    let count = 1 + rng.below(if bounds.is_small { 2 } else { bounds.functions_max });
    let names = (0..count).map(|number| format!("fn-{number}").parse().expect("the name is valid")).collect();
    let mut kinds = vec![Kind::Plain];
    for kind in [Kind::Poison, Kind::Greedy, Kind::Hang] {
        if rng.chance(250) {
            kinds.push(kind);
        }
    }
    let busy_ms = u64::try_from(bounds.end.since(bounds.begin).as_millis()).unwrap_or(u64::MAX);
    let broken_permille = *rng.pick(&[0, 0, 300]);
    let mut drawn = Drawn::default();
    for number in 0..IMAGES {
        // The first image always works: some revision of every function is to serve.
        let broken_permille = if number == 0 { 0 } else { broken_permille };
        drawn.natures.insert(image(number), Nature::draw(&mut rng, broken_permille, bounds.broken));
    }
    let mut plan = Plan { rng, bounds, busy_ms, names, kinds, drawn };
    plan.operators();
    plan.callers();
    plan.faults();
    plan.drawn
}

impl Plan {
    fn some_time(&mut self, from_ms: u64) -> Timestamp {
        self.bounds.begin + Duration::from_millis(self.rng.between(from_ms, self.busy_ms.saturating_sub(5_000)))
    }

    fn enter(&mut self, at: Timestamp, event: Event) {
        self.drawn.events.push((at, event));
    }

    fn operators(&mut self) {
        let first = self.deploy(0);
        self.enter(self.bounds.begin + Duration::from_millis(5), Event::Operate(first));
        for _ in 0..self.rng.below(6) {
            let at = self.some_time(1_000);
            let newest = self.deploy(IMAGES);
            self.enter(at, Event::Operate(newest));
            // An impatient one deploys again while the last one is being proved.
            if self.rng.chance(200) {
                let again = self.deploy(IMAGES);
                let at = at + Duration::from_millis(self.rng.below(300));
                self.enter(at, Event::Operate(again));
            }
        }
        for _ in 0..self.rng.below(3) {
            let (at, function) = (self.some_time(1_000), self.name());
            self.enter(at, Event::GoBack(function));
        }
        for _ in 0..self.rng.below(3) {
            let (at, function, scaling) = (self.some_time(1_000), self.name(), self.scaling());
            self.enter(at, Event::Operate(Command::Scale { function, change: scaling.into() }));
        }
        if self.rng.chance(400) {
            let (at, function) = (self.some_time(5_000), self.name());
            self.enter(at, Event::Operate(Command::DeleteFunction { function }));
            if self.rng.chance(800) {
                let again = self.deploy(IMAGES);
                let at = at + Duration::from_millis(*self.rng.pick(&[0, 0, 0, 10, 500]));
                self.enter(at, Event::Operate(again));
            }
        }
    }

    fn callers(&mut self) {
        for name in self.names.clone() {
            let most = *self.rng.pick(&[20, 400, 800]);
            for _ in 0..self.rng.below(most) {
                let at = self.some_time(0);
                self.call(at, &name);
            }
            for _ in 0..self.rng.below(3) {
                let at = self.some_time(1_000);
                for _ in 0..self.rng.below(STORM_MAX) {
                    self.call(at, &name);
                }
            }
        }
    }

    fn call(&mut self, at: Timestamp, name: &FunctionName) {
        let kind = if self.rng.chance(970) { Kind::Plain } else { *self.rng.pick(&self.kinds) };
        self.enter(at, Event::Arrive(name.clone(), Errand { kind, tries: 0 }));
    }

    /// Each class of faults is there in some seeds and not in others.
    fn faults(&mut self) {
        let classes: [(Event, u64); 3] = [(Event::Crash(None), 12), (Event::Restart, 4), (Event::Depose, 5)];
        for (event, most) in classes {
            if self.rng.chance(600) {
                for _ in 0..self.rng.below(most) {
                    let at = self.some_time(100);
                    self.enter(at, event.clone());
                }
            }
        }
        if self.rng.chance(300) {
            let (at, wait) = (self.some_time(100), *self.rng.pick(&[500, 3_000, 15_000, 25_000]));
            self.enter(at, Event::Stall(Duration::from_millis(wait)));
        }
        if self.rng.chance(200) {
            let (at, wait) = (self.some_time(100), *self.rng.pick(&self.bounds.jams));
            self.enter(at, Event::Jam(Duration::from_millis(wait)));
        }
    }

    fn name(&mut self) -> FunctionName {
        self.rng.pick(&self.names).clone()
    }

    fn scaling(&mut self) -> Scaling {
        let min = self.rng.below(if self.bounds.is_small { 2 } else { 3 });
        let max = self.rng.between(2, 40);
        // Half of them are about as long as calls take, so that the end of the one meets the beginning of the other.
        let idle_max = if self.rng.chance(500) { SHORT_SECS.min(self.bounds.idle_max) } else { self.bounds.idle_max };
        let idle = Duration::from_secs(self.rng.between(1, idle_max));
        let limit = |limit: u64| u32::try_from(limit).unwrap_or(u32::MAX);
        Scaling::new(limit(min), limit(max), idle).expect("the minimum is below the maximum")
    }

    /// Draws a deployment of every function; `images` is how many there are to choose from beside the first.
    fn deploy(&mut self, images: u32) -> Command {
        let app: AppName = "simulated".parse().expect("the name is valid");
        let functions = self
            .names
            .clone()
            .into_iter()
            .map(|name| {
                let number = u32::try_from(self.rng.below(u64::from(images))).unwrap_or(0);
                FunctionSpec { name, revision: self.revision(number), scaling: self.scaling(), triggers: Vec::new() }
            })
            .collect();
        Command::DeployApp { app, functions, check_index: None }
    }

    fn revision(&mut self, number: u32) -> RevisionSpec {
        let resources = Resources {
            cpu: MilliCpu(100),
            memory: Bytes::mebi(*self.rng.pick(&[64, 100, 128])),
            disk: Bytes::mebi(64),
            pids: 64,
        };
        let concurrency = Concurrency::new(u16::try_from(self.rng.between(1, 4)).unwrap_or(1));
        revision(number, resources, self.bounds.timeout, concurrency.unwrap_or(Concurrency::ONE))
    }
}

/// Returns a revision of the nth image.
pub(crate) fn revision(number: u32, resources: Resources, timeout: Duration, concurrency: Concurrency) -> RevisionSpec {
    RevisionSpec {
        runtime: Runtime::Provided,
        image: image(number),
        command: Vec::new(),
        handler: None,
        environment: BTreeMap::new(),
        resources,
        timeout,
        concurrency,
        network: Network::None,
        user: Some(1000),
        placement: Constraints::default(),
    }
}

/// Calls every function once more.
pub(crate) fn one_more_call_each(node: &mut Node) {
    let done = node.journal.counted("done");
    node.journal.counts.insert("done before", done);
    let live: Vec<FunctionName> = node
        .state
        .functions
        .iter()
        .filter(|(_, function)| function.live.is_some())
        .map(|(name, _)| name.clone())
        .collect();
    for name in live {
        node.at(node.now, Event::Arrive(name, Errand { kind: Kind::Plain, tries: 0 }));
    }
}
