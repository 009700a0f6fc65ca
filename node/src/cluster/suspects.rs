//! Nodes that have not been heard of for a moment: calls had better go to others.
//!
//! Every node says to whoever leads that it is there, and hears back who has not said so. Whoever leads may be the one that has
//! gone: then its silence is noticed here, until another one answers. A wrong suspicion costs nothing, for it only changes an order.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use control_plane::model::NodeId;

/// Whom this node suspects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Suspects(Arc<RwLock<BTreeSet<NodeId>>>);

impl Suspects {
    /// Takes over what whoever leads says.
    pub fn replace(&self, suspected: BTreeSet<NodeId>) {
        // It is nobody, nearly always.
        if *self.held() != suspected {
            tracing::info!(nodes = ?suspected, "nodes are suspected to have gone");
            *self.held_to_write() = suspected;
        }
    }

    /// Notes that a node does not answer this one.
    pub(super) fn add(&self, node: NodeId) {
        self.held_to_write().insert(node);
    }

    /// Notes that a node has answered this one.
    pub(super) fn remove(&self, node: NodeId) {
        if self.contains(node) {
            self.held_to_write().remove(&node);
        }
    }

    /// Returns whether a node is suspected.
    pub fn contains(&self, node: NodeId) -> bool {
        self.held().contains(&node)
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> BTreeSet<NodeId> {
        self.held().clone()
    }

    fn held(&self) -> RwLockReadGuard<'_, BTreeSet<NodeId>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_to_write(&self) -> RwLockWriteGuard<'_, BTreeSet<NodeId>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
