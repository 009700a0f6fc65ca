//! Gives up nodes that are not heard of any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Controller, Effect};
use crate::model::{Epoch, NodeId, Timestamp};
use crate::state::{Command, State};

/// How long a node may be silent before it is declared dead and what ran on it is placed anew.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);

/// How long the leader itself may hear nothing at all: beyond that it was asleep, and nobody's silence counts.
const DEAF_AFTER: Duration = Duration::from_secs(1);

/// How often the leader looks, so that it notices when it was asleep.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// When each node was last heard of, by the clock of the node that leads.
#[derive(Clone, Debug, Default)]
pub(super) struct Liveness(BTreeMap<NodeId, (Epoch, Timestamp)>);

impl Liveness {
    pub(super) fn heard(&mut self, now: Timestamp, node: NodeId, epoch: Epoch) {
        let last = self.0.entry(node).or_insert((epoch, now));
        // What comes late from an earlier start says nothing about this one.
        if last.0 <= epoch {
            *last = (epoch, now);
        }
    }

    /// Gives everybody their time anew if nothing was taken in between `seen` and `now`: what they said waits in a queue.
    pub(super) fn mind_the_gap(&mut self, seen: Timestamp, now: Timestamp) {
        if now.since(seen) > DEAF_AFTER {
            for (_, at) in self.0.values_mut() {
                *at = now;
            }
        }
    }

    /// Returns when to look again after a look at `looked`.
    pub(super) fn wake_at(&self, looked: Timestamp) -> Option<Timestamp> {
        let look = looked + LOOK_EVERY;
        // Whoever is overdue already is being given up; that must not end the looking after the others.
        self.0.values().map(|(_, at)| *at + DEAD_AFTER).map(|due| if due > looked { due.min(look) } else { look }).min()
    }
}

impl Controller {
    /// Declares dead whoever has been silent for [`DEAD_AFTER`]; a new leader gives everybody that time anew.
    pub(super) fn give_up_silent(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        let expected = |id: &NodeId| *id != self.node && state.nodes.get(id).is_some_and(|node| !node.is_dead);
        self.liveness.0.retain(|id, _| expected(id));
        let mut silent = Vec::new();
        for (id, node) in state.nodes.iter().filter(|(id, _)| expected(id)) {
            let last = self.liveness.0.entry(*id).or_insert((node.epoch, now));
            if last.0 < node.epoch {
                // It has just registered.
                *last = (node.epoch, now);
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
