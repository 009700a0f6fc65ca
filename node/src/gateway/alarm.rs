//! One timer for every line: who wants to be woken when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use control_plane::model::Timestamp;
use tokio::sync::Notify;

use super::line::Line;
use crate::clock::Clock;

/// How long the timer sleeps at most before it looks at the clock again: a wall clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// The lines that wait for a time.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    due: Mutex<BTreeMap<(Timestamp, u64), Weak<Line>>>,
    /// Somebody wants to be woken earlier than everybody else.
    earlier: Notify,
}

impl Alarm {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Timestamp, u64), Weak<Line>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets when a line is woken, in place of `before`.
    pub(super) fn set(&self, line: &Arc<Line>, before: Option<Timestamp>, at: Timestamp) {
        let number = line.number();
        let mut due = self.lock();
        if let Some(before) = before {
            due.remove(&(before, number));
        }
        due.insert((at, number), Arc::downgrade(line));
        let is_first = due.first_key_value().is_some_and(|(key, _)| *key == (at, number));
        drop(due);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// Takes the lines out whose time has come.
    fn take(&self, now: Timestamp) -> Vec<Arc<Line>> {
        let mut due = self.lock();
        let later = due.split_off(&(now + Duration::from_millis(1), 0));
        let come = std::mem::replace(&mut *due, later);
        come.into_values().filter_map(|line| line.upgrade()).collect()
    }

    fn first(&self) -> Option<Timestamp> {
        self.lock().first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes lines for ever.
    pub(super) async fn run(self: Arc<Self>, clock: Clock) {
        loop {
            let pause = self.first().map_or(SLEEP_MAX, |at| at.since(clock.now()).min(SLEEP_MAX));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.earlier.notified() => continue,
            }
            let now = clock.now();
            for line in self.take(now) {
                line.wake(now);
            }
        }
    }
}
