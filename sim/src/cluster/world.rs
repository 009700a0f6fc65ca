//! Several nodes and their replicas in one time: what happens below is told to the nodes, what they want is carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{Digest, FeatureLevel, InstanceId, NodeId, Resources, RevisionId, Timestamp};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::inbox::{Inbox, Tiding};
use super::loss::Losses;
use super::voters;
use super::wire::Hop;
use crate::journal::Line;
use crate::member::{Member, News};
use crate::nature::Nature;
use crate::node::{Event, Footing, Node};
use crate::raft::runtime;
use crate::raft::{Cluster, Crash, Host, Oracle, time_at, true_time};
use crate::rng::Rng;
use crate::swarm::Swarm;

/// How many of a thousand nodes of an older version come back with a newer one.
const UPGRADED_PERMILLE: u32 = 800;

/// What a node stands on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// What instances may hold of it.
    pub(crate) capacity: Resources,
    /// Where it stands; empty where that has no name.
    pub(crate) zone: String,
    /// What its version reads of the log.
    pub(crate) features: FeatureLevel,
}

/// A cluster: the replicas and what stands on them.
pub(crate) struct World {
    seed: u64,
    pub(super) now: Timestamp,
    pub(super) replicas: Cluster,
    pub(super) inbox: Inbox,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    alarms: Alarms,
    /// Until when processes stand still.
    paused: BTreeMap<NodeId, Timestamp>,
    /// The calls that peers have, by who gave them and how that one counts.
    pub(super) hops: BTreeMap<(NodeId, u128), Hop>,
    /// From whom to whom a connection for calls stands.
    pub(super) connected: BTreeSet<(NodeId, NodeId)>,
    /// Where each instance was started that ever was.
    started: BTreeMap<InstanceId, NodeId>,
    pub(super) losses: Losses,
    /// Every revision of which an instance was ready anywhere, by what it runs.
    proved: BTreeSet<(RevisionId, Digest)>,
    pub(super) natures: BTreeMap<Digest, Nature>,
    pub(super) swarm: Swarm,
    pub(super) rng: Rng,
    /// Draws which nodes come back with a newer version.
    upgrades: Rng,
    is_told: bool,
    /// What nodes have told, in order; present while a story is played.
    lines: Option<Vec<(NodeId, Vec<Line>)>>,
}

/// When each node has something to do next.
#[derive(Debug, Default)]
struct Alarms {
    times: BTreeSet<(Timestamp, NodeId)>,
    /// Invariant: holds exactly the times of the set.
    of: BTreeMap<NodeId, Timestamp>,
}

impl Alarms {
    fn set(&mut self, node: NodeId, at: Option<Timestamp>) {
        if let Some(before) = self.of.remove(&node) {
            self.times.remove(&(before, node));
        }
        if let Some(at) = at {
            self.of.insert(node, at);
            self.times.insert((at, node));
        }
    }

    fn first(&self) -> Option<(Timestamp, NodeId)> {
        self.times.first().copied()
    }
}

impl World {
    /// Returns a world of which no machine has been switched on.
    pub(crate) fn new(seed: u64, raft: crate::raft::Swarm, swarm: Swarm, oracle: Oracle, is_told: bool) -> Self {
        let inbox = Inbox::default();
        let replicas = Cluster::new(seed, raft, oracle, Arc::new(inbox.clone()));
        let world = Self {
            seed,
            now: true_time(),
            replicas,
            inbox,
            nodes: BTreeMap::new(),
            alarms: Alarms::default(),
            paused: BTreeMap::new(),
            hops: BTreeMap::new(),
            connected: BTreeSet::new(),
            started: BTreeMap::new(),
            losses: Losses::default(),
            proved: BTreeSet::new(),
            natures: BTreeMap::new(),
            swarm,
            rng: Rng::stream(seed, "world"),
            upgrades: Rng::stream(seed, "upgrades"),
            is_told,
            lines: None,
        };
        world.ping_later();
        world
    }

    pub(super) fn oracle(&self) -> &Oracle {
        self.replicas.oracle()
    }

    pub(crate) fn blame(&self, violation: &str) {
        self.oracle().blame(violation);
    }

