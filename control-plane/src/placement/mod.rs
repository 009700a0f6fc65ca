//! Where an instance goes: filter the nodes that can take it, then the best score; explains itself when nothing fits.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{Node, NodeId, Resources};
use crate::state::State;

/// How good a node is for an instance; less is better, earlier fields count first, the id last so that there are no ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    /// Thousandths of the scarcest dimension that stay free: tight packing keeps whole nodes empty.
    free_permille: u64,
    node: NodeId,
}

/// Why no node can take an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoFit {
    /// What was needed.
    pub needed: Resources,
    /// What each node has left.
    pub rooms: BTreeMap<NodeId, Resources>,
}

impl fmt::Display for NoFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rooms.is_empty() {
            return f.write_str("no node has registered");
        }
        write!(f, "an instance needs {}", self.needed)?;
        for (node, room) in &self.rooms {
            write!(f, "; {node} has {room} left")?;
        }
        Ok(())
    }
}

/// Returns the node on which an instance of this size should run: an exact scan over all nodes.
///
/// Grants do not count as taken: placing shrinks the node's grant by what it needs of it.
pub fn place(state: &State, needed: &Resources) -> Result<NodeId, NoFit> {
    let room = |id: NodeId, node: &Node| node.spec.capacity.minus(&state.held(id));
    let best = state
        .nodes
        .iter()
        .filter(|(_, node)| node.is_eligible())
        .map(|(id, node)| (*id, node, room(*id, node)))
        .filter(|(_, _, room)| needed.fits(room))
        .map(|(id, node, room)| Score {
            free_permille: free_permille(&room.minus(needed), &node.spec.capacity),
            node: id,
        })
        .min();
    best.map(|score| score.node).ok_or_else(|| NoFit {
        needed: *needed,
        rooms: state.nodes.iter().map(|(id, node)| (*id, room(*id, node))).collect(),
    })
}

/// Returns how much of its scarcest dimension a node has free, in thousandths.
fn free_permille(free: &Resources, capacity: &Resources) -> u64 {
    let share = |free: u64, capacity: u64| free.saturating_mul(1000).checked_div(capacity).unwrap_or(1000);
    share(free.cpu.0.into(), capacity.cpu.0.into())
        .min(share(free.memory.0, capacity.memory.0))
        .min(share(free.disk.0, capacity.disk.0))
        .min(share(free.pids.into(), capacity.pids.into()))
}
