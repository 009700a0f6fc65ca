//! What must hold at every moment, at rest, and at the end.

use control_plane::model::{Purpose, Resources};

use crate::node::Node;

impl Node {
    /// Every call that came in is done, failed, refused or still open.
    pub(crate) fn check_calls(&mut self) {
        let count = |what| self.counts.get(what).copied().unwrap_or(0);
        let settled = count("done") + count("failed") + count("refused") + self.traffic.open() as u64;
        if count("calls") != settled {
            self.blame(format!("{} calls came, {settled} are accounted for", count("calls")));
        }
    }
}

impl Node {
    /// What the node started by itself, and the log has not ratified, fits into what it was granted.
    pub(crate) fn check_grant(&mut self) {
        let own = self.sandboxes.iter().filter(|(instance, _)| !self.state.placements.contains_key(instance));
        let held = own
            .filter_map(|(_, sandbox)| self.state.revision(&sandbox.revision))
            .fold(Resources::default(), |sum, revision| sum.plus(&revision.spec.resources));
        let granted = self.state.nodes.values().next().map(|node| node.grant).unwrap_or_default();
        if !held.fits(&granted) {
            self.blame(format!("the node started {held} by itself, it was granted {granted}"));
        }
    }
}

/// When nobody has called for long enough: everything is settled, nothing is leaked, and what is placed runs.
pub(crate) fn at_rest(node: &mut Node) {
    if node.traffic.open() > 0 {
        node.blame(format!("{} calls are still open", node.traffic.open()));
    }
    let state = node.state.clone();
    for (instance, sandbox) in node.sandboxes.clone() {
        match state.placements.get(&instance) {
            None => node.blame(format!("{instance} of {} is leaked", sandbox.revision)),
            Some(placement) if placement.purpose != Purpose::Minimum => {
                node.blame(format!("{instance} of {} idles for ever", sandbox.revision));
            }
            Some(_) => {}
        }
    }
    for (instance, placement) in &state.placements {
        if !node.sandboxes.contains_key(instance) {
            node.blame(format!("{instance} of {} is placed and does not run", placement.revision));
        }
    }
    for (name, function) in &state.functions {
        if let Some(candidate) = function.candidate {
            node.blame(format!("revision {candidate} of {name} is still a candidate"));
        }
        let kept = node.sandboxes.values().filter(|sandbox| sandbox.revision.function == *name).count();
        let min = usize::try_from(function.scaling.min()).unwrap_or(usize::MAX);
        if function.live.is_some() && kept != min {
            node.blame(format!("{name} has {kept} instances, its minimum is {min}"));
        }
    }
    for (id, machine) in &state.nodes {
        let free = machine.spec.capacity.minus(&state.held(*id));
        if machine.grant != free {
            node.blame(format!("{id} is granted {}, {free} is free", machine.grant));
        }
    }
}

/// Every function that has a live revision has answered one more call.
pub(crate) fn at_the_end(node: &mut Node) {
    let live = node.state.functions.values().filter(|function| function.live.is_some()).count() as u64;
    let answered = node.counts.get("done").copied().unwrap_or(0) - node.counts.get("done before").copied().unwrap_or(0);
    if answered != live {
        node.blame(format!("{answered} of {live} functions answered at the end"));
    }
}
