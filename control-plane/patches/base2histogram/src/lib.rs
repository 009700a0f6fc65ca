//! Stands in for the crate `base2histogram` under openraft: the same counts without the tables.
//!
//! openraft counts the sizes of its batches with that crate, which fills tables for sixteen resolutions when the first
//! histogram is made: 26 MB of every process, of which one resolution's 2 KB are ever read. This one computes bucket borders
//! instead. It has what openraft calls, under the names it calls it by, and goes away once the tables are made on demand.
//!
//! Buckets: values below 4 have one each; above, each power of two is cut into four. A percentile is the lower border of the
//! bucket it falls into: at most a fifth below the value.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value that are kept: the leading one and two more.
const WIDTH: u32 = 3;

/// Buckets that a power of two is cut into.
const GROUP: usize = 1 << (WIDTH - 1);

/// Counts of values by their magnitude.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Grows with the largest value.
    counts: Vec<u64>,
    total: u64,
    kind: PhantomData<T>,
}

/// What share of values lies below which value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were recorded.
    pub samples: u64,
    /// The 0.1th percentile.
    pub p0_1: u64,
    /// The 1st percentile.
    pub p1: u64,
    /// The 5th percentile.
    pub p5: u64,
    /// The 10th percentile.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p99_9: u64,
}

/// Several histograms under their names, a line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Returns a histogram of nothing.
    pub const fn new() -> Self {
        Self { counts: Vec::new(), total: 0, kind: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value as often as `count` says.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = bucket_of(value);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += count;
        self.total += count;
    }

    /// Returns how many values were recorded.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Returns the usual percentiles; all 0 while nothing was recorded.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }

    /// Returns the border below which that many of a thousand values lie.
    fn per_mille(&self, share: u64) -> u64 {
        let rank = self.total.saturating_mul(share).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return border_of(bucket);
            }
        }
        0
    }
}

impl AsciiChart {
    /// Returns a chart of nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a histogram.
    #[must_use]
    pub fn add<T>(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.0.push((name.to_owned(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p10, p50, p90, p99, p99_9, .. } = self;
        write!(f, "samples: {samples}, P10: {p10}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}")
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

/// Returns the bucket of a value.
fn bucket_of(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let dropped = bits.saturating_sub(WIDTH);
    // What is left is below 8, and there are at most 61 groups.
    let kept = usize::try_from(value >> dropped).expect("three bits fit");
    kept + usize::try_from(dropped).expect("61 fits") * GROUP
}

/// Returns the least value of a bucket.
fn border_of(bucket: usize) -> u64 {
    if bucket < 2 * GROUP {
        return u64::try_from(bucket).expect("a small number fits");
    }
    let dropped = bucket / GROUP - 1;
    let kept = u64::try_from(bucket - dropped * GROUP).expect("a small number fits");
    kept << dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_the_bucket_between_two_borders() {
        let around = (0..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + power / 4, power + power / 3, power | (power - 1)]
        });
        for value in around.chain(0..4096).chain([u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(border_of(bucket) <= value, "{value}");
            assert!(bucket == bucket_of(u64::MAX) || value < border_of(bucket + 1), "{value}");
            assert!(value - border_of(bucket) <= value / 4, "{value}");
        }
    }

    #[test]
    fn percentiles_of_a_thousand_values_are_a_fifth_below_at_most() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((histogram.total(), stats.samples), (1000, 1000));
        assert!((400..=500).contains(&stats.p50) && (720..=900).contains(&stats.p90), "{stats}");
        assert_eq!((stats.p0_1, stats.p1), (1, 10));
    }
}
