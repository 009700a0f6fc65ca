//! What happens to a cluster: how it is formed, and what operators, callers and bad luck do to it, drawn from its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control_plane::model::{Bytes, Digest, FeatureLevel, MilliCpu, NodeId, Resources, Timestamp};
use control_plane::state::Command;

use super::FOUNDER;
use super::world::{Machine, World};
use crate::call::{Errand, Kind};
use crate::nature::{Init, STOP_GRACE};
use crate::node::Event;
use crate::raft::{self, Micros, Oracle, runtime};
use crate::rng::Rng;
use crate::swarm::Swarm;
use crate::workload::{self, Bounds, Drawn};

/// How long a cluster may take to form.
const FORM_MAX: Duration = Duration::from_secs(20);

/// How long it is left alone between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The secret by which nodes are let in.
pub(super) const SECRET: [u8; 32] = [7; 32];

/// How many machines may show it.
const LET_IN_MAX: u32 = 200;

/// How many of a thousand clusters begin with an older version.
const OLD_PERMILLE: u32 = 300;

/// How many of a thousand clusters have a daemon that is away during a deployment.
const AWAY_PERMILLE: u32 = 300;

/// How many calls wait for it, each of which keeps its instance until its time is over.
const AWAY_CALLS: u32 = 120;

/// How many labels are set where nodes of older versions are.
const LABELS: usize = 6;

/// Draws the cluster of a seed, and its machines.
pub(super) fn world(seed: u64, oracle: Oracle, is_told: bool) -> (World, Vec<Machine>) {
    let mut rng = Rng::stream(seed, "cluster swarm");
    let nodes: u32 = *rng.pick(&[3, 3, 3, 4, 5, 7]);
    let long = rng.chance(500);
    let raft = raft::Swarm {
        voters: u64::from(nodes),
        founders: 1,
        fault_pace: *rng.pick(&[Micros(200_000, 2_000_000), Micros(1_000_000, 5_000_000)]),
        // Longer than a node may be silent, in some seeds.
        down: if long { Micros(100_000, 9_000_000) } else { Micros(5_000, 2_500_000) },
        broken: if long { Micros(100_000, 9_000_000) } else { Micros(50_000, 3_000_000) },
        ..raft::Swarm::draw(&mut rng)
    };
    let swarm = Swarm { queue_wait: Duration::from_secs(5), ..Swarm::draw(&mut rng) };
    if is_told {
        oracle.facts().journal.lines = Some(vec![format!("{nodes} nodes, {raft:?}, {swarm:?}")]);
    }
    let mut levels = Rng::stream(seed, "levels");
    // Whoever founds a cluster says which version it begins with; nobody joins it with an older one.
    let is_old = levels.chance(OLD_PERMILLE);
    let machine = |number: u32| {
        let is_older = is_old && (number == 0 || levels.chance(500));
        let features = if is_older { FeatureLevel(0) } else { FeatureLevel::NEWEST };
        Machine { capacity: capacity(&mut rng), zone: String::new(), features }
    };
    let machines = (0..nodes).map(machine).collect();
    (World::new(seed, raft, swarm, oracle, is_told), machines)
}

/// Draws everything that will happen until `end`.
pub(super) fn begin(world: &mut World, seed: u64, end: Timestamp) {
    let least = world.nodes.values().map(|node| node.capacity.memory).min().unwrap_or(Bytes(0));
    let bounds = Bounds {
        begin: world.now,
        end,
        is_small: least < Bytes::mebi(1024),
        functions_max: 3,
        idle_max: 6,
        timeout: Duration::from_secs(3),
        jams: [200, 1_000, 3_000],
        broken: &[Init::Raises, Init::Exits],
    };
    let Drawn { mut natures, events } = workload::draw(Rng::stream(seed, "workload"), bounds);
    let mut absence = Rng::stream(seed, "away");
    let is_deploy = |event: &Event| matches!(event, Event::Operate(Command::DeployApp { .. }));
    let second = events.iter().filter(|(_, event)| is_deploy(event)).nth(1).cloned();
    if let Some((at, deploy)) = second.filter(|_| absence.chance(AWAY_PERMILLE)) {
        natures.values_mut().for_each(|nature| nature.stop = STOP_GRACE);
        away(world, &mut absence, at, deploy);
    }
    for node in world.nodes.values_mut() {
        node.natures.extend(natures.clone());
    }
    world.natures.extend(natures);
    let mut rng = Rng::stream(seed, "places");
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for (at, event) in events {
        match event {
            // The replicas fail in ways of their own.
            Event::Restart | Event::Depose | Event::Stall(_) => {}
            event => world.at(at, *rng.pick(&nodes), event),
        }
    }
    if rng.chance(300) {
        let wait = Duration::from_millis(rng.between(100, 10_000));
        world.lose_later(wait, *rng.pick(&nodes));
    }
    label(world, &mut Rng::stream(seed, "labels"), end);
    if rng.chance(400) {
        let (node, by) = (*rng.pick(&nodes), *rng.pick(&nodes));
        let at = rng.moment(world.now, end);
        let until = at + Duration::from_millis(rng.between(100, 6_000));
        world.at(at, by, Event::Operate(Command::Drain { node, is_draining: true }));
        world.at(until, by, Event::Operate(Command::Drain { node, is_draining: false }));
    }
}

