//! Machines that are lost for good, with their disks, and the operator who replaces them.
//!
//! A machine without its log must not come back as the node that it was: it might vote a second time. So the operator takes
//! that node out of the cluster and lets another machine in, as in production.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::{Digest, NodeId, Timestamp};
use control_plane::state::Command;

use super::inbox::Tiding;
use super::plan::{SECRET, capacity};
use super::world::{Machine, World};
use crate::node::Node;
use crate::raft::{Crash, runtime};

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long the operator waits before asking again: longer than what was asked can still be under way.
const ASK_AGAIN: Duration = Duration::from_millis(5_500);

/// The least nodes of which one may be lost.
const NODES_MIN: usize = 3;

/// What the operator knows.
#[derive(Default)]
pub(super) struct Losses {
    /// The nodes that were lost, as they were last.
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// How many machines came in their place.
    replaced: usize,
    asked_at: Option<Timestamp>,
}

impl World {
    /// Lets a machine be lost after a while.
    pub(super) fn lose_later(&self, wait: Duration, node: NodeId) {
        let inbox = self.inbox.clone();
        runtime::after(wait, move || inbox.push(Tiding::Lost(node)));
    }

    /// Lets whoever replaces machines ask again at once.
    pub(super) fn hurry(&mut self) {
        self.losses.asked_at = None;
    }

    /// A machine is lost.
    pub(super) fn lose(&mut self, id: NodeId) {
        if self.nodes.len() < NODES_MIN {
            return;
        }
        self.replicas.remove(u64::from(id.0));
        self.crashed(id, Crash::Power);
        if let Some(node) = self.nodes.remove(&id) {
            self.oracle().count("machines lost");
            self.losses.nodes.insert(id, node);
            self.tend();
        }
    }

    /// Takes lost nodes out, and lets a machine in for each.
    pub(super) fn tend(&mut self) {
        let state = self.state();
        let lost: Vec<NodeId> = self.losses.nodes.keys().copied().collect();
        let is_known = |id: &NodeId| self.nodes.contains_key(id) || self.losses.nodes.contains_key(id);
        let newcomer = state.admitted.keys().find(|id| !is_known(id)).copied();
        let still_there: Vec<NodeId> = lost.iter().copied().filter(|id| state.nodes.contains_key(id)).collect();
        let is_replaced = self.losses.replaced == lost.len();
        if is_replaced && still_there.is_empty() {
            return;
        }
        if let Some(id) = newcomer.filter(|_| !is_replaced) {
            self.losses.replaced += 1;
            self.oracle().count("machines replaced");
            // As long as the cluster has some older nodes it may be one of them.
            let features = state.features;
            let machine = Machine { capacity: capacity(&mut self.rng), zone: String::new(), features };
            self.switch_on(id, &machine);
        }
        let is_time = self.losses.asked_at.is_none_or(|asked| asked + ASK_AGAIN <= self.now);
        let by = self.nodes.values().find(|node| node.is_up && !self.is_paused(node.id)).map(|node| node.id);
        if let Some(by) = by.filter(|_| is_time) {
            self.losses.asked_at = Some(self.now);
            for node in still_there {
                self.operate(by, Command::RemoveNode { node });
            }
            if self.losses.replaced < lost.len() {
                let mut request = [u8::MAX; 32];
                request[..8].copy_from_slice(&(self.losses.replaced as u64).to_be_bytes());
                let (secret, request) = (Digest::from_bytes(SECRET), Digest::from_bytes(request));
                self.operate(by, Command::Admit { secret, request });
            }
        }
        let inbox = self.inbox.clone();
        runtime::after(LOOK_EVERY, move || inbox.push(Tiding::Tend));
    }
}
