//! What the commands about nodes do.

use std::collections::{BTreeMap, BTreeSet};

use super::{GRANT_MAX, Grant, Rejection, Reply, Session, State};
use crate::model::{Epoch, Node, NodeId, NodeSpec, Resources, check_labels, relabelled};
use crate::planted::planted;

impl State {
    pub(super) fn register_node(&mut self, id: NodeId, spec: NodeSpec) -> Result<Reply, Rejection> {
        // Zero is the origin of what the state itself places.
        if id.0 == 0 {
            return Err(Rejection::NoNode(id));
        }
        if self.removed.contains(&id) {
            return Err(Rejection::NodeRemoved(id));
        }
        if !self.is_read_by(spec.features) {
            return Err(Rejection::NodeTooOld { node: id, level: spec.features, cluster: self.features });
        }
        self.admitted.remove(&id);
        let known = self.nodes.get(&id);
        let epoch = Epoch(known.map_or(0, |node| node.epoch.0).saturating_add(1));
        // What ran before may still run: its placements stay until the agent says which are lost.
        let held = self.placements.held(id);
        let capacity = spec.capacity.larger(&held);
        let may_rise = spec.features > self.features;
        let mut node = Node::new(NodeSpec { capacity, ..spec }, epoch);
        // What operators have said about it outlives its agent.
        if let Some(known) = known {
            (node.is_draining, node.promoted_at) = (known.is_draining, known.promoted_at);
            node = node.with_labels_set(known.labels_set().clone());
        }
        self.nodes.insert(id, node);
        // Whatever it proposed before and was not applied yet never will be.
        self.sessions.insert(id, Session::new(epoch));
        if may_rise {
            self.raise_features();
        }
        self.index += 1;
        Ok(Reply::Registered { epoch })
    }

    pub(super) fn grant(&mut self, grants: &[Grant]) -> Result<Reply, Rejection> {
        if grants.len() > GRANT_MAX {
            return Err(Rejection::Limit {
                what: "nodes that one command grants something".to_owned(),
                limit: GRANT_MAX,
            });
        }
        let mut refused = None;
        let mut given = 0_usize;
        for grant in grants {
            match self.grant_one(grant) {
                Ok(()) => given += 1,
                Err(rejection) => refused = refused.or(Some(rejection)),
            }
        }
        match refused {
            Some(rejection) if given == 0 => Err(rejection),
            _ => Ok(self.done()),
        }
    }

    fn grant_one(&mut self, &Grant { node: id, epoch, resources }: &Grant) -> Result<(), Rejection> {
        let held = self.placements.held(id);
        let node = self.node_in(id, epoch)?;
        let room = if node.is_dead { Resources::default() } else { node.spec.capacity.minus(&held) };
        if !resources.fits(&room) && !planted!(GrantOverCapacity) {
            return Err(Rejection::NoRoom { node: id, needed: resources, room });
        }
        node.grant = resources;
        Ok(())
    }

    pub(super) fn declare_dead(&mut self, id: NodeId, epoch: Epoch) -> Result<Reply, Rejection> {
        let node = self.node_in(id, epoch)?;
        if node.is_dead {
            return Ok(Reply::Done { index: self.index });
        }
        // Whatever it still says in the old epoch is refused: what it holds is free for others.
        node.epoch = Epoch(node.epoch.0.saturating_add(1));
        node.grant = Resources::default();
        node.is_dead = true;
        if !planted!(DeadKept) {
            self.placements.remove_of(id);
        }
        Ok(self.done())
    }

    pub(super) fn drain(&mut self, id: NodeId, is_draining: bool) -> Result<Reply, Rejection> {
        let node = self.nodes.get_mut(&id).ok_or(Rejection::NoNode(id))?;
        if node.is_draining == is_draining {
            return Ok(Reply::Done { index: self.index });
        }
        node.is_draining = is_draining;
        Ok(self.done())
    }

    pub(super) fn label(
        &mut self,
        id: NodeId,
        set: BTreeMap<String, String>,
        unset: &BTreeSet<String>,
    ) -> Result<Reply, Rejection> {
        let node = self.nodes.get_mut(&id).ok_or(Rejection::NoNode(id))?;
        let after = relabelled(node.labels_set(), set, unset);
        let after = after.map_err(|key| Rejection::LabelNotSet { node: id, key })?;
        check_labels(&after).map_err(|error| Rejection::BadLabel(error.to_string()))?;
        if after == *node.labels_set() {
            return Ok(Reply::Done { index: self.index });
        }
        *node = node.clone().with_labels_set(after);
        Ok(self.done())
    }

    pub(super) fn prefer_voter(&mut self, id: NodeId) -> Result<Reply, Rejection> {
        let members = self.nodes.len() + self.admitted.len();
        let index = self.index + 1;
        let node = self.nodes.get_mut(&id).ok_or(Rejection::NoNode(id))?;
        if node.is_dead {
            return Err(Rejection::NodeDead(id));
        }
        if node.is_draining {
            return Err(Rejection::NodeDraining(id));
        }
        if members < 3 {
            return Err(Rejection::OneVoter { nodes: u32::try_from(members).unwrap_or(u32::MAX) });
        }
        node.promoted_at = Some(index);
        Ok(self.done())
    }

    /// Returns a node if the sender speaks in its epoch.
    pub(super) fn node_in(&mut self, id: NodeId, epoch: Epoch) -> Result<&mut Node, Rejection> {
        let node = self.nodes.get_mut(&id).ok_or(Rejection::NoNode(id))?;
        if node.epoch != epoch {
            return Err(Rejection::StaleEpoch { node: id, actual: node.epoch, given: epoch });
        }
        Ok(node)
    }
}
