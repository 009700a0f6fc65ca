//! Suspects nodes that are not heard of for a moment, and gives up those that are not heard of any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Controller, Effect};
use crate::model::{Epoch, NodeId, Timestamp};
use crate::state::{Command, State};

/// How long a node may be silent before calls had better go to others: one beat is missing. Nothing else comes of it, so that a
/// wrong suspicion costs nothing.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(900);

/// How long a node may be silent before it is declared dead and what ran on it is placed anew.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);

/// How long the leader itself may hear nothing at all: beyond that it was asleep, and nobody's silence counts.
const DEAF_AFTER: Duration = Duration::from_secs(1);

/// How often the leader looks, so that it notices when it was asleep.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When each node was last heard of, by the clock of the node that leads.
#[derive(Clone, Debug, Default)]
pub(super) struct Liveness {
    last: BTreeMap<NodeId, (Epoch, Timestamp)>,
    /// Who had been silent for [`SUSPECT_AFTER`] at the last look, and has not been heard of since.
    suspected: BTreeSet<NodeId>,
}

impl Liveness {
    pub(super) fn heard(&mut self, now: Timestamp, node: NodeId, epoch: Epoch) {
        let last = self.last.entry(node).or_insert((epoch, now));
        // What comes late from an earlier start says nothing about this one.
        if last.0 <= epoch {
            *last = (epoch, now);
            self.suspected.remove(&node);
        }
    }

    /// Gives everybody their time anew if nothing was taken in between `seen` and `now`: what they said waits in a queue.
    pub(super) fn mind_the_gap(&mut self, seen: Timestamp, now: Timestamp) {
        if now.since(seen) > DEAF_AFTER {
            for (_, at) in self.last.values_mut() {
                *at = now;
            }
            self.suspected.clear();
        }
    }

    /// Returns when to look again after a look at `looked`.
    pub(super) fn wake_at(&self, looked: Timestamp) -> Option<Timestamp> {
        let look = looked + LOOK_EVERY;
        let due = |(node, (_, at)): (&NodeId, &(Epoch, Timestamp))| {
            let due = *at + if self.suspected.contains(node) { DEAD_AFTER } else { SUSPECT_AFTER };
            // Whoever is overdue already is being given up; that must not end the looking after the others.
            if due > looked { due.min(look) } else { look }
        };
        self.last.iter().map(due).min()
    }
}

impl Controller {
    /// Returns whom calls had better avoid, as far as whoever leads knows.
    pub fn suspected(&self) -> &BTreeSet<NodeId> {
        &self.liveness.suspected
    }

    /// Declares dead whoever has been silent for [`DEAD_AFTER`]; a new leader gives everybody that time anew.
    pub(super) fn give_up_silent(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        let expected = |id: &NodeId| *id != self.node && state.nodes.get(id).is_some_and(|node| !node.is_dead);
        self.liveness.last.retain(|id, _| expected(id));
        self.liveness.suspected.retain(expected);
        let mut silent = Vec::new();
        for (id, node) in state.nodes.iter().filter(|(id, _)| expected(id)) {
            let last = self.liveness.last.entry(*id).or_insert((node.epoch, now));
            if last.0 < node.epoch {
                // It has just registered.
                *last = (node.epoch, now);
            }
            if last.1 + SUSPECT_AFTER <= now {
                self.liveness.suspected.insert(*id);
            }
            if last.1 + DEAD_AFTER <= now {
                silent.push((*id, node.epoch));
            }
        }
        for (node, epoch) in silent {
            self.propose(now, Command::DeclareDead { node, epoch }, effects);
        }
    }
}
