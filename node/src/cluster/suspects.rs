//! Nodes that have not been heard of for a moment: calls had better go to others.
//!
//! Every node says to whoever leads that it is there, and hears back who has not said so. Whoever leads may be the one that has
//! gone: its silence is noticed here, and counts until another leader has had the time to notice it too. A wrong suspicion costs
//! nothing, for it only changes an order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use control_plane::controller::SUSPECT_AFTER;
use control_plane::model::NodeId;
use tokio::time::Instant;

use super::BEAT_EVERY;

/// How long the silence of a node counts that did not answer this one: a new leader gives everybody [`SUSPECT_AFTER`] anew, and
/// tells with the next beat.
const SILENCE_COUNTS: Duration = SUSPECT_AFTER.saturating_add(BEAT_EVERY.saturating_mul(2));

/// Whom this node suspects. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Suspects(Arc<RwLock<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Whom whoever leads has not heard of.
    told: BTreeSet<NodeId>,
    /// Who did not answer this node, and until when that counts.
    silent: BTreeMap<NodeId, Instant>,
}

impl Suspects {
    /// Takes over what whoever leads says.
    pub fn replace(&self, told: BTreeSet<NodeId>) {
        // It is nobody, nearly always.
        if self.told() == told {
            return;
        }
        if told.is_empty() {
            tracing::info!("whoever leads suspects no node any more");
        } else {
            tracing::info!(nodes = ?told, "whoever leads suspects nodes to have gone");
        }
        self.held().told = told;
    }

    /// Notes that a node does not answer this one.
    pub(super) fn add(&self, node: NodeId) {
        self.held().silent.insert(node, Instant::now() + SILENCE_COUNTS);
    }

    /// Notes that a node has answered this one.
    pub(super) fn remove(&self, node: NodeId) {
        if self.contains(node) {
            let mut held = self.held();
            held.told.remove(&node);
            held.silent.remove(&node);
        }
    }

    /// Returns whether a node is suspected.
    pub fn contains(&self, node: NodeId) -> bool {
        self.contains_at(node, Instant::now())
    }

    fn contains_at(&self, node: NodeId, now: Instant) -> bool {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        held.told.contains(&node) || held.silent.get(&node).is_some_and(|until| now < *until)
    }

    /// Returns whom whoever leads has not heard of.
    pub(super) fn told(&self) -> BTreeSet<NodeId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).told.clone()
    }

    fn held(&self) -> RwLockWriteGuard<'_, Held> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);

    #[test]
    fn a_silent_leader_is_suspected_until_the_next_one_has_had_its_time() {
        let suspects = Suspects::default();
        suspects.add(ONE);
        suspects.replace(BTreeSet::new());
        assert!(suspects.contains(ONE), "the new leader has not had the time to miss it");
        assert_eq!(suspects.told(), BTreeSet::new(), "which is what this node would tell, should it lead");
        assert!(!suspects.contains_at(ONE, Instant::now() + SILENCE_COUNTS));
    }

    #[test]
    fn whoever_answers_is_suspected_no_more() {
        let suspects = Suspects::default();
        suspects.replace(BTreeSet::from([ONE]));
        suspects.add(ONE);
        suspects.remove(ONE);
        assert!(!suspects.contains(ONE));
        suspects.replace(BTreeSet::from([ONE]));
        assert!(suspects.contains(ONE), "what is told later counts");
    }
}
