//! Which faults a cluster has, and its tempo: every seed draws its own, so that no fault hides behind another one.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::nemesis::Fault;
use crate::rng::Rng;

/// A range of microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Micros(pub(super) u64, pub(super) u64);

impl Micros {
    pub(super) fn draw(self, rng: &mut Rng) -> Duration {
        Duration::from_micros(rng.between(self.0, self.1))
    }
}

/// How a cluster and its surroundings behave.
#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) voters: u64,
    pub(super) clients: u64,
    pub(super) keys: u64,
    /// How long a client rests between two operations.
    pub(super) pace: Micros,
    /// How often, in thousandths, a client reads.
    pub(super) reads_permille: u32,
    pub(super) delay: Micros,
    /// How often, in thousandths, a message takes as long as `delay_long`.
    pub(super) delay_long_permille: u32,
    pub(super) delay_long: Micros,
    pub(super) lost_permille: u32,
    pub(super) twice_permille: u32,
    /// How often, in thousandths, something on a stream breaks it.
    pub(super) broken_permille: u32,
    pub(super) sync: Micros,
    /// How often, in thousandths, a sync takes as long as `sync_long`.
    pub(super) sync_long_permille: u32,
    pub(super) sync_long: Micros,
    /// Entries between snapshots, and how many stay in the log behind one; as in production unless drawn.
    pub(super) snapshot: Option<(u64, u64)>,
    pub(super) faults: Vec<Fault>,
    /// How long it takes from one fault to the next.
    pub(super) fault_pace: Micros,
}

impl Swarm {
    /// Returns surroundings in which nothing goes wrong.
    pub(super) fn calm(voters: u64) -> Self {
        Self {
            voters,
            clients: 3,
            keys: 2,
            pace: Micros(1_000, 20_000),
            reads_permille: 400,
            delay: Micros(100, 500),
            delay_long_permille: 0,
            delay_long: Micros(1_000, 20_000),
            lost_permille: 0,
            twice_permille: 0,
            broken_permille: 0,
            sync: Micros(80, 200),
            sync_long_permille: 0,
            sync_long: Micros(5_000, 400_000),
            snapshot: None,
            faults: Vec::new(),
            fault_pace: Micros(100_000, 1_500_000),
        }
    }

    /// Draws the surroundings of one seed.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut swarm = Self {
            clients: rng.between(2, 4),
            keys: rng.between(1, 3),
            pace: *rng.pick(&[Micros(1_000, 20_000), Micros(5_000, 100_000), Micros(10_000, 400_000)]),
            reads_permille: *rng.pick(&[100, 400, 700]),
            delay: *rng.pick(&[Micros(50, 150), Micros(100, 500), Micros(200, 5_000)]),
            fault_pace: *rng.pick(&[Micros(20_000, 400_000), Micros(100_000, 1_500_000)]),
            ..Self::calm(*rng.pick(&[3, 5, 5, 5]))
        };
        if rng.chance(400) {
            swarm.delay_long_permille = *rng.pick(&[10, 100]);
        }
        if rng.chance(300) {
            swarm.lost_permille = *rng.pick(&[5, 30, 100]);
        }
        if rng.chance(300) {
            swarm.twice_permille = *rng.pick(&[10, 200]);
        }
        if rng.chance(300) {
            swarm.broken_permille = *rng.pick(&[1, 10]);
        }
        if rng.chance(500) {
            swarm.sync = *rng.pick(&[Micros(1_000, 3_000), Micros(5_000, 30_000)]);
        }
        if rng.chance(300) {
            swarm.sync_long_permille = *rng.pick(&[2, 20]);
        }
        if rng.chance(600) {
            swarm.snapshot = Some(*rng.pick(&[(3, 0), (10, 2), (50, 20)]));
        }
        let permille = *rng.pick(&[200, 400, 700]);
        swarm.faults = Fault::ALL.into_iter().filter(|_| rng.chance(permille)).collect();
        if swarm.faults.is_empty() {
            swarm.faults.push(*rng.pick(&Fault::ALL));
        }
        swarm
    }

    /// Returns openraft's settings: those of production but for the snapshots.
    pub(super) fn settings(&self) -> Config {
        let mut settings = control_plane::raft::settings(control_plane::raft::Timing::default());
        if let Some((every, kept)) = self.snapshot {
            settings.snapshot_policy = SnapshotPolicy::LogsSinceLast(every);
            settings.max_in_snapshot_log_to_keep = kept;
        }
        settings
    }
}
