//! How long an idle instance is worth keeping.

use std::time::Duration;

use crate::model::{Purpose, Scaling};

/// How long an idle instance stays unless its function's `max-idle` is shorter.
pub const IDLE_DEFAULT: Duration = Duration::from_secs(600);

/// Returns how long an instance may idle before it goes; none means that it stays.
///
/// A first policy of one fixed time. Those of a function's minimum stay.
pub fn idle_limit(scaling: &Scaling, purpose: Purpose) -> Option<Duration> {
    match purpose {
        Purpose::Minimum => None,
        Purpose::Demand | Purpose::Verify => Some(IDLE_DEFAULT.min(scaling.idle_max())),
    }
}
