//! What processes have used of the processors, as the kernel tells it in `stat` and `schedstat`.

use std::fs;
use std::io;
use std::time::Duration;

use super::{BenchError, io_at};

/// How many ticks of `stat` make a second, on every machine Linux runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Returns the time that processes have spent so far, in their own code and in the kernel's.
pub(super) fn cpu_time(pids: &[u32]) -> Duration {
    let spent = |pid: &u32| ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default());
    Duration::from_millis(pids.iter().map(spent).sum::<u64>() * 1000 / TICKS_PER_SECOND)
}

/// Returns the processor time that this thread has had.
pub(super) fn thread_time() -> Result<Duration, BenchError> {
    // The kernel counts what runs at ticks and whenever it schedules: this makes it count.
    std::thread::yield_now();
    let what = io_at("the processor time of a thread cannot be read");
    let text = fs::read_to_string("/proc/thread-self/schedstat").map_err(&what)?;
    let nanos = text.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    nanos.map(Duration::from_nanos).ok_or_else(|| what(io::ErrorKind::InvalidData.into()))
}

/// Reads the ticks; the name in parentheses may hold anything.
fn ticks(text: &str) -> u64 {
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    // The first field after the name is the third of all; the two wanted are the 14th and the 15th.
    rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let text = "7 (a) b) 1 2) S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 1 0 5 1 1 1";
        assert_eq!(ticks(text), 281);
        assert_eq!(ticks(""), 0);
    }
}
