//! The proposals of this process: each has a number, so that one that is sent again is applied once.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use control_plane::model::{Epoch, NodeId};
use control_plane::state::{ANSWERS_MAX, Ticket};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many proposals wait for their answers at once; further ones wait to be made. The state keeps twice as many answers.
const OPEN_MAX: usize = ANSWERS_MAX / 2;

/// What this process has proposed since it registered.
#[derive(Debug)]
pub(super) struct Session {
    room: Semaphore,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Who this node is, and the epoch that its registration gave it; none before.
    of: Option<(NodeId, Epoch)>,
    next: u64,
    /// The numbers of proposals that wait for their answers.
    waiting: BTreeSet<u64>,
}

impl Session {
    pub(super) fn new() -> Self {
        Self { room: Semaphore::new(OPEN_MAX), open: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to number proposals, which the state takes from the epoch of the last registration only.
    pub(super) fn begin(&self, node: NodeId, epoch: Epoch) {
        let mut open = self.open();
        if open.of.is_none_or(|(_, before)| before < epoch) {
            *open = Open { of: Some((node, epoch)), ..Open::default() };
        }
    }

    /// Gives the next proposal its number, once there is room for it; none before this node has registered.
    pub(super) async fn number(&self) -> Option<Numbered<'_>> {
        // It is never closed.
        let room = self.room.acquire().await.ok()?;
        let mut open = self.open();
        let (node, epoch) = open.of?;
        let number = open.next;
        open.next += 1;
        open.waiting.insert(number);
        Some(Numbered { session: self, _room: room, node, epoch, number })
    }
}

/// A proposal that waits for its answer.
#[derive(Debug)]
pub(super) struct Numbered<'a> {
    session: &'a Session,
    _room: SemaphorePermit<'a>,
    node: NodeId,
    epoch: Epoch,
    number: u64,
}

impl Numbered<'_> {
    /// Returns what it carries when it is sent now.
    pub(super) fn ticket(&self) -> Ticket {
        let open = self.session.open();
        let oldest = open.waiting.first().copied().unwrap_or(self.number).min(self.number);
        Ticket { node: self.node, epoch: self.epoch, number: self.number, oldest }
    }
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        let mut open = self.session.open();
        if open.of == Some((self.node, self.epoch)) {
            open.waiting.remove(&self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_that_waits_is_told_with_each() {
        let session = Session::new();
        assert!(session.number().await.is_none(), "nobody would know whose it is");
        session.begin(NodeId(3), Epoch(2));
        let first = session.number().await.expect("it has registered");
        let second = session.number().await.expect("it has registered");
        let ticket = |number, oldest| Ticket { node: NodeId(3), epoch: Epoch(2), number, oldest };
        assert_eq!((first.ticket(), second.ticket()), (ticket(0, 0), ticket(1, 0)));
        drop(first);
        assert_eq!(second.ticket(), ticket(1, 1));

        // One that was numbered before a registration leaves the numbers after it alone.
        session.begin(NodeId(3), Epoch(5));
        session.begin(NodeId(3), Epoch(4));
        let third = session.number().await.expect("it has registered");
        drop(second);
        assert_eq!(third.ticket(), Ticket { epoch: Epoch(5), ..ticket(0, 0) });
    }
}
