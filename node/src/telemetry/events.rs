//! What happened lately, in memory: the newest so many events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::json::{Event, EventKind};

/// How many events are remembered.
pub const EVENTS_KEPT: usize = 1_000;

/// The newest events; cheap to clone, and all clones are one.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    events: Arc<Mutex<VecDeque<Event>>>,
}

impl EventLog {
    /// Starts without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers an event, and forgets the oldest one beyond [`EVENTS_KEPT`].
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
        let mut events = self.lock();
        if events.len() == EVENTS_KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// Returns what is remembered, oldest first.
    pub fn list(&self) -> Vec<Event> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Event>> {
        // Whoever panicked left whole events behind.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_events_stay() {
        let log = EventLog::new();
        for at_ms in 0..EVENTS_KEPT as u64 + 2 {
            let message = String::new();
            let kind = EventKind::Deployed;
            log.push(Event {
                at_ms,
                kind,
                node: "node-1".into(),
                about: None,
                function: None,
                revision: None,
                instance: None,
                message,
            });
        }
        let kept = log.list();
        assert_eq!((kept.len(), kept[0].at_ms, kept[EVENTS_KEPT - 1].at_ms), (EVENTS_KEPT, 2, EVENTS_KEPT as u64 + 1));
    }
}
