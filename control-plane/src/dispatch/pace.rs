//! How fast a revision goes: how long its calls and its starts take, and what follows for how many starts are worth it.
//!
//! A start serves only those calls that nothing serves before it is ready. Where calls take 2 ms and starts 40, one instance
//! has served twenty of those that wait by then: to start twenty more would help nobody, and would take the cores from the
//! one that works. Where calls take longer than starts, every call that waits is worth a start.

use std::collections::VecDeque;
use std::time::Duration;

use crate::model::{Concurrency, Timestamp};

/// What a start takes as long as none was seen.
const START_ASSUMED: Duration = Duration::from_millis(50);

/// The longest start that calls are held back for.
const START_MAX: Duration = Duration::from_secs(1);

/// The shortest call that is believed: times are whole milliseconds.
const CALL_MIN: Duration = Duration::from_micros(100);

/// How much of a new sample goes into an average: one part of so many.
const WEIGHT: u32 = 8;

/// What was seen of one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// None until a call has ended: then any may be long.
    call: Option<Duration>,
    start: Option<Duration>,
    /// When each start that is wanted was asked for, the oldest first.
    asked: VecDeque<Timestamp>,
}

impl Pace {
    /// Notes that a call has ended, which an instance got at `since`.
    pub(super) fn call_ended(&mut self, since: Timestamp, now: Timestamp) {
        average(&mut self.call, now.since(since));
    }

    /// Returns how many starts are wanted.
    pub(super) fn wanted(&self) -> u32 {
        u32::try_from(self.asked.len()).unwrap_or(u32::MAX)
    }

    /// Notes that `starting` starts are wanted in all from `now` on.
    pub(super) fn want(&mut self, now: Timestamp, starting: u32) {
        self.asked.resize(usize::try_from(starting).unwrap_or(usize::MAX), now);
    }

    /// Notes that an instance is ready.
    pub(super) fn started(&mut self, now: Timestamp) {
        if let Some(asked) = self.asked.pop_front() {
            average(&mut self.start, now.since(asked));
        }
    }

    /// Returns how long a start takes, or the longest that calls are held back for.
    pub(super) fn start(&self) -> Duration {
        self.start.map_or(START_ASSUMED, |start| start.min(START_MAX))
    }

    /// Returns how many calls one slot serves while one start takes place: none, where calls are longer.
    pub(super) fn rounds(&self) -> u32 {
        self.call.map_or(0, |call| {
            u32::try_from(self.start().as_micros() / call.max(CALL_MIN).as_micros()).unwrap_or(u32::MAX)
        })
    }
}

/// Returns how many starts are worth it for `waiting` calls, where `working` instances go on serving and one slot serves so many
/// `rounds` while a start takes place.
pub(super) fn worthwhile(waiting: usize, working: u32, rounds: u32, concurrency: Concurrency) -> u32 {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    let slots = u32::from(concurrency.get());
    let served = working.saturating_mul(slots).saturating_mul(rounds);
    waiting.saturating_sub(served).div_ceil(slots.saturating_mul(rounds.max(1)))
}

fn average(average: &mut Option<Duration>, sample: Duration) {
    *average = Some(average.map_or(sample, |average| average - average / WEIGHT + sample / WEIGHT));
}
