//! What happened lately, in memory: the newest so many events, and of each kind the newest few in any case.
//!
//! Some kinds come by the hundred, others once a month, and it is the rare ones that explain the others. With one bound for all, a
//! function that fails over and over would push out that a node died. So each kind has a share that nothing else takes: where
//! there is no room left, a kind beyond its share loses its own oldest event.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::json::{Event, EventKind};

/// How many events are remembered.
pub const EVENTS_KEPT: usize = 1_000;

/// How many events of its own each kind keeps, however many there are of others.
pub const EVENTS_OF_KIND_KEPT: usize = 40;

/// How many kinds there are.
const KINDS: usize = EventKind::Other as usize + 1;

// When the log is full, some kind is beyond its share.
const _: () = assert!(KINDS * EVENTS_OF_KIND_KEPT < EVENTS_KEPT, "the shares are more than the whole");

/// The newest events; cheap to clone, and all clones are one.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first. Invariant: at most [`EVENTS_KEPT`].
    events: VecDeque<Event>,
    /// How many of them are of each kind.
    counts: [usize; KINDS],
}

impl Kept {
    fn push(&mut self, event: Event) {
        if self.events.len() == EVENTS_KEPT {
            let is_beyond = |kept: &Event| self.counts[kept.kind as usize] > EVENTS_OF_KIND_KEPT;
            let oldest = self.events.iter().position(is_beyond);
            let gone =
                oldest.and_then(|oldest| self.events.remove(oldest)).expect("the shares are less than the whole");
            self.counts[gone.kind as usize] -= 1;
        }
        self.counts[event.kind as usize] += 1;
        self.events.push_back(event);
    }
}

impl EventLog {
    /// Starts without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers an event; beyond [`EVENTS_KEPT`] it forgets the oldest one of those whose kind has more than
    /// [`EVENTS_OF_KIND_KEPT`].
    pub fn push(&self, event: Event) {
        let Event { kind, function, revision, instance, message, .. } = &event;
        match kind {
            EventKind::RevisionFailed | EventKind::InstanceFailed | EventKind::NodeDead | EventKind::NotPlaced => {
                tracing::warn!(target: "hearth::event", ?kind, function, revision, instance, "{message}");
            }
            EventKind::Deployed
            | EventKind::Promoted
            | EventKind::Scaled
            | EventKind::Restored
            | EventKind::InstanceReady
            | EventKind::InstanceStopped
            | EventKind::NodeStarted
            | EventKind::NodeJoined
            | EventKind::NodeRemoved
            | EventKind::NodeBack
            | EventKind::NodeDrained
            | EventKind::NodeUndrained
            | EventKind::VoterAdded
            | EventKind::VoterRemoved
            | EventKind::LeaderChanged
            | EventKind::Placed
            | EventKind::Other => {
                tracing::info!(target: "hearth::event", ?kind, function, revision, instance, "{message}");
            }
        }
        self.lock().push(event);
    }

    /// Returns what is remembered, oldest first.
    pub fn list(&self) -> Vec<Event> {
        self.lock().events.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked left whole events behind.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, at: usize) -> Event {
        Event {
            at_ms: at as u64,
            kind,
            node: "node-1".into(),
            about: None,
            function: None,
            revision: None,
            instance: None,
            message: String::new(),
        }
    }

    /// Returns when those of a kind that are remembered happened.
    fn kept(log: &EventLog, kind: EventKind) -> Vec<u64> {
        log.list().iter().filter(|event| event.kind == kind).map(|event| event.at_ms).collect()
    }

    #[test]
    fn the_newest_events_stay() {
        let log = EventLog::new();
        for at in 0..EVENTS_KEPT + 2 {
            log.push(event(EventKind::Deployed, at));
        }
        let expected: Vec<u64> = (2..EVENTS_KEPT as u64 + 2).collect();
        assert_eq!(kept(&log, EventKind::Deployed), expected);
    }

    #[test]
    fn kinds_that_flood_push_out_their_own_and_nothing_rare() {
        let log = EventLog::new();
        for at in 0..EVENTS_OF_KIND_KEPT {
            log.push(event(EventKind::NodeDead, at));
        }
        for at in 0..EVENTS_KEPT {
            log.push(event(EventKind::InstanceReady, at));
        }
        for at in 0..3 * EVENTS_KEPT {
            log.push(event(EventKind::InstanceFailed, at));
        }
        assert_eq!(log.list().len(), EVENTS_KEPT);
        let newest = |pushed: usize, count: usize| (pushed - count..pushed).map(|at| at as u64).collect::<Vec<_>>();
        let share = EVENTS_OF_KIND_KEPT;
        assert_eq!(kept(&log, EventKind::NodeDead), newest(share, share), "its share is its own");
        assert_eq!(kept(&log, EventKind::InstanceReady), newest(EVENTS_KEPT, share), "what was beyond it made room");
        let rest = EVENTS_KEPT - 2 * share;
        assert_eq!(kept(&log, EventKind::InstanceFailed), newest(3 * EVENTS_KEPT, rest));
        assert!(log.list()[..share].iter().all(|event| event.kind == EventKind::NodeDead), "oldest first");
    }
}
