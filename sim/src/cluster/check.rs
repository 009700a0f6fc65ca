//! What must hold of a cluster once nothing goes wrong any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{FunctionName, InstanceId, NodeId, Purpose, RevisionId, Timestamp};
use control_plane::state::{Function, State};

use super::world::World;
use crate::call::{Errand, Kind, Outcome};
use crate::node::{Event, Node};
use crate::sandbox::Stage;

/// How long what is on its way to rest gets between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl World {
    /// A leader is there that a majority follows.
    pub(super) fn check_leader(&mut self, within: Duration) {
        if self.replicas.agreed_leader().is_none() {
            self.blame(&format!("no leader {within:?} after faults stopped"));
        }
    }

    /// Every node has applied everything, has registered, and every minimum is placed where there is room.
    pub(super) fn check_recovered(&mut self, within: Duration) {
        if !crate::raft::has_converged(&self.replicas) {
            self.blame(&format!("replicas have not converged {within:?} after faults stopped"));
        }
        let state = self.state();
        for (id, node) in &self.nodes {
            let is_known = state.nodes.get(id).is_some_and(|known| !known.is_dead && !known.is_draining);
            if !node.is_up || !is_known {
                self.blame(&format!("{id} is not back {within:?} after faults stopped"));
            }
        }
        for (name, function) in &state.functions {
            let Some(number) = function.live else { continue };
            let revision = RevisionId { function: name.clone(), number };
            let placed = kept(&state, &revision);
            if placed < minimum(function) && has_room(&state, &revision) {
                let min = minimum(function);
                self.blame(&format!("{placed} of {min} of {revision} are placed {within:?} after faults stopped"));
            }
        }
    }

    /// Nobody has called for long enough: before `until` everything is settled.
    pub(super) fn check_at_rest(&mut self, until: Timestamp) {
        loop {
            let found = self.unrest();
            if found.is_empty() {
                return;
            }
            if self.now >= until {
                return found.iter().for_each(|problem| self.blame(problem));
            }
            self.run_until(self.now + LOOK_EVERY);
        }
    }

    /// Returns what is not at rest: what is open, leaked, placed and does not run, or granted and not free.
    fn unrest(&self) -> Vec<String> {
        let state = self.state();
        let mut found: Vec<String> = Vec::new();
        for (id, node) in &self.nodes {
            if node.traffic.open() + node.traffic.hops > 0 {
                found.push(format!("{} calls are still open on {id}", node.traffic.calls.len()));
            }
            if *node.state != *state {
                found.push(format!("{id} sees state {}, another node sees {}", node.state.index, state.index));
            }
            found.extend(sandboxes_at_rest(&state, *id, node));
        }
        for (instance, placement) in &state.placements {
            let runs = self.nodes.get(&placement.node).is_some_and(|node| {
                node.sandboxes.get(instance).is_some_and(|sandbox| sandbox.revision == placement.revision)
            });
            if !runs {
                found.push(format!(
                    "{instance} of {} is placed on {} and does not run",
                    placement.revision, placement.node
                ));
            }
        }
        for (name, function) in &state.functions {
            found.extend(self.function_at_rest(&state, name, function));
        }
        for (id, machine) in &state.nodes {
            let free = machine.spec.capacity.minus(&state.placements.held(*id));
            if machine.grant != free {
                found.push(format!("{id} is granted {}, {free} is free", machine.grant));
            }
        }
        found
    }

    fn function_at_rest(&self, state: &State, name: &FunctionName, function: &Function) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(number) = function.candidate {
            let revision = RevisionId { function: name.clone(), number };
            if has_room(state, &revision) {
                found.push(format!("{revision} is still a candidate"));
            }
        }
        let of_it = |node: &Node| node.sandboxes.values().filter(|sandbox| sandbox.revision.function == *name).count();
        let running: usize = self.nodes.values().map(of_it).sum();
        if let Some(number) = function.live
            && function.candidate.is_none()
        {
            let revision = RevisionId { function: name.clone(), number };
            let is_short = running < minimum(function) && has_room(state, &revision);
            if running > minimum(function) || is_short {
                found.push(format!("{name} has {running} instances, its minimum is {}", minimum(function)));
            }
        }
        found
    }

    /// Calls every function once more through every node.
    pub(super) fn one_more_call_each(&mut self) {
        let state = self.state();
        let live = state.functions.iter().filter(|(_, function)| function.live.is_some());
        let names: Vec<FunctionName> = live.map(|(name, _)| name.clone()).collect();
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in nodes {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.journal.ends = Some(Vec::new());
            }
            for name in &names {
                let errand = Errand { kind: Kind::Plain, tries: 0 };
                self.at(self.now, id, Event::Arrive(name.clone(), errand));
            }
        }
    }

    /// Every function that has a live revision, and room for an instance, has answered somebody.
    ///
    /// Not through every node: where instances crashed again and again their starts rest for a while.
    pub(super) fn check_answered(&mut self) {
        let state = self.state();
        let ends = self.nodes.values().flat_map(|node| node.journal.ends.iter().flatten());
        let done = ends.filter(|end| end.outcome == Outcome::Done);
        let answered: BTreeSet<&FunctionName> = done.map(|end| &end.function).collect();
        for (name, function) in &state.functions {
            let revision = function.live.map(|number| RevisionId { function: name.clone(), number });
            let has_place = revision.is_some_and(|revision| has_room(&state, &revision) || kept(&state, &revision) > 0);
            if has_place && !answered.contains(name) {
                self.blame(&format!("{name} answered nobody at the end"));
            }
        }
    }

    /// Returns the state that was applied last by anybody.
    pub(crate) fn state(&self) -> Arc<State> {
        let states = self.nodes.values().map(|node| &node.state);
        states.max_by_key(|state| state.index).map(Arc::clone).unwrap_or_default()
    }
}

fn sandboxes_at_rest(state: &State, id: NodeId, node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    for (instance, sandbox) in &node.sandboxes {
        let revision = &sandbox.revision;
        match state.placements.get(instance) {
            None => found.push(format!("{instance} of {revision} is leaked on {id}")),
            Some(placement) if placement.node != id => {
                found.push(format!("{instance} of {revision} runs on {id} and is placed on {}", placement.node));
            }
            Some(placement) if placement.purpose != Purpose::Minimum => {
                found.push(format!("{instance} of {revision} idles for ever on {id}"));
            }
            Some(_) if sandbox.stage != Stage::Ready => {
                found.push(format!("{instance} of {revision} is not ready on {id}"));
            }
            Some(_) => {}
        }
    }
    found
}

/// Returns how many instances of a revision are placed as its function's minimum.
fn kept(state: &State, revision: &RevisionId) -> usize {
    let is_kept = |(_, placement): &(&InstanceId, &control_plane::state::Placement)| {
        placement.revision == *revision && placement.purpose == Purpose::Minimum
    };
    state.placements.iter().filter(is_kept).count()
}

fn minimum(function: &Function) -> usize {
    usize::try_from(function.scaling.min()).unwrap_or(usize::MAX)
}

/// Returns whether some node has room for one more instance of a revision.
fn has_room(state: &State, revision: &RevisionId) -> bool {
    let Some(known) = state.revision(revision) else { return false };
    state.nodes.iter().any(|(id, node)| {
        node.is_eligible() && known.spec.resources.fits(&node.spec.capacity.minus(&state.placements.held(*id)))
    })
}