/// Takes the daemon of the smallest node away while everything is deployed anew, and lets callers come as it is back: what outlived
/// it and nobody wants takes its time to end, and what they need is started beside it.
fn away(world: &mut World, rng: &mut Rng, at: Timestamp, deploy: Event) {
    let Event::Operate(Command::DeployApp { functions, .. }) = &deploy else { return };
    let Some(name) = functions.first().map(|function| function.name.clone()) else { return };
    let Some(node) = world.nodes.values().min_by_key(|node| node.capacity.memory).map(|node| node.id) else { return };
    let back = Duration::from_millis(rng.between(1_000, 2_500));
    for _ in 0..AWAY_CALLS {
        let arrives = at + back + Duration::from_millis(rng.between(50, 1_500));
        world.at(arrives, node, Event::Arrive(name.clone(), Errand { kind: Kind::Hang, tries: 0 }));
    }
    let others: Vec<NodeId> = world.nodes.keys().copied().filter(|other| *other != node).collect();
    // Whoever was to deploy it may be the one that is down.
    world.at(at, *rng.pick(&others), deploy);
    let (cluster, number) = (world.replicas().clone(), u64::from(node.0));
    runtime::after(at.since(world.now), move || {
        cluster.oracle().count("daemons away");
        cluster.crash(&[number], raft::Crash::Process);
        runtime::after(back, move || cluster.boot(number));
    });
}

/// Lets operators set labels where not every node may be able to read that.
fn label(world: &mut World, rng: &mut Rng, end: Timestamp) {
    if world.nodes.values().all(|node| node.features == FeatureLevel::NEWEST) {
        return;
    }
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for _ in 0..LABELS {
        let (node, by) = (*rng.pick(&nodes), *rng.pick(&nodes));
        let set = BTreeMap::from([("disk".to_owned(), rng.between(1, 9).to_string())]);
        let at = rng.moment(world.now, end);
        world.at(at, by, Event::Operate(Command::Label { node, set, unset: BTreeSet::new() }));
    }
}

impl World {
    /// Founds a cluster and takes the other nodes in; returns whether that came to an end in time.
    pub(crate) fn form(&mut self, machines: &[Machine]) -> bool {
        let until = self.now + FORM_MAX;
        let nodes = u32::try_from(machines.len()).unwrap_or(u32::MAX);
        let each = || (1..).map(NodeId).zip(machines);
        each().take(1).for_each(|(id, machine)| self.switch_on(id, machine));
        let expires_at = self.now + Duration::from_secs(3600);
        if !self.until(until, "the founder registers", |world| world.registered() == 1) {
            return false;
        }
        self.operate(
            FOUNDER,
            Command::Invite { secret: Digest::from_bytes(SECRET), expires_at, uses: Some(LET_IN_MAX) },
        );
        let is_invited = |world: &Self| world.nodes.values().any(|node| !node.state.invitations.is_empty());
        if !self.until(until, "nodes are invited", is_invited) {
            return false;
        }
        for number in 2..=nodes {
            self.let_in(number);
        }
        let let_in = |world: &Self| world.known() == nodes as usize;
        if !self.until(until, "every node is let in", let_in) {
            return false;
        }
        each().skip(1).for_each(|(id, machine)| self.switch_on(id, machine));
        self.until(until, "every node registers", |world| world.registered() == nodes as usize)
            && self.until(until, "an odd number votes", |world| world.voting() == votes_of(nodes))
    }

    /// Lets a machine in that has shown the secret.
    pub(super) fn let_in(&mut self, number: u32) {
        let mut request = [0; 32];
        request[..4].copy_from_slice(&number.to_be_bytes());
        self.operate(
            FOUNDER,
            Command::Admit { secret: Digest::from_bytes(SECRET), request: Digest::from_bytes(request) },
        );
    }

    /// Lets an operator propose something at a node.
    pub(crate) fn operate(&mut self, node: NodeId, command: Command) {
        let now = self.now;
        self.at(now, node, Event::Operate(command));
    }

    fn until(&mut self, limit: Timestamp, what: &str, is_so: impl Fn(&Self) -> bool) -> bool {
        while !is_so(self) {
            if self.now >= limit {
                self.blame(&format!("not in time: {what}"));
                return false;
            }
            self.run_until(self.now + LOOK_EVERY);
        }
        true
    }

    fn registered(&self) -> usize {
        self.nodes.values().filter(|node| node.is_up).count()
    }

    fn known(&self) -> usize {
        let founder = self.nodes.get(&FOUNDER);
        founder.map_or(0, |node| node.state.nodes.len() + node.state.admitted.len())
    }

    fn voting(&self) -> usize {
        self.replicas.view(u64::from(FOUNDER.0)).map_or(0, |view| view.voters().len())
    }

    /// Ends everything that goes wrong.
    pub(super) fn calm(&mut self) {
        self.replicas.calm();
        for node in self.nodes.values_mut() {
            node.stop_faults();
        }
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.at(self.now, node, Event::Jam(Duration::ZERO));
        }
        self.undrain();
        self.hurry();
    }

    /// Lets everything run again on nodes that were drained; proposed by every node, one of which is heard.
    pub(super) fn undrain(&mut self) {
        let draining = self.nodes.values().flat_map(|node| &node.state.nodes);
        let draining: BTreeSet<NodeId> = draining.filter(|(_, known)| known.is_draining).map(|(id, _)| *id).collect();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for by in nodes {
            for node in draining.iter().copied() {
                self.operate(by, Command::Drain { node, is_draining: false });
            }
        }
    }
}

/// Returns how many of some nodes vote.
fn votes_of(nodes: u32) -> usize {
    match nodes {
        0..=2 => 1,
        3..=6 => 3,
        7.. => 5,
    }
}

pub(super) fn capacity(rng: &mut Rng) -> Resources {
    let mebi = *rng.pick(&[512, 1024, 2048, 4096]);
    Resources { cpu: MilliCpu(16_000), memory: Bytes::mebi(mebi), disk: Bytes(1 << 40), pids: 1 << 20 }
}
