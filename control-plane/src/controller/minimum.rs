//! Keeps every function's minimum placed, on its live revision.

use super::{Controller, Effect};
use crate::model::{InstanceId, Purpose, RevisionId, Timestamp};
use crate::placement;
use crate::planted::planted;
use crate::state::{Command, State};

impl Controller {
    /// Places what is missing of each minimum, one at a time per function, and takes back what is above it.
    pub(super) fn keep_minimums(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        let mut surplus: Vec<InstanceId> = Vec::new();
        for (name, function) in &state.functions {
            let Some(number) = function.live else { continue };
            let Some(revision) = function.revisions.get(&number) else { continue };
            let id = RevisionId { function: name.clone(), number };
            let kept: Vec<InstanceId> = state
                .placements
                .iter()
                .filter(|(_, placement)| placement.revision == id && placement.purpose == Purpose::Minimum)
                // What is on a node that is being emptied counts for nothing: its replacement comes first.
                .filter(|(_, placement)| state.nodes.get(&placement.node).is_some_and(|node| node.is_eligible()))
                .map(|(instance, _)| *instance)
                .collect();
            let min = usize::try_from(function.scaling.min()).unwrap_or(usize::MAX);
            if kept.len() > min {
                surplus.extend(&kept[min..]);
            } else if kept.len() + usize::from(planted!(MinimumNotKept)) < min
                && let Ok(node) = placement::place(state, &revision.spec.resources)
            {
                let command = Command::Place { revision: id, node, purpose: Purpose::Minimum };
                self.propose(now, command, effects);
            }
        }
        if !surplus.is_empty() {
            self.propose(now, Command::Unplace { instances: surplus }, effects);
        }
    }
}
