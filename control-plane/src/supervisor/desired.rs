//! Reads off the applied state what one node should do.

use super::{Desired, DesiredRevision, Role};
use crate::model::{NodeId, RevisionId};
use crate::planted::planted;
use crate::state::State;

/// Returns what the applied state wants of a node, or nothing while it does not know the node.
pub fn desired(state: &State, id: NodeId) -> Option<Desired> {
    let node = state.nodes.get(&id)?;
    let anothers = planted!(PlacedTwice).then(|| NodeId(id.0.saturating_sub(1)));
    let placements = anothers.into_iter().chain([id]).flat_map(|node| state.placements.on(node));
    let placements =
        placements.map(|(instance, placement)| (instance, (placement.revision.clone(), placement.purpose))).collect();
    let mut revisions = std::collections::BTreeMap::new();
    for (name, function) in &state.functions {
        for (number, role) in [(function.live, Role::Live), (function.candidate, Role::Candidate)] {
            let Some(number) = number else { continue };
            if let Some(revision) = function.revisions.get(&number) {
                let known = DesiredRevision { resources: revision.spec.resources, scaling: function.scaling, role };
                revisions.insert(RevisionId { function: name.clone(), number }, known);
            }
        }
    }
    Some(Desired { epoch: node.epoch, is_dead: node.is_dead, grant: node.grant, placements, revisions })
}
