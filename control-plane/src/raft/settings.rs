//! How openraft is set, in `node` and in the simulator alike.

use openraft::{Config, SnapshotPolicy};

use crate::planted::planted;

/// Milliseconds between heartbeats.
const HEARTBEAT_MS: u64 = 50;

/// Milliseconds without a leader after which a node stands for election, at least and at most.
const ELECTION_MS: [u64; 2] = [150, 300];

/// Entries after which the state is written as a snapshot and the log before it is purged.
const SNAPSHOT_ENTRIES: u64 = 5_000;

/// Entries that stay in the log behind a snapshot.
const KEPT_ENTRIES: u64 = 1_000;

/// Entries that one append takes at most.
const APPEND_ENTRIES_MAX: u64 = 4_096;

/// Milliseconds that a leader without a quorum goes on before it looks for one: no less than two elections.
const QUORUM_PROBE_MS: u64 = 1_000;

/// Returns the settings of a voter.
pub fn settings() -> Config {
    Config {
        cluster_name: "hearth".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS[0],
        election_timeout_max: ELECTION_MS[1],
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(QUORUM_PROBE_MS),
        // A leader that lost its unsynced tail would come back in the same term and give its log ids away twice.
        enable_leader_restore: Some(planted!(LeaderRestored)),
        ..Config::default()
    }
}
