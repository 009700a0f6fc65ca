//! Keeps every function's minimum placed, on its live revision.

use std::collections::BTreeSet;

use super::{Controller, Effect};
use crate::model::{InstanceId, NodeId, Purpose, RevisionId, Timestamp};
use crate::placement::Ask;
use crate::planted::planted;
use crate::state::{Command, PLACE_MAX, State};

impl Controller {
    /// Asks for what is missing of each minimum, and takes back what is above it.
    pub(super) fn keep_minimums(
        &mut self,
        now: Timestamp,
        state: &State,
        asks: &mut Vec<Ask>,
        effects: &mut Vec<Effect>,
    ) {
        // What is on a node that is being emptied counts for nothing: its replacement comes first.
        let left: BTreeSet<NodeId> =
            state.nodes.iter().filter(|(_, node)| !node.is_eligible()).map(|(id, _)| *id).collect();
        let mut surplus: Vec<InstanceId> = Vec::new();
        for (name, function) in &state.functions {
            let Some(number) = function.live else { continue };
            let revision = RevisionId { function: name.clone(), number };
            let placed = state.placements.of_purpose(&revision, Purpose::Minimum);
            let mut kept = placed.filter(|(_, node)| !left.contains(node)).map(|(instance, _)| instance);
            let min = usize::try_from(function.scaling.min()).unwrap_or(usize::MAX);
            let count = kept.by_ref().take(min).count();
            surplus.extend(kept);
            let missing = min.saturating_sub(count + usize::from(planted!(MinimumNotKept)));
            let ask = Ask { revision, purpose: Purpose::Minimum };
            asks.extend(std::iter::repeat_n(ask, missing.min(PLACE_MAX)));
        }
        if !surplus.is_empty() {
            self.propose(now, Command::Unplace { instances: surplus }, effects);
        }
    }
}
