//! The bounded waiting line: first in, first out, each with a deadline.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{InvocationId, Timestamp};

/// Invocations in the order in which they came; its bound is the caller's.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    next: u64,
    waiting: BTreeMap<u64, (InvocationId, Timestamp)>,
    /// Invariant: holds exactly what `waiting` holds.
    places: BTreeMap<InvocationId, u64>,
    /// Invariant: holds exactly what `waiting` holds.
    deadlines: BTreeSet<(Timestamp, u64)>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, invocation: InvocationId, deadline: Timestamp) {
        let place = self.next;
        self.next += 1;
        self.waiting.insert(place, (invocation, deadline));
        self.places.insert(invocation, place);
        self.deadlines.insert((deadline, place));
    }

    pub(super) fn pop(&mut self) -> Option<InvocationId> {
        let (place, (invocation, deadline)) = self.waiting.pop_first()?;
        self.places.remove(&invocation);
        self.deadlines.remove(&(deadline, place));
        Some(invocation)
    }

    /// Takes an invocation out, wherever it stands; returns whether it was there.
    pub(super) fn remove(&mut self, invocation: InvocationId) -> bool {
        let Some(place) = self.places.remove(&invocation) else {
            return false;
        };
        if let Some((_, deadline)) = self.waiting.remove(&place) {
            self.deadlines.remove(&(deadline, place));
        }
        true
    }

    pub(super) fn first_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out everything whose deadline has come, earliest first.
    pub(super) fn expired(&mut self, now: Timestamp) -> Vec<InvocationId> {
        let mut expired = Vec::new();
        while let Some((deadline, place)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            if let Some((invocation, _)) = self.waiting.remove(&place) {
                self.places.remove(&invocation);
                expired.push(invocation);
            }
        }
        expired
    }
}
