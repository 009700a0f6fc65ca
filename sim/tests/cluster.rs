//! Plays many seeds of the whole stack: none may break an invariant, all together reach every rare path, and each happens alike
//! in any process.

mod twice;

use std::collections::BTreeMap;
use std::time::Duration;

use self::twice::{assert_alike, chosen, environment, tell_hashes};

/// How many seeds are played.
const SEEDS: u64 = 500;

/// Names what another process of this test is for: to print the hashes of these seeds, forwards or backwards.
const HASHES: &str = "HEARTH_CLUSTER_HASHES";

/// Returns how many seeds are played: as many as somebody asks for, who has more time than a test.
fn seeds() -> u64 {
    environment("HEARTH_SEEDS").and_then(|count| count.parse().ok()).unwrap_or(SEEDS)
}

#[test]
#[expect(clippy::disallowed_types, reason = "how fast the simulator is can only be told by a real clock")]
fn no_seed_breaks_an_invariant_and_every_rare_path_is_reached() {
    if environment(HASHES).is_some() || chosen().is_some() {
        return;
    }
    let began = std::time::Instant::now();
    let mut span = Duration::ZERO;
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    for seed in 0..seeds() {
        match sim::cluster::attempt(seed) {
            Ok(report) => {
                span += report.span;
                for (what, count) in report.counts {
                    *sums.entry(what).or_default() += count;
                }
            }
            Err(seed) => broken.push(seed),
        }
    }
    let real = began.elapsed();
    eprintln!(
        "{} seeds, {} virtual seconds in {:.1} s: {} virtual seconds per second",
        seeds(),
        span.as_secs(),
        real.as_secs_f64(),
        span.as_millis() / real.as_millis().max(1)
    );
    eprintln!("{sums:?}");
    assert!(
        broken.is_empty(),
        "{} of {} seeds broke an invariant\n{}",
        broken.len(),
        seeds(),
        broken.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    let missed: Vec<&str> = sim::cluster::RARE.into_iter().filter(|what| !sums.contains_key(what)).collect();
    assert!(missed.is_empty(), "no seed reached {missed:?}: the sweep does not test what leads there");
}

/// Tells the seed that `HEARTH_SEED` names, line by line.
#[test]
fn the_chosen_seed_holds() {
    let Some(seed) = chosen() else { return };
    let report = sim::cluster::play(seed, true);
    report.lines.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("{:?}", report.counts);
    assert!(report.violations.is_empty(), "seed {seed} breaks an invariant\n{}", report.violations.join("\n"));
}

/// The child of the test below.
#[test]
fn hashes_for_another_process() {
    tell_hashes(HASHES, |seed| sim::cluster::play(seed, false).hash);
}

#[test]
fn a_seed_happens_alike_in_any_process() {
    if environment(HASHES).is_none() && chosen().is_none() {
        assert_alike(HASHES);
    }
}
