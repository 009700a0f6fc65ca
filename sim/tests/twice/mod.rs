//! Whether a seed happens alike in two processes: what the tests of both simulations share.

use std::collections::BTreeSet;
use std::process::Command;

/// How many seeds are played in two processes more.
const TWICE: u64 = 100;

#[expect(clippy::disallowed_methods, reason = "a person who replays a seed names it in the environment")]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the one seed that `HEARTH_SEED` names.
pub(crate) fn chosen() -> Option<u64> {
    environment("HEARTH_SEED").and_then(|seed| seed.parse().ok())
}

/// What the process that [`assert_alike`] starts does: prints one hash per seed and nothing else of note.
pub(crate) fn tell_hashes(variable: &str, hash: impl Fn(u64) -> u64) {
    let Some(order) = environment(variable) else { return };
    let mut seeds: Vec<u64> = (0..TWICE).collect();
    // What leaks from one seed to the next shows when the order is another one.
    if order == "backwards" {
        seeds.reverse();
    }
    for seed in seeds {
        eprintln!("seed {seed} {:016x}", hash(seed));
    }
}

/// Runs this test program twice more with `variable` set, where its test `hashes_for_another_process` tells hashes.
pub(crate) fn assert_alike(variable: &str) {
    let hashes = |order: &str| -> BTreeSet<String> {
        let output = Command::new(std::env::current_exe().expect("this test is a file"))
            .args(["--exact", "hashes_for_another_process", "--nocapture"])
            .env(variable, order)
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
