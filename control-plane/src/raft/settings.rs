//! How openraft is set, in `node` and in the simulator alike.

use openraft::{Config, SnapshotPolicy};

use crate::planted::planted;

/// Entries after which the state is written as a snapshot and the log before it is purged.
const SNAPSHOT_ENTRIES: u64 = 5_000;

/// Entries that stay in the log behind a snapshot.
const KEPT_ENTRIES: u64 = 1_000;

/// Entries that one append takes at most.
const APPEND_ENTRIES_MAX: u64 = 4_096;

/// Milliseconds that a leader without a quorum goes on before it looks for one, at least: never less than two elections.
const QUORUM_PROBE_MS: u64 = 1_000;

/// How soon voters take a silent leader for gone. All voters of a cluster must agree about it.
///
/// A follower waits `election_max_ms` until the leader's lease is over, and then between `election_min_ms` and `election_max_ms`
/// more. An answer must come within three quarters of `heartbeat_ms`, so that a heartbeat must be two round trips or more, and an
/// election ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds after a leader's lease until a node stands for election, at least.
    pub election_min_ms: u64,
    /// The same, at most; and how long a lease is.
    pub election_max_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat_ms: 50, election_min_ms: 90, election_max_ms: 180 }
    }
}

/// Returns the settings of a voter.
pub fn settings(timing: Timing) -> Config {
    Config {
        cluster_name: "hearth".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(QUORUM_PROBE_MS.max(timing.election_max_ms.saturating_mul(2))),
        // A leader that lost its unsynced tail would come back in the same term and give its log ids away twice.
        enable_leader_restore: Some(planted!(LeaderRestored)),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timing_makes_settings_that_openraft_takes() {
        let slow = Timing { heartbeat_ms: 500, election_min_ms: 2_000, election_max_ms: 4_000 };
        for timing in [Timing::default(), slow] {
            settings(timing).validate().expect("the settings agree with each other");
        }
    }
}
