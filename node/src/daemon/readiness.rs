//! Whether the node can take work: what `/readyz` answers.
//!
//! The node must have registered with its cluster, which takes a leader; it must have shown that it can make sandboxes, and must
//! not be on its way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control_plane::model::Epoch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sandbox::{Network, Sandboxes};

/// How often it is looked for the first sandbox.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the node waits for before it takes work; cheap to clone, and all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Readiness(Arc<State>);

#[derive(Debug)]
struct State {
    registered: watch::Receiver<Option<Epoch>>,
    has_sandboxes: AtomicBool,
    is_stopping: AtomicBool,
}

impl Readiness {
    /// Begins; without a pool, sandboxes are made when they are needed and nothing is shown before.
    ///
    /// `registered` tells in which epoch the node has registered with its cluster.
    pub(super) fn new(has_pool: bool, registered: watch::Receiver<Option<Epoch>>) -> Self {
        let has_sandboxes = AtomicBool::new(!has_pool);
        let state = State { registered, has_sandboxes, is_stopping: AtomicBool::new(false) };
        Self(Arc::new(state))
    }

    /// Looks until the first sandbox of the pool is there. Later the pool may be empty: a burst takes them all.
    pub(super) fn follow(&self, sandboxes: Sandboxes, stop: CancellationToken) {
        let this = self.clone();
        tokio::spawn(async move {
            while !this.0.has_sandboxes.load(Ordering::Relaxed) {
                if sandboxes.blank_count(Network::None) > 0 {
                    this.0.has_sandboxes.store(true, Ordering::Relaxed);
                    return;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
    }

    /// Notes that the node stops: whoever balances load sends nothing more, while calls in flight finish.
    pub(super) fn stopping(&self) {
        self.0.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Returns what keeps the node from taking work; empty if nothing does.
    pub(super) fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.0.registered.borrow().is_none() {
            reasons.push("the node has not registered with its cluster yet, and takes no calls".to_owned());
        }
        if !self.0.has_sandboxes.load(Ordering::Relaxed) {
            reasons.push("no sandbox could be made yet".to_owned());
        }
        if self.0.is_stopping.load(Ordering::Relaxed) {
            reasons.push("the node is stopping".to_owned());
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_between_its_first_sandbox_and_its_end() {
        let (registers, registered) = watch::channel(None);
        let readiness = Readiness::new(true, registered.clone());
        assert_eq!(readiness.unready().len(), 2);
        registers.send_replace(Some(Epoch(1)));
        assert_eq!(readiness.unready(), ["no sandbox could be made yet"]);
        readiness.0.has_sandboxes.store(true, Ordering::Relaxed);
        assert!(readiness.unready().is_empty());
        readiness.stopping();
        assert_eq!(readiness.unready(), ["the node is stopping"]);
        assert!(Readiness::new(false, registered).unready().is_empty());
    }
}
