//! Randomness out of one seed: one named stream per use, so that one more draw in one place changes nothing in another.

use control_plane::model::Timestamp;
use std::time::Duration;

/// One stream of random numbers: xoshiro256\*\*, seeded by splitmix64.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

/// A range of milliseconds from which waits are drawn, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shortest, in milliseconds.
    pub min_ms: u64,
    /// The longest, in milliseconds.
    pub max_ms: u64,
}

impl Span {
    /// Returns the range from `min_ms` to `max_ms`.
    pub const fn new(min_ms: u64, max_ms: u64) -> Self {
        Self { min_ms, max_ms }
    }

    /// Returns the range that holds one value.
    pub const fn exactly(ms: u64) -> Self {
        Self::new(ms, ms)
    }
}

impl Rng {
    /// Returns the stream called `name` of a seed.
    pub fn stream(seed: u64, name: &str) -> Self {
        // FNV-1a of the name keeps the streams apart; splitmix64 spreads what few bits they differ in.
        let mut mixed = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
            ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mixed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        Self([next(), next(), next(), next()])
    }

    /// Returns 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// Returns a number below `bound`; zero if the bound is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of a plain remainder is far below anything a simulation could notice.
        self.bits().checked_rem(bound).unwrap_or(0)
    }

    /// Returns a number between both ends, included.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.below(max.saturating_sub(min).saturating_add(1))
    }

    /// Returns true with this many chances in a thousand.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1000) < u64::from(permille)
    }

    /// Returns one of the choices.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let index = usize::try_from(self.below(choices.len() as u64)).expect("an index of a slice fits into usize");
        &choices[index]
    }

    /// Returns a wait out of a range.
    pub fn wait(&mut self, span: Span) -> Duration {
        Duration::from_millis(self.between(span.min_ms, span.max_ms))
    }

    /// Returns a time between two others.
    pub fn moment(&mut self, from: Timestamp, to: Timestamp) -> Timestamp {
        Timestamp::from_millis(self.between(from.as_millis(), to.as_millis()))
    }

    /// Returns an exponentially distributed wait with this mean: the gaps of Poisson arrivals.
    ///
    /// Von Neumann's method, which needs comparisons only: a logarithm may differ between machines in its last bit.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        let mut whole = 0_u64;
        loop {
            let first = self.bits() >> 32;
            let (mut last, mut length) = (first, 1);
            loop {
                let next = self.bits() >> 32;
                if next >= last {
                    break;
                }
                (last, length) = (next, length + 1);
            }
            if length % 2 == 1 {
                let mean_ms = u128::from(u64::try_from(mean.as_millis()).unwrap_or(u64::MAX));
                let scaled = (((u128::from(whole) << 32) + u128::from(first)) * mean_ms) >> 32;
                return Duration::from_millis(u64::try_from(scaled).unwrap_or(u64::MAX));
            }
            whole += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |seed, name| Rng::stream(seed, name).bits();
        assert_eq!(draw(1, "log"), draw(1, "log"));
        assert_ne!(draw(1, "log"), draw(1, "load"));
        assert_ne!(draw(1, "log"), draw(2, "log"));
    }

    #[test]
    fn exponential_waits_have_the_mean_that_was_asked_for() {
        let mut rng = Rng::stream(7, "mean");
        let sum: u128 = (0..20_000).map(|_| rng.exponential(Duration::from_millis(1000)).as_millis()).sum();
        let mean = sum / 20_000;
        assert!((970..=1030).contains(&mean), "the mean of 20,000 draws is {mean} ms");
    }
}
