//! Plays every example of a scenario: what it expects holds, and it happens alike each time.

use std::fs;
use std::path::Path;

use sim::scenario::{Scenario, Summary, play};

/// How many seeds of each are played.
const SEEDS: u64 = 5;

#[test]
#[expect(clippy::disallowed_types, reason = "how fast the simulator is can only be told by a real clock")]
fn every_example_keeps_what_it_expects() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/sim");
    let files = fs::read_dir(folder).expect("the folder of examples is there");
    let mut played = 0;
    for file in files {
        let path = file.expect("the folder can be read").path();
        let text = fs::read_to_string(&path).expect("an example is text");
        let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let began = std::time::Instant::now();
        let outcomes: Vec<_> = (0..SEEDS).map(|seed| play(&scenario, seed, false)).collect();
        let real = began.elapsed();
        let summary = Summary::new(&scenario, &outcomes);
        eprintln!("{summary}{} x real time\n", summary.span.as_millis() / real.as_millis().max(1));
        assert!(summary.breaches.is_empty(), "{}", path.display());
        assert!(
            outcomes.iter().all(|outcome| outcome.recoveries.len() == scenario.faults.len()),
            "every fault is felt"
        );
        assert_eq!(play(&scenario, 0, true).hash, outcomes[0].hash, "telling it changes nothing");
        played += 1;
    }
    assert!(played > 0, "there are examples");
}
