//! Plays many seeds: none may break an invariant, all together reach every rare path, and each happens alike in any process.

mod twice;

use std::collections::BTreeMap;

use sim::Mark;

use self::twice::{assert_alike, chosen, environment, tell_hashes};

/// How many seeds are played.
const SEEDS: u64 = 1_000;

/// Names what another process of this test is for: to print the hashes of these seeds, forwards or backwards.
const HASHES: &str = "HEARTH_HASHES";

/// Returns the seeds to play: the chosen one, or all.
fn seeds() -> Vec<u64> {
    match chosen() {
        Some(seed) => vec![seed],
        None => (0..SEEDS).collect(),
    }
}

#[test]
#[expect(clippy::disallowed_types, reason = "how fast the simulator is can only be told by a real clock")]
fn no_seed_breaks_an_invariant_and_every_mark_is_reached() {
    if environment(HASHES).is_some() {
        return;
    }
    let began = std::time::Instant::now();
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let mut marks: BTreeMap<Mark, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    let seeds = seeds();
    for seed in &seeds {
        match sim::attempt(*seed) {
            Ok(report) => {
                for (what, count) in report.counts {
                    *sums.entry(what).or_default() += count;
                }
                for mark in report.marks {
                    *marks.entry(mark).or_default() += 1;
                }
            }
            Err(seed) => broken.push(seed),
        }
    }
    let (real, virtually) = (began.elapsed(), sim::SPAN.as_secs() * seeds.len() as u64);
    eprintln!(
        "{} seeds, {} virtual hours in {:.1} s: {} x real time",
        seeds.len(),
        virtually / 3600,
        real.as_secs_f64(),
        u128::from(virtually) * 1000 / real.as_millis().max(1)
    );
    eprintln!("{sums:?}");
    eprintln!("seeds that reached each mark: {marks:?}");
    assert!(
        broken.is_empty(),
        "{} of {} seeds broke an invariant\n{}",
        broken.len(),
        seeds.len(),
        broken.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    if chosen().is_none() {
        let missed: Vec<Mark> = Mark::ALL.into_iter().filter(|mark| !marks.contains_key(mark)).collect();
        assert!(missed.is_empty(), "no seed reached {missed:?}: the sweep does not test what leads there");
    }
}

/// The child of the test below.
#[test]
fn hashes_for_another_process() {
    tell_hashes(HASHES, |seed| sim::play(seed).hash);
}

#[test]
fn a_seed_happens_alike_in_any_process() {
    if environment(HASHES).is_none() && chosen().is_none() {
        assert_alike(HASHES);
    }
}
