//! The only reader of the machine's clock and randomness.
//!
//! Everything else is handed a [`Clock`]. Its wall time never goes backwards within a process: when the machine's clock is
//! set back, time stands still until it has caught up, so that deadlines and log entries keep their order.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use control_plane::model::Timestamp;

/// A clock; cheap to clone, and all clones agree.
#[derive(Clone)]
pub struct Clock {
    shared: Arc<Shared>,
}

struct Shared {
    /// Reads microseconds since the Unix epoch, from anything.
    source: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Invariant: at least what any clone has answered so far.
    latest_us: AtomicU64,
}

impl Clock {
    /// Returns the clock of the machine.
    pub fn system() -> Self {
        Self::reading(|| {
            // A machine whose clock stands before 1970 is told it is 1970.
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        })
    }

    /// Returns a clock that reads microseconds since the Unix epoch from `source`; tests move it by hand.
    pub fn reading(source: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { source: Box::new(source), latest_us: AtomicU64::new(0) }) }
    }

    /// Returns the wall time in microseconds since the Unix epoch.
    pub fn now_us(&self) -> u64 {
        let read = (self.shared.source)();
        self.shared.latest_us.fetch_max(read, Ordering::Relaxed).max(read)
    }

    /// Returns the wall time as the state machines take it.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_us() / 1000)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("latest_us", &self.shared.latest_us).finish_non_exhaustive()
    }
}

/// Fills `bytes` with randomness of the kernel, fit for secrets.
///
/// # Panics
///
/// When the kernel has no such call, which every Linux since 3.17 has.
pub fn fill_random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no randomness: {error}"),
        }
    }
}

/// Returns 128 random bits, as request ids take them: the kernel is asked for many at a time.
pub fn random_u128() -> u128 {
    thread_local! {
        static STOCK: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
    }
    STOCK.with_borrow_mut(|stock| {
        stock.pop().unwrap_or_else(|| {
            let mut bytes = [0; 16 * STOCK_MAX];
            fill_random(&mut bytes);
            let (numbers, _) = bytes.as_chunks::<16>();
            stock.extend(numbers.iter().skip(1).map(|bytes| u128::from_ne_bytes(*bytes)));
            u128::from_ne_bytes(numbers[0])
        })
    })
}

/// How many numbers a thread has in stock.
const STOCK_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_the_machine_catches_up() {
        let machine = Arc::new(AtomicU64::new(5_000));
        let clock = {
            let machine = Arc::clone(&machine);
            Clock::reading(move || machine.load(Ordering::Relaxed))
        };
        let other = clock.clone();
        assert_eq!(clock.now(), Timestamp::from_millis(5));
        machine.store(1_000, Ordering::Relaxed);
        assert_eq!(other.now_us(), 5_000);
        machine.store(5_001, Ordering::Relaxed);
        assert_eq!(clock.now_us(), 5_001);
    }

    #[test]
    fn randomness_does_not_repeat() {
        let numbers: std::collections::BTreeSet<u128> = (0..1000).map(|_| random_u128()).collect();
        assert_eq!(numbers.len(), 1000);
    }
}
