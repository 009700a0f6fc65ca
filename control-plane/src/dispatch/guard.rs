//! The burst guard: how fast one revision may ask for instances.
//!
//! A burst of first calls should not ask for as many instances as it has calls: most calls are short, and a few instances
//! serve them sooner than hundreds of starts on the same cores. So the first [`FREE_STARTS`] come at once, and after that a
//! revision grows by at most twice what it already has per [`WINDOW`], like slow start in TCP.

use std::time::Duration;

use crate::model::Timestamp;

/// Instances a revision may have or ask for without being slowed.
const FREE_STARTS: u32 = 16;

/// How often the allowance is renewed.
const WINDOW: Duration = Duration::from_millis(100);

/// What is left of the allowance.
#[derive(Clone, Debug, Default)]
pub(super) struct StartGuard {
    /// When the current window ends, and how many starts are left in it.
    window: Option<(Timestamp, u32)>,
    /// Whether somebody was held back and should look again.
    is_waiting: bool,
}

impl StartGuard {
    /// Returns how many instances may be asked for in all, between `wanted` (already asked for) and `needed`.
    ///
    /// Less than `wanted` is always allowed.
    pub(super) fn allow(&mut self, now: Timestamp, ready: u32, wanted: u32, needed: u32) -> u32 {
        self.is_waiting = false;
        if needed <= wanted {
            return needed;
        }
        let have = ready.saturating_add(wanted);
        let free = FREE_STARTS.saturating_sub(have).min(needed - wanted);
        let beyond = needed - wanted - free;
        if beyond == 0 {
            return needed;
        }
        let (end, left) = match self.window {
            Some((end, left)) if now < end => (end, left),
            _ => (now + WINDOW, have.saturating_add(free).saturating_mul(2)),
        };
        let given = beyond.min(left);
        self.window = Some((end, left - given));
        self.is_waiting = given < beyond;
        wanted + free + given
    }

    /// Starts a window without any start: what was asked for just now will not come. Who still waits asks again after it.
    pub(super) fn rest(&mut self, now: Timestamp, is_waiting: bool) {
        self.window = Some((now + WINDOW, 0));
        self.is_waiting = is_waiting;
    }

    /// Returns when somebody who was held back may ask again.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.window.filter(|_| self.is_waiting).map(|(end, _)| end)
    }
}
