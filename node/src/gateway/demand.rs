//! What traffic asks of the agent: start, stop, kill.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_plane::model::{InstanceId, RevisionId};
use tokio::sync::Notify;

/// Something that traffic asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// In all `starting` instances are wanted beyond those that are ready; replaces what was wanted before.
    Wanted {
        /// Of which revision.
        revision: RevisionId,
        /// How many should be starting.
        starting: u32,
    },
    /// An instance has no invocation left and gets no more: stop it.
    Retired {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance is of no use any more, whatever it is doing: kill it.
    Kill {
        /// The instance.
        instance: InstanceId,
        /// Why.
        reason: KillReason,
    },
}

/// Why an instance must be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// It works on an invocation whose time is over.
    Timeout,
    /// It does not keep to its contract.
    Broken,
}

/// The receiving end of demands.
///
/// What is wanted of a revision replaces what was wanted before and not taken yet, so a slow receiver loses nothing and
/// at most one entry per revision and two per instance wait.
#[derive(Debug)]
pub struct Demands {
    outbox: Arc<Outbox>,
}

/// Demands on their way to the receiver.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pending: Mutex<Pending>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    wanted: BTreeMap<RevisionId, u32>,
    /// Demands about single instances, in the order in which they arose.
    instances: VecDeque<Demand>,
    is_closed: bool,
}

impl Demands {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox }
    }

    /// Returns the next demand, or none once the traffic it comes from is gone. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Demand> {
        loop {
            let arrived = self.outbox.arrived.notified();
            {
                let mut pending = self.outbox.lock();
                if let Some(demand) = pending.instances.pop_front() {
                    return Some(demand);
                }
                if let Some((revision, starting)) = pending.wanted.pop_first() {
                    return Some(Demand::Wanted { revision, starting });
                }
                if pending.is_closed {
                    return None;
                }
            }
            arrived.await;
        }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, demand: Demand) {
        let mut pending = self.lock();
        match demand {
            Demand::Wanted { revision, starting } => {
                pending.wanted.insert(revision, starting);
            }
            Demand::Retired { .. } | Demand::Kill { .. } => pending.instances.push_back(demand),
        }
        drop(pending);
        self.arrived.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_one();
    }
}
