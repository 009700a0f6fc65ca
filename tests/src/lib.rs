//! The harness of the end-to-end tests: real daemons as processes, a client, a steady load.

mod daemon;
mod disk;
mod load;
mod rack;
mod writers;

pub use daemon::{Daemon, Reply, binary, example, free_port, hearth, repository};
pub use disk::Disk;
pub use load::{Load, LoadReport};
pub use rack::Rack;
pub use writers::{Writers, WritersReport};

use std::time::{Duration, Instant};

/// The pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` yields something; panics with `what` once `limit` has passed.
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(LOOK_EVERY); // between two looks
    }
}

/// Returns whether this process may make containers.
pub fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').nth(1).map(str::to_owned))
        })
        .is_some_and(|effective| effective == "0")
}
