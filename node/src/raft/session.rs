//! The proposals of this process: each has a number, so that one that is sent again is applied once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use control_plane::model::{Epoch, NodeId};
use control_plane::state::{ANSWERS_MAX, Ticket, Tickets};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many proposals wait for their answers at once; further ones wait to be made. The state keeps twice as many answers.
const OPEN_MAX: usize = ANSWERS_MAX / 2;

/// What this process has proposed since it registered.
#[derive(Debug)]
pub(super) struct Session {
    room: Semaphore,
    tickets: Mutex<Tickets>,
}

impl Session {
    pub(super) fn new() -> Self {
        Self { room: Semaphore::new(OPEN_MAX), tickets: Mutex::default() }
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to number proposals, which the state takes from the epoch of the last registration only.
    pub(super) fn begin(&self, node: NodeId, epoch: Epoch) {
        self.tickets().begin(node, epoch);
    }

    /// Gives the next proposal its number, once there is room for it; none before this node has registered.
    pub(super) async fn number(&self) -> Option<Numbered<'_>> {
        // It is never closed.
        let room = self.room.acquire().await.ok()?;
        let ticket = self.tickets().issue()?;
        Some(Numbered { session: self, _room: room, ticket })
    }
}

/// A proposal that waits for its answer.
#[derive(Debug)]
pub(super) struct Numbered<'a> {
    session: &'a Session,
    _room: SemaphorePermit<'a>,
    ticket: Ticket,
}

impl Numbered<'_> {
    /// Returns what it carries when it is sent now.
    pub(super) fn ticket(&self) -> Ticket {
        self.session.tickets().again(self.ticket)
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        self.session.tickets().over(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proposal_waits_until_it_is_dropped() {
        let session = Session::new();
        assert!(session.number().await.is_none(), "nobody would know whose it is");
        session.begin(NodeId(3), Epoch(2));
        let first = session.number().await.expect("it has registered");
        let second = session.number().await.expect("it has registered");
        assert_eq!((second.ticket().number, second.ticket().oldest), (1, 0));
        drop(first);
        assert_eq!(second.ticket().oldest, 1);
    }
}
