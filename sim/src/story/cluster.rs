//! Plays stories of a cluster: acts on nodes to which nothing happens by itself.

use std::time::Duration;

use control_plane::model::{Bytes, FeatureLevel, MilliCpu, NodeId, Resources, RevisionId, Timestamp};
use control_plane::state::Command;

use super::parse::{Action, Fault, Target};
use super::{play, tell};
use crate::call::Errand;
use crate::cluster::{Machine, World};
use crate::nature::image;
use crate::node::Event;
use crate::raft::{self, Crash, Oracle, runtime};
use crate::scenario;

/// How long the cluster is left alone before its story begins.
const WARM_UP: Duration = Duration::from_secs(3);

/// A cluster, and how far its story is.
pub(super) struct Player {
    world: World,
    oracle: Oracle,
    start: Timestamp,
    images: u32,
    shown: Vec<String>,
}

impl Drop for Player {
    fn drop(&mut self) {
        self.world.switch_off();
        runtime::end();
    }
}

impl Player {
    /// Returns a cluster that has formed.
    pub(super) fn new(nodes: u32, memory: Bytes) -> Result<Self, String> {
        runtime::begin(0);
        let oracle = Oracle::default();
        let replicas = raft::Swarm { founders: 1, ..raft::Swarm::calm(u64::from(nodes)) };
        let world = World::new(0, replicas, scenario::surroundings(), oracle.clone(), true);
        // Whatever happens from here on, its nodes go with it.
        let mut player = Self { world, oracle, start: Timestamp::default(), images: 0, shown: Vec::new() };
        let capacity = Resources { cpu: MilliCpu(64_000), memory, disk: Bytes(1 << 40), pids: 1 << 20 };
        let machines: Vec<Machine> =
            (0..nodes).map(|_| Machine { capacity, zone: String::new(), features: FeatureLevel::NEWEST }).collect();
        if !player.world.form(&machines) {
            return Err("the cluster does not form".to_owned());
        }
        player.world.run_until(player.world.now() + WARM_UP);
        player.world.take_lines();
        player.start = player.world.now();
        Ok(player)
    }

    pub(super) fn act(&mut self, action: &Action) -> Result<(), String> {
        let now = self.world.now();
        match action {
            // It is made before anything happens.
            Action::Cluster { .. } if self.images == 0 && now == self.start => {}
            Action::Cluster { .. } | Action::Node { .. } => {
                return Err("the cluster is made before anything else".to_owned());
            }
            Action::Deploy(deployment) => {
                self.images += 1;
                self.world.add_nature(image(self.images), play::nature(deployment));
                self.operate(play::deploy(deployment, self.images)?)?;
            }
            Action::Call { function, times, every, kind, at } => {
                let node = match at {
                    Some(target) => self.node(*target)?,
                    None => self.somebody()?,
                };
                for number in 0..*times {
                    let at = now + every.saturating_mul(number);
                    self.world.at(at, node, Event::Arrive(function.clone(), Errand { kind: *kind, tries: 0 }));
                }
            }
            Action::Delete(function) => self.operate(Command::DeleteFunction { function: function.clone() })?,
            Action::Scale(function, scaling) => {
                self.operate(Command::Scale { function: function.clone(), change: (*scaling).into() })?;
            }
            Action::Rollback(function, number) => {
                let revision = RevisionId { function: function.clone(), number: *number };
                self.operate(Command::Promote { revision })?;
            }
            Action::Happen { fault, to } => {
                let node = self.node(*to)?;
                self.happen(*fault, node)?;
            }
            Action::Crash(_) | Action::Restart | Action::Stall(_) | Action::Jam(_) => {
                return Err("this needs a story of one node".to_owned());
            }
            Action::Run(wait) => self.world.run_until(now + *wait),
            Action::Show => self.show(),
        }
        Ok(())
    }

    fn happen(&mut self, fault: Fault, node: NodeId) -> Result<(), String> {
        let number = u64::from(node.0);
        let replicas = self.world.replicas();
        match fault {
            Fault::Kill => replicas.crash(&[number], Crash::Process),
            Fault::PowerLoss => replicas.crash(&[number], Crash::Power),
            Fault::Start => replicas.boot(number),
            Fault::Isolate => {
                let others = replicas.nodes().into_iter().filter(|other| *other != number);
                let ways = others.flat_map(|other| [(number, other), (other, number)]);
                replicas.network().wires().cuts.extend(ways);
            }
            Fault::Mend => replicas.network().wires().cuts.retain(|(from, to)| ![*from, *to].contains(&number)),
            Fault::Drain | Fault::Undrain => {
                self.operate(Command::Drain { node, is_draining: fault == Fault::Drain })?;
            }
        }
        Ok(())
    }

    /// Returns a node by what it is called.
    fn node(&self, target: Target) -> Result<NodeId, String> {
        match target {
            Target::Node(node) => Ok(node),
            Target::Leader => {
                let leader = self.world.replicas().agreed_leader().and_then(|leader| u32::try_from(leader).ok());
                leader.map(NodeId).ok_or_else(|| "nobody leads".to_owned())
            }
        }
    }

    /// Returns the first node that serves.
    fn somebody(&self) -> Result<NodeId, String> {
        self.world.nodes().find(|node| node.is_up).map(|node| node.id).ok_or_else(|| "no node is up".to_owned())
    }

    /// Operators ask whoever leads, as a client does in the end whom it asks first.
    fn operate(&mut self, command: Command) -> Result<(), String> {
        let by = self.node(Target::Leader).or_else(|_| self.somebody())?;
        self.world.operate(by, command);
        Ok(())
    }

    /// Returns what has happened since the last answers.
    pub(super) fn answers(&mut self) -> Vec<String> {
        let heard = self.world.take_lines();
        let mut answers = Vec::new();
        for (node, lines) in heard {
            answers.extend(tell::lines(&lines, self.start, &format!("{node} ")));
        }
        answers.append(&mut self.shown);
        answers
    }

    /// Ends the story; tells what must not have happened.
    pub(super) fn end(self) -> (Vec<String>, Duration) {
        let violations = std::mem::take(&mut self.oracle.facts().journal.violations);
        (violations, self.world.now().since(self.start))
    }

    /// Tells who leads, every revision, and where what runs.
    fn show(&mut self) {
        let leader = self.world.replicas().agreed_leader();
        self.shown.push(leader.map_or("nobody leads".to_owned(), |leader| format!("node-{leader} leads")));
        let state = self.world.state();
        let nodes: Vec<_> = self.world.nodes().collect();
        for (name, function) in &state.functions {
            self.shown.extend(tell::revisions(name, function, &nodes));
        }
        for node in nodes {
            let known = state.nodes.get(&node.id);
            let is = match known {
                Some(known) if known.is_dead => "is given up",
                Some(known) if known.is_draining => "is drained",
                Some(_) => "is there",
                None => "is no member",
            };
            self.shown.push(format!("{} {is}: {} instances run", node.id, node.sandboxes.len()));
        }
    }
}
