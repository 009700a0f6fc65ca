//! `hearth sim`: what would this cluster survive? Reads the scenario; everything else is the simulator's.

use std::collections::BTreeMap;
use std::io::Read;
use std::num::NonZero;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sim::scenario::{Outcome, Scenario, Summary, play};

use super::args::Format;
use super::args_sim::Sim;
use super::failure::Failure;
use super::output;

/// How much of a file is read: more is no scenario.
const FILE_MAX_BYTES: u64 = 2 << 20;

/// The exit code of a command that was given something it cannot use.
const USAGE: u8 = 2;

pub(super) fn sim(command: Sim) -> Result<(), Failure> {
    match command {
        Sim::Run { file, seeds, output } => run(&file, seeds, output),
        Sim::Replay { file, seed, output } => replay(&file, seed, output),
    }
}

fn run(file: &Path, seeds: Range<u64>, format: Format) -> Result<(), Failure> {
    let scenario = read(file)?;
    let summary = Summary::new(&scenario, &play_all(&scenario, seeds));
    match format {
        Format::Table => output::bytes(summary.to_string().as_bytes())?,
        Format::Name => output::line(&summary.scenario)?,
        Format::Json | Format::Jsonl | Format::Yaml => output::document(format, &document(&summary)?)?,
    }
    let Some(first) = summary.breaches.first() else { return Ok(()) };
    let broken = summary.breaches.iter().map(|breach| breach.seed).collect::<std::collections::BTreeSet<_>>().len();
    let message = format!("{broken} of {} seeds did not keep what is expected", summary.seeds);
    Err(Failure::new(message).hint(format!(
        "`hearth sim replay {} {}` tells what happened",
        file.display(),
        first.seed
    )))
}

fn replay(file: &Path, seed: u64, format: Format) -> Result<(), Failure> {
    let scenario = read(file)?;
    let outcome = play(&scenario, seed, true);
    let summary = Summary::new(&scenario, std::slice::from_ref(&outcome));
    match format {
        Format::Table => {
            outcome.lines.iter().try_for_each(|line| output::line(line))?;
            output::say(&format!("\n{summary}"));
        }
        Format::Name => output::line(&summary.scenario)?,
        Format::Json | Format::Jsonl | Format::Yaml => output::document(format, &document(&outcome)?)?,
    }
    if summary.breaches.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("seed {seed} did not keep what is expected")))
}

fn document(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::of(&error))
}

fn read(file: &Path) -> Result<Scenario, Failure> {
    let unusable = |error: std::io::Error| {
        Failure::exit(USAGE, format!("{}: {error}", file.display()))
            .hint("name a scenario; examples/sim/ in the sources has some")
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unusable)?;
    opened.take(FILE_MAX_BYTES).read_to_string(&mut text).map_err(unusable)?;
    Scenario::parse(&text)
        .map_err(|error| Failure::exit(USAGE, format!("{}: {error}", file.display())).hint(error.hint))
}

/// Plays every seed, on as many threads as there are cores: a seed lives in one thread and knows of no other.
fn play_all(scenario: &Scenario, seeds: Range<u64>) -> Vec<Outcome> {
    let bar = indicatif::ProgressBar::new(seeds.end - seeds.start)
        .with_style(
            indicatif::ProgressStyle::with_template("{bar:30} {pos} of {len} seeds, {eta} left")
                .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
        )
        .with_finish(indicatif::ProgressFinish::AndClear);
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(BTreeMap::new());
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = play(scenario, seed, false);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, outcome);
                    bar.inc(1);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCENARIO: &str =
        "name = \"small\"\ntopology.zones = { a = 1 }\nload.for = \"2s\"\n[[function]]\nname = \"f\"\nrate = 5\n";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn seeds_come_back_in_order_whoever_played_them() {
        let scenario = Scenario::parse(SCENARIO).unwrap();
        let seeds: Vec<u64> = play_all(&scenario, 3..9).iter().map(|outcome| outcome.seed).collect();
        assert_eq!(seeds, (3..9).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_not_kept_is_a_failure_that_says_how_to_see_it_again() {
        let kept = file(&format!("{SCENARIO}[expect]\nlost-acked = 0\n"));
        assert!(run(kept.path(), 0..1, Format::Name).is_ok());
        let broken = file(&format!("{SCENARIO}[expect]\np99 = \"<1ms\"\n"));
        let failure = run(broken.path(), 4..5, Format::Name).unwrap_err();
        assert_eq!(failure.exit_code(), 1);
        assert!(failure.to_string().contains(&format!("hearth sim replay {} 4", broken.path().display())), "{failure}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_with_a_hint() {
        for text in ["", "name = 7", "\u{0}"] {
            let failure = read(file(text).path()).unwrap_err();
            assert_eq!(failure.exit_code(), USAGE);
            assert!(failure.to_string().contains("hint: "), "{failure}");
        }
        assert!(read(Path::new("/nowhere/at/all")).unwrap_err().to_string().contains("hint: "));
    }
}
