//! When to try again: exponential waits with a jitter that is the same in every replay.

use std::time::Duration;

use crate::model::{InstanceFailure, RevisionId, Timestamp};
use crate::planted::planted;

/// The wait after the first failure.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// An instance that ends sooner than this after it was ready has crashed on its own account.
const CRASH_WITHIN: Duration = Duration::from_secs(10);

/// How many such crashes in a row are taken for the fault of what was asked of them.
const CRASHES_FREE: u32 = 3;

/// What a revision's failures cost it.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    crashes: u32,
    until: Option<Timestamp>,
    last: Option<InstanceFailure>,
}

impl Backoff {
    /// Counts a start that failed.
    pub(super) fn failed(&mut self, now: Timestamp, revision: &RevisionId, failure: InstanceFailure) {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(failure);
        self.until = Some(now + wait(revision, self.failures));
    }

    /// Counts an instance that ended by itself after it had lived for `lived`.
    pub(super) fn crashed(&mut self, now: Timestamp, lived: Duration, revision: &RevisionId, failure: InstanceFailure) {
        if lived >= CRASH_WITHIN {
            self.crashes = 0;
            return;
        }
        self.crashes = self.crashes.saturating_add(1);
        if self.crashes > CRASHES_FREE {
            self.until = Some(now + wait(revision, self.crashes - CRASHES_FREE));
            self.last = Some(failure);
        }
    }

    /// Notes that a start succeeded.
    pub(super) fn started(&mut self) {
        self.failures = 0;
        if self.crashes <= CRASHES_FREE {
            self.until = None;
        }
    }

    /// Returns until when nothing is started, and why, unless that has passed.
    pub(super) fn holds(&self, now: Timestamp) -> Option<(Timestamp, InstanceFailure)> {
        let until = self.until.filter(|until| now < *until && !planted!(NoBackoff))?;
        Some((until, self.last.clone()?))
    }

    /// Returns until when nothing is started.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

/// Returns how long to wait after the nth failure in a row: doubled each time, up to a quarter shorter by jitter.
///
/// The jitter comes from the revision and the count (FNV-1a), not from a random source, so that replays agree.
fn wait(revision: &RevisionId, failures: u32) -> Duration {
    let doubled = WAIT_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(WAIT_MAX);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in revision.function.as_str().bytes().chain(revision.number.0.to_le_bytes()).chain(failures.to_le_bytes())
    {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    doubled - doubled / 4 * u32::try_from(hash % 100).unwrap_or(0) / 100
}
