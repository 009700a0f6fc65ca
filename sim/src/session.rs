//! The proposals of one process: each has a number, so that one that is sent again is applied once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_plane::model::{Epoch, NodeId};
use control_plane::state::{Ticket, Tickets};

/// What a process has proposed since it registered; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session(Arc<Mutex<Tickets>>);

impl Session {
    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to number proposals.
    pub(crate) fn begin(&self, node: NodeId, epoch: Epoch) {
        self.tickets().begin(node, epoch);
    }

    /// Gives the next proposal its number; none before this node has registered.
    pub(crate) fn number(&self) -> Option<Numbered> {
        let ticket = self.tickets().issue()?;
        Some(Numbered { session: self.clone(), ticket })
    }
}

/// A proposal that waits for its answer.
#[derive(Debug)]
pub(crate) struct Numbered {
    session: Session,
    ticket: Ticket,
}

impl Numbered {
    /// Returns what it carries when it is sent now.
    pub(crate) fn ticket(&self) -> Ticket {
        self.session.tickets().again(self.ticket)
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.session.tickets().over(self.ticket);
    }
}
