//! Plays many seeds of the replicated log: none may break an invariant, all together reach every rare path, and each happens
//! alike in any process.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use sim::raft::Mark;

/// How many seeds are played.
const SEEDS: u64 = 300;

/// How many seeds are played in two processes more.
const TWICE: u64 = 100;

/// Names what another process of this test is for: to print the hashes of these seeds, forwards or backwards.
const HASHES: &str = "HEARTH_RAFT_HASHES";

#[expect(clippy::disallowed_methods, reason = "a person who replays a seed names it in the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the one seed that `HEARTH_SEED` names.
fn chosen() -> Option<u64> {
    environment("HEARTH_SEED").and_then(|seed| seed.parse().ok())
}

#[test]
#[expect(clippy::disallowed_types, reason = "how fast the simulator is can only be told by a real clock")]
fn no_seed_breaks_an_invariant_and_every_mark_is_reached() {
    if environment(HASHES).is_some() || chosen().is_some() {
        return;
    }
    let began = std::time::Instant::now();
    let mut span = Duration::ZERO;
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let mut marks: BTreeMap<Mark, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    for seed in 0..SEEDS {
        match sim::raft::attempt(seed) {
            Ok(report) => {
                span += report.span;
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
    let real = began.elapsed();
    eprintln!(
        "{SEEDS} seeds, {} virtual seconds in {:.1} s: {} virtual seconds per second",
        span.as_secs(),
        real.as_secs_f64(),
        span.as_millis() / real.as_millis().max(1)
    );
    eprintln!("{sums:?}");
    eprintln!("seeds that reached each mark: {marks:?}");
    assert!(
        broken.is_empty(),
        "{} of {SEEDS} seeds broke an invariant\n{}",
        broken.len(),
        broken.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    let missed: Vec<Mark> = Mark::ALL.into_iter().filter(|mark| !marks.contains_key(mark)).collect();
    assert!(missed.is_empty(), "no seed reached {missed:?}: the sweep does not test what leads there");
}

/// Tells the seed that `HEARTH_SEED` names, line by line.
#[test]
fn the_chosen_seed_holds() {
    let Some(seed) = chosen() else { return };
    let report = sim::raft::play(seed, true);
    report.lines.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("{:?}\n{:?}", report.counts, report.marks);
    assert!(report.violations.is_empty(), "seed {seed} breaks an invariant\n{}", report.violations.join("\n"));
}

/// The child of the test below: prints one hash per seed and nothing else of note.
#[test]
fn hashes_for_another_process() {
    let Some(order) = environment(HASHES) else { return };
    let mut seeds: Vec<u64> = (0..TWICE).collect();
    // What leaks from one seed to the next shows when the order is another one.
    if order == "backwards" {
        seeds.reverse();
    }
    for seed in seeds {
        eprintln!("seed {seed} {:016x}", sim::raft::play(seed, false).hash);
    }
}

#[test]
fn a_seed_happens_alike_in_any_process() {
    if environment(HASHES).is_some() || chosen().is_some() {
        return;
    }
    let hashes = |order: &str| -> BTreeSet<String> {
        let output = Command::new(std::env::current_exe().expect("this test is a file"))
            .args(["--exact", "hashes_for_another_process", "--nocapture"])
            .env(HASHES, order)
            .output()
            .expect("this test runs once more");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        told.lines().filter(|line| line.starts_with("seed ")).map(ToOwned::to_owned).collect()
    };
    let (forwards, backwards) = (hashes("forwards"), hashes("backwards"));
    let equal = forwards.intersection(&backwards).count();
    eprintln!("{equal} of {TWICE} seeds have equal hashes in separate processes");
    assert_eq!((forwards.len(), forwards), (usize::try_from(TWICE).unwrap_or(0), backwards));
}
