//! The invariants of the replicated state, for tests, the simulator and debug builds.

use std::collections::BTreeMap;

use super::{RevisionStatus, State};
use crate::model::{NodeId, Resources};

/// Returns every invariant that does not hold, in words; an empty list means that the state is sound.
pub fn violations(state: &State) -> Vec<String> {
    let mut found = Vec::new();
    let mut held: BTreeMap<NodeId, Resources> = BTreeMap::new();
    for placement in state.placements.values() {
        let sum = held.entry(placement.node).or_default();
        *sum = sum.plus(&placement.resources);
    }
    for (id, sum) in held.iter().filter(|(id, sum)| state.placements.held(**id) != **sum) {
        found.push(format!("what {id} holds is kept as {}, and is {sum}", state.placements.held(*id)));
    }
    for (id, node) in &state.nodes {
        let sum = held.get(id).copied().unwrap_or_default().plus(&node.grant);
        if !sum.fits(&node.spec.capacity) {
            found.push(format!("{id} holds and grants {sum}, its capacity is {}", node.spec.capacity));
        }
        let has_something = node.grant != Resources::default() || held.contains_key(id);
        if node.is_dead && has_something {
            found.push(format!("{id} is dead and has a grant or placements"));
        }
        if node.spec.features < state.features {
            found.push(format!("{id} reads feature level {}, the cluster has {}", node.spec.features, state.features));
        }
        if state.admitted.contains_key(id) {
            found.push(format!("{id} has registered and counts as not registered"));
        }
    }
    let least = state.nodes.values().map(|node| node.spec.features).min();
    if let Some(least) = least.filter(|least| state.features < *least) {
        found.push(format!("every node reads feature level {least}, the cluster has {}", state.features));
    }
    for (name, function) in &state.functions {
        if !state.apps.contains_key(&function.app) {
            found.push(format!("{name} belongs to app {}, which does not exist", function.app));
        }
        if function.index > state.index {
            found.push(format!("{name} has index {}, the state {}", function.index, state.index));
        }
        if function.revisions.is_empty() {
            found.push(format!("{name} has no revision"));
        }
        if function.live.is_some() && function.live == function.candidate {
            found.push(format!("the live revision of {name} is its candidate too"));
        }
        for (role, number) in [("live", function.live), ("candidate", function.candidate)] {
            let Some(number) = number else { continue };
            match function.revisions.get(&number).map(|revision| &revision.status) {
                None => found.push(format!("the {role} revision {number} of {name} does not exist")),
                Some(RevisionStatus::Failed(_)) => found.push(format!("the {role} revision {number} of {name} failed")),
                Some(RevisionStatus::Pending) if role == "live" => {
                    found.push(format!("the live revision {number} of {name} was never proved"));
                }
                Some(RevisionStatus::Pending | RevisionStatus::Proved) => {}
            }
        }
    }
    for id in state.sessions.keys().filter(|id| !state.nodes.contains_key(id)) {
        found.push(format!("{id} has a session and is not registered"));
    }
    for id in state.removed.iter().filter(|id| state.is_member(**id)) {
        found.push(format!("{id} was removed and is a member"));
    }
    for (name, deleted) in &state.deleted {
        if state.functions.contains_key(name) {
            found.push(format!("{name} exists and counts as deleted"));
        }
        if deleted.index > state.index {
            found.push(format!("{name} was deleted at index {}, the state has {}", deleted.index, state.index));
        }
    }
    for (instance, placement) in &state.placements {
        if !state.nodes.contains_key(&placement.node) {
            found.push(format!("{instance} is placed on {}, which does not exist", placement.node));
        }
        if instance.origin == 0 && instance.sequence > state.placed_last {
            found.push(format!("{instance} is beyond the last id handed out"));
        }
    }
    for (name, app) in &state.apps {
        if app.index > state.index {
            found.push(format!("app {name} has index {}, the state {}", app.index, state.index));
        }
    }
    found
}
