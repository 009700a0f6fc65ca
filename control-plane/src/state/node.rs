//! What the commands about nodes do.

use super::{Rejection, Reply, State};
use crate::model::{Epoch, Node, NodeId, NodeSpec, Resources};

impl State {
    pub(super) fn register_node(&mut self, id: NodeId, spec: NodeSpec) -> Result<Reply, Rejection> {
        // Zero is the origin of what the state itself places.
        if id.0 == 0 {
            return Err(Rejection::NoNode(id));
        }
        let epoch = Epoch(self.nodes.get(&id).map_or(0, |node| node.epoch.0).saturating_add(1));
        // What ran before may still run: its placements stay until the agent says which are lost.
        let held = self.held(id);
        let capacity = Resources {
            cpu: spec.capacity.cpu.max(held.cpu),
            memory: spec.capacity.memory.max(held.memory),
            disk: spec.capacity.disk.max(held.disk),
            pids: spec.capacity.pids.max(held.pids),
        };
        self.nodes.insert(id, Node { spec: NodeSpec { capacity, ..spec }, epoch, grant: Resources::default() });
        self.index += 1;
        Ok(Reply::Registered { epoch })
    }

    pub(super) fn grant(&mut self, id: NodeId, epoch: Epoch, grant: Resources) -> Result<Reply, Rejection> {
        let held = self.held(id);
        let node = self.node_in(id, epoch)?;
        let room = node.spec.capacity.minus(&held);
        if !grant.fits(&room) {
            return Err(Rejection::NoRoom { node: id, needed: grant, room });
        }
        node.grant = grant;
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
