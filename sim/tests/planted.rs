//! Is the simulator able to find what it looks for? Every planted fault must be found within some seeds.

use sim::Broken;
use sim::planted::{Fault, with};

/// Within how many seeds each fault must be found.
const SEEDS: u64 = 200;

/// Plays a seed and returns what is broken.
type Attempt = fn(u64) -> Option<Broken>;

/// The simulations, and the faults that each must find.
fn simulations() -> [(&'static [Fault], Attempt); 3] {
    [
        (&Fault::ALL, |seed| sim::attempt(seed).err()),
        (&Fault::RAFT, |seed| sim::raft::attempt(seed).err()),
        (&Fault::CLUSTER, |seed| sim::cluster::attempt(seed).err()),
    ]
}

#[test]
fn every_planted_fault_is_found() {
    // Many faults are found by an assertion; where it stands is no news here.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for (faults, attempt) in simulations() {
        for fault in faults.iter().copied() {
            match (0..SEEDS).find_map(|seed| with(fault, || attempt(seed))) {
                Some(broken) => {
                    let problem = broken.problems.first().map_or("", String::as_str);
                    eprintln!("{fault:?}: found at seed {}: {problem}", broken.seed);
                }
                None => missed.push(fault),
            }
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for (_, attempt) in simulations() {
        for seed in 0..SEEDS / 10 {
            // The other test keeps panics quiet, so this is printed before.
            let broken = attempt(seed);
            broken.iter().for_each(|broken| eprintln!("{broken}"));
            assert!(broken.is_none(), "seed {seed} is broken without any fault");
        }
    }
}
