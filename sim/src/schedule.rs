//! Virtual time: one ordered heap of events; what is due at the same moment happens in the order in which it was entered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use control_plane::model::Timestamp;

/// What will happen, and when.
#[derive(Debug)]
pub(crate) struct Schedule<E> {
    heap: BinaryHeap<Reverse<(Timestamp, u64)>>,
    /// Invariant: holds an event for exactly the numbers in the heap.
    events: BTreeMap<u64, E>,
    next: u64,
}

impl<E> Schedule<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), events: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn enter(&mut self, at: Timestamp, event: E) {
        self.heap.push(Reverse((at, self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    /// Returns when the next event is due.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out the next event.
    pub(crate) fn pop(&mut self) -> Option<E> {
        let Reverse((_, number)) = self.heap.pop()?;
        self.events.remove(&number)
    }
}
