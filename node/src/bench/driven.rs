//! What a side that is driven by a load comes to: how much, how fast, at what cost.

use std::time::Duration;

use super::report::{Role, Row};
use super::sample::Samples;

/// What one side of the load came to.
#[derive(Default)]
pub(super) struct Driven {
    rates: Samples,
    /// Processor time each, in microseconds: it says more than rates where others use the machine too.
    cpu: Samples,
    latencies: Samples,
}

impl Driven {
    /// Adds one turn: how many there were a second, the processor time of them all, and how long each took.
    pub(super) fn add(&mut self, per_second: f64, spent: Duration, latencies: Samples) {
        let count = u32::try_from(latencies.count()).unwrap_or(u32::MAX).max(1);
        self.rates.push(per_second);
        self.cpu.push(spent.as_secs_f64() * 1e6 / f64::from(count));
        self.latencies.extend(latencies);
    }

    /// Returns its row; `what` is what there are so many of a second.
    pub(super) fn row(&self, name: &str, role: Role, what: &str) -> Row {
        let mut row = Row::new(name, role, &self.rates);
        let parts = [
            (format!("cpu µs/{what}"), self.cpu.median()),
            ("latency p50 ms".to_owned(), self.latencies.median()),
            ("latency p99 ms".to_owned(), self.latencies.percentile(99)),
        ];
        row.parts = parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        row
    }
}
