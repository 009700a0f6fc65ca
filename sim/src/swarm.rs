//! Which faults a seed has, and its tempo: every seed draws its own, so that no fault hides behind another one.

use std::time::Duration;

use crate::rng::{Rng, Span};

/// How a node's surroundings behave.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    /// How long a command takes through the log.
    pub(crate) log: Span,
    /// How often, in thousandths, a command takes as long as `log_slow` instead.
    pub(crate) log_slow_permille: u32,
    pub(crate) log_slow: Span,
    /// How long what one task tells another one takes.
    pub(crate) hand_over: Span,
    /// How often, in thousandths, a report to the leader is lost.
    pub(crate) report_lost_permille: u32,
    /// How often, in thousandths, the machine cannot make a sandbox.
    pub(crate) start_failed_permille: u32,
    /// How often, in thousandths, a start takes as long as `start_slow`.
    pub(crate) start_slow_permille: u32,
    pub(crate) start_slow: Span,
    /// How long an order takes to reach its sandbox, and what is left of one to be removed.
    pub(crate) order: Span,
    /// How often a caller tries again what failed or was refused.
    pub(crate) retries: u8,
    /// How long callers wait before they hang up, if they ever do.
    pub(crate) patience: Option<Span>,
    /// How long a call waits for an instance.
    pub(crate) queue_wait: Duration,
    /// How many calls of one revision may wait.
    pub(crate) queue_max: usize,
    /// After how many entries the log is cut off by a snapshot.
    pub(crate) snapshot_every: u64,
}

impl Swarm {
    /// Returns surroundings in which nothing goes wrong and nothing is left to chance.
    pub(crate) fn calm() -> Self {
        Self {
            log: Span::exactly(1),
            log_slow_permille: 0,
            log_slow: Span::exactly(0),
            hand_over: Span::exactly(0),
            report_lost_permille: 0,
            start_failed_permille: 0,
            start_slow_permille: 0,
            start_slow: Span::exactly(0),
            order: Span::exactly(1),
            retries: 0,
            patience: None,
            queue_wait: Duration::from_secs(60),
            queue_max: 1000,
            snapshot_every: 100,
        }
    }

    /// Draws the surroundings of one seed.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut swarm = Self {
            log: *rng.pick(&[Span::new(0, 3), Span::new(2, 20), Span::new(20, 100)]),
            hand_over: *rng.pick(&[Span::exactly(0), Span::new(0, 2), Span::new(0, 30)]),
            order: *rng.pick(&[Span::exactly(0), Span::new(0, 5), Span::new(0, 100)]),
            queue_max: *rng.pick(&[5, 50, 1000]),
            snapshot_every: *rng.pick(&[1, 7, 100, 10_000]),
            ..Self::calm()
        };
        if rng.chance(400) {
            (swarm.log_slow_permille, swarm.log_slow) = (*rng.pick(&[20, 200]), Span::new(100, 3000));
        }
        if rng.chance(300) {
            swarm.report_lost_permille = *rng.pick(&[100, 500]);
        }
        if rng.chance(400) {
            swarm.start_failed_permille = *rng.pick(&[30, 300]);
        }
        if rng.chance(400) {
            (swarm.start_slow_permille, swarm.start_slow) = (*rng.pick(&[100, 1000]), Span::new(500, 4000));
        }
        if rng.chance(300) {
            swarm.retries = *rng.pick(&[1, 4]);
        }
        if rng.chance(300) {
            swarm.patience = Some(*rng.pick(&[Span::new(1, 200), Span::new(1000, 20_000)]));
        }
        swarm
    }

    /// Returns how long a command takes through the log.
    pub(crate) fn log_wait(&self, rng: &mut Rng) -> Duration {
        if rng.chance(self.log_slow_permille) { rng.wait(self.log_slow) } else { rng.wait(self.log) }
    }
}
