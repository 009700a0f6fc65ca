//! How fast is the simulator? Prints how many virtual seconds of a whole cluster one second of one core is worth:
//! `cargo run --package sim --example speed`

use sim::scenario::{Scenario, Summary, play};

/// Five voters and fifty more nodes under two hundred calls a second.
const SCENARIO: &str = r#"
name = "speed"
topology.zones = { a = 20, b = 20, c = 15 }

[[function]]
name = "quick"
rate = 150
concurrency = 4
min = 20

[[function]]
name = "slow"
rate = 50
call = "50ms..300ms"
min = 30

[load]
for = "60s"
change-every = "1s"

[[fault]]
at = "20s"
for = "5s"
kind = "power-loss"
target = "leader"

[[fault]]
at = "40s"
for = "5s"
kind = "kill"
target = "any:3"
"#;

/// How many seeds are played.
const SEEDS: u64 = 3;

#[expect(clippy::disallowed_types, reason = "how fast the simulator is can only be told by a real clock")]
fn main() {
    let scenario = Scenario::parse(SCENARIO).expect("the scenario is one");
    let began = std::time::Instant::now();
    let outcomes: Vec<_> = (0..SEEDS).map(|seed| play(&scenario, seed, false)).collect();
    let real = began.elapsed();
    let summary = Summary::new(&scenario, &outcomes);
    eprintln!("{summary}");
    let factor = summary.span.as_millis() / real.as_millis().max(1);
    eprintln!("{factor} x real time: {:.1} s for {} virtual seconds", real.as_secs_f64(), summary.span.as_secs());
}
