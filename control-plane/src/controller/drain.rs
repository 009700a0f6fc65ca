//! Empties nodes that an operator drains.

use super::{Controller, Effect};
use crate::model::{InstanceId, NodeId, Purpose, Timestamp};
use crate::state::{Command, Placement, State};

impl Controller {
    /// Takes back what is placed on draining nodes; the minimum of a function goes once its replacement is ready.
    pub(super) fn empty_draining(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        let draining = state.nodes.iter().filter(|(_, node)| node.is_draining);
        let leaving = draining.flat_map(|(id, _)| state.placements.on(*id));
        let gone: Vec<InstanceId> = leaving
            .filter(|(_, placement)| placement.purpose != Purpose::Minimum || self.is_replaced(state, placement))
            .map(|(instance, _)| instance)
            .collect();
        if !gone.is_empty() {
            self.propose(now, Command::Unplace { instances: gone }, effects);
        }
    }

    /// Returns whether the minimum of a placement's function is ready on nodes that stay.
    fn is_replaced(&self, state: &State, leaving: &Placement) -> bool {
        let Some(function) = state.functions.get(&leaving.revision.function) else { return true };
        let stays = |node: NodeId| state.nodes.get(&node).is_some_and(|node| node.is_eligible());
        let minimum = state.placements.of_purpose(&leaving.revision, Purpose::Minimum);
        let ready = minimum.filter(|(instance, node)| stays(*node) && self.ready.contains(instance)).count();
        ready >= usize::try_from(function.scaling.min()).unwrap_or(usize::MAX)
    }
}
