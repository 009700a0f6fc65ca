//! Keeps every function's minimum placed, on its live revision.

use std::collections::BTreeMap;

use super::{Controller, Effect};
use crate::model::{InstanceId, Purpose, RevisionId, Timestamp};
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
        let mut kept: BTreeMap<&RevisionId, Vec<InstanceId>> = BTreeMap::new();
        for (instance, placement) in &state.placements {
            // What is on a node that is being emptied counts for nothing: its replacement comes first.
            let stays = state.nodes.get(&placement.node).is_some_and(|node| node.is_eligible());
            if placement.purpose == Purpose::Minimum && stays {
                kept.entry(&placement.revision).or_default().push(*instance);
            }
        }
        let mut surplus: Vec<InstanceId> = Vec::new();
        for (name, function) in &state.functions {
            let Some(number) = function.live else { continue };
            let id = RevisionId { function: name.clone(), number };
            let kept = kept.get(&id).map_or(&[][..], Vec::as_slice);
            let min = usize::try_from(function.scaling.min()).unwrap_or(usize::MAX);
            surplus.extend(kept.iter().skip(min));
            let missing = min.saturating_sub(kept.len() + usize::from(planted!(MinimumNotKept)));
            let ask = Ask { revision: id, purpose: Purpose::Minimum };
            asks.extend(std::iter::repeat_n(ask, missing.min(PLACE_MAX)));
        }
        if !surplus.is_empty() {
            self.propose(now, Command::Unplace { instances: surplus }, effects);
        }
    }
}
