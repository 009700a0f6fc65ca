//! Faults of a scenario, carried out: whom they hit, what they break, and how that is mended.

use std::collections::BTreeSet;

use control_plane::model::NodeId;
use control_plane::state::Command;

use super::fault::{Kind, Target};
use super::play::{Felt, Player, Recovery};
use crate::node::Node;
use crate::raft::Crash;

impl Player<'_> {
    /// Lets a fault begin.
    pub(super) fn break_something(&mut self, number: usize) {
        let fault = &self.scenario.faults[number];
        let nodes = self.choose(&fault.target);
        let now = self.world.now();
        self.world.tell(&format!("{fault}: {nodes:?}"));
        let recovery = Recovery {
            fault: fault.to_string(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
            ..Recovery::default()
        };
        self.felt.push(Felt { began: now, recovery });
        self.targets[number].clone_from(&nodes);
        let numbers: Vec<u64> = nodes.iter().map(|node| u64::from(node.0)).collect();
        match fault.kind {
            Kind::Kill => self.world.replicas().crash(&numbers, Crash::Process),
            Kind::PowerLoss => self.world.replicas().crash(&numbers, Crash::Power),
            Kind::Pause => numbers.iter().for_each(|node| self.world.replicas().pause(*node, fault.length)),
            Kind::Isolate | Kind::Mute => {
                let ways = self.ways(&nodes, fault.kind == Kind::Isolate);
                self.world.replicas().network().wires().cuts.extend(ways);
            }
            Kind::Slow => {
                let ways = self.ways(&nodes, true);
                let slow = ways.into_iter().map(|way| (way, fault.delay));
                self.world.replicas().network().wires().slow.extend(slow);
            }
            Kind::Drain => self.drain(&nodes, true),
        }
    }

    /// Ends a fault.
    pub(super) fn mend(&mut self, number: usize) {
        let fault = &self.scenario.faults[number];
        let nodes = self.targets[number].clone();
        self.world.tell(&format!("mended: {} {nodes:?}", fault.kind.as_str()));
        match fault.kind {
            Kind::Kill | Kind::PowerLoss => {
                nodes.iter().for_each(|node| self.world.replicas().boot(u64::from(node.0)));
            }
            // It goes on by itself.
            Kind::Pause => {}
            Kind::Isolate | Kind::Mute => {
                let ways = self.ways(&nodes, fault.kind == Kind::Isolate);
                let mut wires = self.world.replicas().network().wires();
                ways.iter().for_each(|way| {
                    wires.cuts.remove(way);
                });
            }
            Kind::Slow => {
                let ways = self.ways(&nodes, true);
                let mut wires = self.world.replicas().network().wires();
                ways.iter().for_each(|way| {
                    wires.slow.remove(way);
                });
            }
            Kind::Drain => self.drain(&nodes, false),
        }
    }

    fn drain(&mut self, nodes: &[NodeId], is_draining: bool) {
        for node in nodes {
            if let Some(by) = self.some_node() {
                self.world.operate(by, Command::Drain { node: *node, is_draining });
            }
        }
    }

    fn choose(&mut self, target: &Target) -> Vec<NodeId> {
        let all: Vec<NodeId> = self.world.nodes().map(|node| node.id).collect();
        let count = match target {
            Target::All => return all,
            Target::Node(number) => return vec![NodeId(*number)],
            Target::Zone(zone) => {
                let is_there = |node: &&Node| node.labels.get("zone") == Some(zone);
                return self.world.nodes().filter(is_there).map(|node| node.id).collect();
            }
            Target::Leader => {
                let leader = self.world.replicas().leader().and_then(|leader| u32::try_from(leader).ok());
                return leader.map(NodeId).into_iter().collect();
            }
            Target::Any(count) => usize::try_from(*count).unwrap_or(usize::MAX),
            Target::Minority => all.len().saturating_sub(1) / 2,
        };
        let mut left = all;
        let mut chosen = BTreeSet::new();
        while chosen.len() < count && !left.is_empty() {
            let index = usize::try_from(self.rng.below(left.len() as u64)).unwrap_or(0);
            chosen.insert(left.swap_remove(index));
        }
        chosen.into_iter().collect()
    }

    /// Returns the ways from some nodes to all others, and back if that is asked for.
    fn ways(&self, nodes: &[NodeId], both: bool) -> Vec<(u64, u64)> {
        let others: Vec<NodeId> = self.world.nodes().map(|node| node.id).filter(|id| !nodes.contains(id)).collect();
        let pairs = nodes.iter().flat_map(|one| others.iter().map(|other| (u64::from(one.0), u64::from(other.0))));
        pairs.flat_map(|(one, other)| [Some((one, other)), both.then_some((other, one))]).flatten().collect()
    }
}
