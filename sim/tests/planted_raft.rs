//! Is the simulator able to find what it looks for in the replicated log? Every planted fault must be found within some seeds.

use sim::planted::{Fault, with};

/// Within how many seeds each fault must be found.
const SEEDS: u64 = 200;

#[test]
fn every_planted_fault_of_the_log_is_found() {
    // Many faults are found by an assertion; where it stands is no news here.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for fault in Fault::RAFT {
        match (0..SEEDS).find_map(|seed| with(fault, || sim::raft::attempt(seed)).err()) {
            Some(broken) => {
                let problem = broken.problems.first().map_or("", String::as_str);
                eprintln!("{fault:?}: found at seed {}: {problem}", broken.seed);
            }
            None => missed.push(fault),
        }
    }
    drop(std::panic::take_hook());
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 0..SEEDS / 10 {
        // The other test keeps panics quiet, so this is printed before.
        let broken = sim::raft::attempt(seed).err();
        broken.iter().for_each(|broken| eprintln!("{broken}"));
        assert!(broken.is_none(), "seed {seed} is broken without any fault");
    }
}
