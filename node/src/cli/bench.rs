//! `hearth bench`: runs a benchmark and prints what it found.

use control_plane::model::NodeId;
use tokio_util::sync::CancellationToken;

use super::args::Format;
use super::args_bench::{Bench as Arguments, BenchKind, BenchVoter};
use super::failure::Failure;
use super::output;
use super::run::Signals;
use crate::bench::{Bench, BenchError, Failover, Kind, Report, Row, Section, Side, Voter};
use crate::{sandbox, telemetry};

/// The exit code of a command that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

pub(super) async fn bench(arguments: Arguments) -> Result<(), Failure> {
    let (kind, options) = match arguments.kind {
        BenchKind::Cold(options) => (Kind::Cold, options),
        BenchKind::Burst(options) => (Kind::Burst, options),
        BenchKind::Warm(options) => (Kind::Warm, options),
        BenchKind::Hop(options) => (Kind::Hop, options),
        BenchKind::Commits(options) => (Kind::Commits, options),
        BenchKind::Reads(options) => (Kind::Reads, options),
        BenchKind::Plan(options) => (Kind::Plan, options),
        BenchKind::Place(options) => (Kind::Place, options),
        BenchKind::Failover(arguments) => {
            let timing = arguments.timing.timing();
            (Kind::Failover(Failover { timing, soak: arguments.soak }), arguments.options)
        }
        BenchKind::Death(options) => (Kind::Death, options),
        BenchKind::Memory(options) => (Kind::Memory, options),
    };
    let filter = std::env::var("HEARTH_LOG").unwrap_or_else(|_| "warn,openraft=error".to_owned());
    telemetry::start_tracing(&filter, telemetry::Format::default())
        .map_err(|error| Failure::exit(2, crate::error_chain::text(&error)))?;
    let mut signals = Signals::new()?;
    if cfg!(debug_assertions) {
        output::say("this program was compiled without optimization: its figures say little");
    }
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let stop = stop.clone();
        async move {
            signals.asked().await;
            output::say("stopping after the measurement under way");
            stop.cancel();
        }
    });
    let bench = Bench {
        rounds: options.rounds.map(|rounds| usize::try_from(rounds).unwrap_or(usize::MAX)),
        executable: std::env::current_exe().map_err(|error| Failure::of(&error))?,
        progress: &output::say,
        stop,
    };
    let outcome = bench.run(kind).await;
    watch.abort();
    let report = outcome.map_err(|error| told(&error))?;
    match options.output {
        Format::Table => table(&report),
        Format::Json => output::json(&report),
        Format::Jsonl | Format::Yaml => output::list(options.output, &report.sections, &["title"]),
        Format::Name => report.sections.iter().try_for_each(|section| output::line(&section.title)),
    }
}

/// Runs one of the voters that benchmarks of the log measure.
pub(super) async fn voter(arguments: BenchVoter) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    let watch = tokio::spawn({
        let stop = stop.clone();
        async move {
            signals.asked().await;
            stop.cancel();
        }
    });
    let BenchVoter { node, dir, address, front, admit, timing } = arguments;
    let timing = timing.timing();
    let others = admit.into_iter().map(|(node, address)| (NodeId(node), address)).collect();
    let ended = Voter { node: NodeId(node), dir, address, front, others, timing }.run(stop).await;
    watch.abort();
    ended.map_err(|error| Failure::new(format!("{error:#}")))
}

fn told(error: &BenchError) -> Failure {
    match error {
        BenchError::NotRoot => Failure::exit(5, error.to_string()).hint("run it with sudo"),
        BenchError::Stopped => Failure::exit(INTERRUPTED, error.to_string()),
        BenchError::Sandboxes(sandbox::StartError::NoCgroups) => {
            Failure::of(error).hint("mount cgroups, then try again")
        }
        BenchError::Program { .. } => Failure::of(error).hint("does the program work by itself on this machine?"),
        BenchError::Io { .. } | BenchError::Sandboxes(_) | BenchError::Launch(_) | BenchError::Timeout(_) => {
            Failure::of(error).hint("`hearth doctor` checks this machine")
        }
    }
}

fn table(report: &Report) -> Result<(), Failure> {
    let machine = &report.machine;
    let gibibytes = machine.memory_bytes >> 30;
    output::line(&format!(
        "{} on {} cores, {gibibytes} GiB, Linux {}, {} rounds, interleaved",
        report.bench, machine.cores, machine.kernel, report.rounds
    ))?;
    for section in &report.sections {
        output::line("")?;
        output::line(&format!("{} ({})", section.title, section.unit))?;
        output::line(&rows(section))?;
        for goal in &section.goals {
            let side = match goal.side {
                Side::AtLeast => "at least",
                Side::AtMost => "at most",
            };
            let verdict = if goal.is_met { "met" } else { "missed" };
            output::line(&format!("  goal {verdict}: {} {} ({side} {})", goal.what, figure(goal.value), goal.bound))?;
        }
    }
    let missing: Vec<&Row> =
        report.sections.iter().flat_map(|section| &section.rows).filter(|row| row.p50.is_none()).collect();
    let notes = missing.iter().filter_map(|row| row.note.as_deref());
    let mut notes: Vec<&str> = notes.filter(|note| note.ends_with("not installed")).collect();
    notes.dedup();
    for note in notes {
        output::say(&format!("hint: {note}: install it to have it beside"));
    }
    Ok(())
}

fn rows(section: &Section) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["", "N", "MIN", "P50", "P99", "RATIO", ""]);
    for row in &section.rows {
        let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
        let parts = row.parts.iter().map(|(name, value)| format!("{name} {}", figure(*value)));
        let said: Vec<String> = parts.chain(row.note.clone()).collect();
        table.add_row([
            row.name.clone(),
            row.samples.to_string(),
            value(row.min),
            value(row.p50),
            value(row.p99),
            row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}x")),
            said.join(", "),
        ]);
    }
    table.to_string()
}

/// Writes a figure with as many digits as mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
