//! What was measured, and what is said of it: the least, the median, the 99th percentile.

use std::time::Duration;

/// Measurements of one thing, in milliseconds or whatever else they count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in milliseconds.
    pub(super) fn time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1000.0);
    }

    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn min(&self) -> Option<f64> {
        self.0.iter().copied().min_by(f64::total_cmp)
    }

    pub(super) fn median(&self) -> Option<f64> {
        self.percentile(50)
    }

    /// Returns the least measurement that at least this many percent do not exceed: one that was really taken.
    pub(super) fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: impl IntoIterator<Item = u32>) -> Samples {
        Samples(values.into_iter().map(f64::from).collect())
    }

    #[test]
    fn percentiles_are_measurements_by_nearest_rank() {
        let hundred = samples((1..=100).rev());
        assert_eq!((hundred.min(), hundred.median(), hundred.percentile(99)), (Some(1.0), Some(50.0), Some(99.0)));
        let three = samples([3, 1, 2]);
        assert_eq!((three.median(), three.percentile(99)), (Some(2.0), Some(3.0)));
        assert_eq!(samples([7]).percentile(1), Some(7.0));
    }

    #[test]
    fn nothing_measured_says_nothing() {
        assert_eq!((Samples::default().min(), Samples::default().median()), (None, None));
    }
}
