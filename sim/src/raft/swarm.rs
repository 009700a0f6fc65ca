//! Which faults a cluster has, and its tempo: every seed draws its own, so that no fault hides behind another one.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::nemesis::Fault;
use crate::rng::Rng;

/// A range of microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Micros(pub(crate) u64, pub(crate) u64);

impl Micros {
    pub(crate) fn draw(self, rng: &mut Rng) -> Duration {
        Duration::from_micros(rng.between(self.0, self.1))
    }
}

/// How a cluster and its surroundings behave.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    /// How many nodes there are at first; in a simulation of Raft alone all of them vote.
    pub(crate) voters: u64,
    /// How many of them found the cluster; the others are taken in.
    pub(crate) founders: u64,
    pub(crate) clients: u64,
    pub(crate) keys: u64,
    /// How long a client rests between two operations.
    pub(crate) pace: Micros,
    /// How often, in thousandths, a client reads.
    pub(crate) reads_permille: u32,
    pub(crate) delay: Micros,
    /// How often, in thousandths, a message takes as long as `delay_long`.
    pub(crate) delay_long_permille: u32,
    pub(crate) delay_long: Micros,
    /// What arrives within so many microseconds arrives at once, as from a network card that waits before it interrupts.
    /// Invariant: at least one.
    pub(crate) coalesced: u64,
    pub(crate) lost_permille: u32,
    pub(crate) twice_permille: u32,
    /// How often, in thousandths, something on a stream breaks it.
    pub(crate) broken_permille: u32,
    pub(crate) sync: Micros,
    /// How often, in thousandths, a sync takes as long as `sync_long`.
    pub(crate) sync_long_permille: u32,
    pub(crate) sync_long: Micros,
    /// Entries between snapshots, and how many stay in the log behind one; as in production unless drawn.
    pub(crate) snapshot: Option<(u64, u64)>,
    /// How long a node stays down.
    pub(crate) down: Micros,
    /// How long a network stays broken.
    pub(crate) broken: Micros,
    pub(crate) faults: Vec<Fault>,
    /// How long it takes from one fault to the next.
    pub(crate) fault_pace: Micros,
}

impl Swarm {
    /// Returns surroundings in which nothing goes wrong.
    pub(crate) fn calm(voters: u64) -> Self {
        Self {
            voters,
            founders: voters,
            clients: 3,
            keys: 2,
            pace: Micros(1_000, 20_000),
            reads_permille: 400,
            delay: Micros(100, 500),
            delay_long_permille: 0,
            delay_long: Micros(1_000, 20_000),
            coalesced: 1,
            lost_permille: 0,
            twice_permille: 0,
            broken_permille: 0,
            sync: Micros(80, 200),
            sync_long_permille: 0,
            sync_long: Micros(5_000, 400_000),
            snapshot: None,
            down: Micros(5_000, 2_500_000),
            broken: Micros(50_000, 3_000_000),
            faults: Vec::new(),
            fault_pace: Micros(100_000, 1_500_000),
        }
    }

    /// Draws the surroundings of one seed.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
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
    pub(crate) fn settings(&self) -> Config {
        let mut settings = control_plane::raft::settings(control_plane::raft::Timing::default());
        if let Some((every, kept)) = self.snapshot {
            settings.snapshot_policy = SnapshotPolicy::LogsSinceLast(every);
            settings.max_in_snapshot_log_to_keep = kept;
        }
        settings
    }
}
