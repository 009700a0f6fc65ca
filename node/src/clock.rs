//! The only reader of this machine's clocks and randomness.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use control_plane::model::Timestamp;

/// The latest time that was read: wall clocks are set back now and then, and nothing here may see that.
static LATEST_US: AtomicU64 = AtomicU64::new(0);

/// Counts within this process.
static UNIQUE: AtomicU64 = AtomicU64::new(1);

/// Reads the time for machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Returns the time in milliseconds; never less than what it returned before.
    pub fn now(self) -> Timestamp {
        Timestamp::from_millis(now_us() / 1000)
    }
}

/// Returns microseconds since 1970; never less than what it returned before.
pub fn now_us() -> u64 {
    let read = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let read = u64::try_from(read.as_micros()).unwrap_or(u64::MAX);
    LATEST_US.fetch_max(read, Ordering::Relaxed).max(read)
}

/// Returns a number that this process has not returned before.
pub fn unique() -> u64 {
    UNIQUE.fetch_add(1, Ordering::Relaxed)
}

/// Returns random bytes that nobody can guess.
///
/// # Panics
///
/// When the kernel has no randomness to give, which it has from a second after its start on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let count = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .expect("the kernel has randomness");
        filled += count;
    }
    bytes
}