    pub(super) fn life(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |node| node.life)
    }

    pub(crate) fn is_paused(&self, node: NodeId) -> bool {
        self.paused.get(&node).is_some_and(|until| self.now < *until)
    }

    /// Returns what time it is.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn replicas(&self) -> &Cluster {
        &self.replicas
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Returns every node that ever was.
    pub(super) fn everybody(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().chain(self.losses.nodes.values())
    }

    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut()
    }

    /// Takes what nodes have told since the last time, and keeps what they tell from here on.
    pub(crate) fn take_lines(&mut self) -> Vec<(NodeId, Vec<Line>)> {
        self.lines.replace(Vec::new()).unwrap_or_default()
    }

    /// Tells something that is about no node alone.
    pub(crate) fn tell(&self, text: &str) {
        self.oracle().tell(|| text.to_owned());
    }

    /// Lets every node know what the code of an image is like.
    pub(crate) fn add_nature(&mut self, image: Digest, nature: Nature) {
        for node in self.nodes.values_mut() {
            node.natures.insert(image, nature.clone());
        }
        self.natures.insert(image, nature);
    }

    /// Lets messages take longer between machines in different zones; node 1 stands in the first of them.
    pub(crate) fn set_distances(&self, zones: &[String], more: Duration) {
        let mut wires = self.replicas.network().wires();
        for (from, here) in (1..).zip(zones) {
            for (to, there) in (1..).zip(zones) {
                if here != there && !more.is_zero() {
                    wires.distances.insert((from, to), more);
                }
            }
        }
    }

    /// Drops every replica.
    pub(crate) fn switch_off(&self) {
        self.replicas.end();
    }

    /// Returns the hash of everything that happened; `below` is that of what openraft's runtime did.
    pub(crate) fn hash(&self, below: u64) -> u64 {
        let hashes = self.everybody().map(|node| node.journal.hash()).chain([below]);
        hashes.fold(0xcbf2_9ce4_8422_2325, |hash, one| (hash ^ one).wrapping_mul(0x0100_0000_01b3))
    }

    /// Switches a machine on.
    pub(super) fn switch_on(&mut self, id: NodeId, machine: &Machine) {
        let rng = Rng::stream(self.seed, &format!("node {}", id.0));
        let footing = Footing::Member(Member::default());
        let mut node = Node::new(id, rng, self.now, machine.capacity, self.swarm.clone(), footing, self.is_told);
        node.features = machine.features;
        node.natures = self.natures.clone();
        node.proved = self.proved.clone();
        if !machine.zone.is_empty() {
            node.labels.insert("zone".to_owned(), machine.zone.clone());
        }
        // Calls of different nodes have different numbers.
        node.traffic.last = u128::from(id.0) << 64;
        self.nodes.insert(id, node);
        self.oracle().reads(u64::from(id.0), machine.features);
        if id != NodeId(1) {
            self.replicas.add(u64::from(id.0));
        }
        self.replicas.boot(u64::from(id.0));
    }

    /// Lets something happen at a node.
    pub(crate) fn at(&mut self, time: Timestamp, id: NodeId, event: Event) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.at(time.max(self.now), event);
        self.arm(id);
    }

    fn arm(&mut self, id: NodeId) {
        let awake = self.paused.get(&id).copied().unwrap_or(self.now);
        let next = self.nodes.get(&id).and_then(Node::next_at).map(|at| at.max(awake));
        self.alarms.set(id, next);
    }

    /// Lets everything happen that happens before or at `end`.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        loop {
            let next = self.alarms.first().map_or(end, |(at, _)| at.min(end));
            let inbox = self.inbox.clone();
            runtime::run_until(since_the_beginning(next), || !inbox.is_empty());
            self.now = true_time();
            while let Some(tiding) = self.inbox.pop() {
                self.take(tiding);
            }
            while let Some((at, node)) = self.alarms.first()
                && at <= self.now
            {
                self.step(node);
            }
            if self.now >= end && self.inbox.is_empty() {
                return;
            }
        }
    }

    /// Lets a node do what is due, and carries out what it wants.
    fn step(&mut self, id: NodeId) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return self.alarms.set(id, None) };
        let before = node.features;
        node.run_until(now);
        let (outgoing, features) = (node.take_outgoing(), node.features);
        if features != before {
            self.oracle().reads(u64::from(id.0), features);
        }
        self.hear_journal(id);
        self.carry_out(id, outgoing);
        self.arm(id);
        if self.alarms.of.get(&id).is_some_and(|at| *at <= now) {
            // It was blamed for that already; time must go on.
            self.alarms.set(id, Some(now + Duration::from_millis(1)));
        }
    }

    /// Takes over what a node was blamed for, and what there is to tell of it.
    fn hear_journal(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let lines = node.journal.take_lines();
        let violations = std::mem::take(&mut node.journal.violations);
        if let Some(kept) = self.lines.as_mut().filter(|_| !lines.is_empty()) {
            kept.push((id, lines.clone()));
        }
        for Line { who, text, .. } in lines {
            self.oracle().tell(|| format!("{id} {who}{text}"));
        }
        violations.iter().for_each(|violation| self.blame(&format!("{id}: {violation}")));
    }

    fn take(&mut self, tiding: Tiding) {
        match tiding {
            Tiding::Started(id) => self.started(id),
            Tiding::Crashed(id, crash) => self.crashed(id, crash),
            Tiding::Paused(id, until) => {
                self.paused.insert(id, time_at(until));
                self.arm(id);
            }
            Tiding::Applied(id) => {
                let Some(view) = self.replicas.view(u64::from(id.0)) else { return };
                let seen = self.oracle().seen(&view);
                self.hear(id, None, News::Applied(seen));
            }
            Tiding::News { to, life, news } => {
                self.settle_hop(to, &news);
                self.hear(to, life, news);
            }
            Tiding::Ping => self.ping(),
            Tiding::Lost(node) => self.lose(node),
            Tiding::Tend => self.tend(),
        }
    }

    /// Lets a node hear something as soon as it does not stand still.
    fn hear(&mut self, id: NodeId, life: Option<u32>, news: News) {
        let life = life.unwrap_or_else(|| self.life(id));
        self.at(self.now, id, Event::News(life, news));
    }

    fn started(&mut self, id: NodeId) {
        let number = u64::from(id.0);
        let Host::Up(group, Some(_)) = self.replicas.network().host(number) else { return };
        let (Some(core), Some(view)) = (self.replicas.core(number), self.replicas.view(number)) else { return };
        let seen = self.oracle().seen(&view);
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.now = now;
        node.boot(&seen);
        let (inbox, life, mut metrics) = (self.inbox.clone(), node.life, core.metrics());
        runtime::spawn_in(group, async move {
            let mut led = false;
            loop {
                let leads = metrics.borrow_watched().state == ServerState::Leader;
                if std::mem::replace(&mut led, leads) != leads {
                    inbox.tell(id, Some(life), News::Leads(leads));
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        });
        runtime::spawn_in(group, voters::run(self.replicas.clone(), number));
        self.arm(id);
    }

    pub(super) fn crashed(&mut self, id: NodeId, crash: Crash) {
        self.paused.remove(&id);
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.now = now;
        node.fall(crash == Crash::Process);
        let is_upgraded = node.features < FeatureLevel::NEWEST && self.upgrades.chance(UPGRADED_PERMILLE);
        if is_upgraded {
            node.upgrade();
            self.oracle().reads(u64::from(id.0), FeatureLevel::NEWEST);
        }
        self.hear_journal(id);
        self.end_connections(id, crash == Crash::Process);
        self.arm(id);
    }

    /// No id of an instance is ever used on two nodes.
    pub(super) fn note_started(&mut self, node: NodeId, instance: InstanceId) {
        let before = *self.started.entry(instance).or_insert(node);
        if before != node {
            self.blame(&format!("{instance} is started on {node}, and was on {before}"));
        }
    }

    /// What starts on one node has proved itself for all.
    pub(super) fn note_proved(&mut self, revision: RevisionId, image: Digest) {
        for node in self.nodes.values_mut() {
            node.proved.insert((revision.clone(), image));
        }
        self.proved.insert((revision, image));
    }
}

/// Returns a time as the time since everything began.
pub(super) fn since_the_beginning(time: Timestamp) -> Duration {
    time.since(time_at(0))
}
