//! What the commands about simulated clusters take.

use std::ops::Range;
use std::path::PathBuf;

use clap::Subcommand;

use super::args::Format;

/// The most seeds of one run.
const SEEDS_MAX: u64 = 1_000_000;

#[derive(Debug, Subcommand)]
pub(super) enum Sim {
    /// Play a scenario with many seeds, and exit with 1 when something that it expects does not hold.
    #[command(
        before_help = "Examples:\n  hearth sim run examples/sim/leader-lost.toml\n  hearth sim run outage.toml --seeds 0..200     a wider look\n  hearth sim run outage.toml -o json            for a program to read",
        after_help = "A scenario:\n  [topology]\n  zones = { a = 3, b = 2 }\n  [[function]]\n  name = \"checkout\"\n  rate = 50\n  min = 2\n  [load]\n  for = \"60s\"\n  [[fault]]\n  at = \"10s\"\n  for = \"15s\"\n  kind = \"power-loss\"\n  target = \"zone:b\"\n  [expect]\n  lost-acked = 0\n  recovery = \"<10s\""
    )]
    Run {
        /// The scenario; docs/guide/simulator.md lists what it can say.
        file: PathBuf,
        /// Which seeds, from A up to but not including B.
        #[arg(long, value_name = "A..B", default_value = "0..20", value_parser = seeds)]
        seeds: Range<u64>,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Play one seed of a scenario again, and tell what happens line by line.
    #[command(
        before_help = "Examples:\n  hearth sim replay examples/sim/leader-lost.toml 7\n  hearth sim replay outage.toml 7 | grep node-3\n  hearth sim replay outage.toml 7 -o json"
    )]
    Replay {
        /// The scenario.
        file: PathBuf,
        /// The seed.
        seed: u64,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let read = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    let seeds: Range<u64> = read.ok_or_else(|| format!("{text:?} is no range like 0..20"))?;
    match seeds.end.checked_sub(seeds.start) {
        Some(1..=SEEDS_MAX) => Ok(seeds),
        Some(0) | None => Err(format!("there is no seed in {text}")),
        Some(_) => Err(format!("the most is {SEEDS_MAX} seeds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_that_holds_some() {
        assert_eq!(seeds("0..20"), Ok(0..20));
        for bad in ["", "7", "5..5", "9..3", "a..b", "0..1000001", "-1..3"] {
            assert!(seeds(bad).is_err(), "{bad:?} was taken");
        }
    }
}
