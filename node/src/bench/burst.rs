//! `hearth bench burst`: many first calls at once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::annex::Annex;
use super::load::{Load, Outcome};
use super::peer::Peer;
use super::program::write_app;
use super::report::{Report, Role, Row, Section};
use super::sample::Samples;
use super::subject::{Logging, Subject};
use super::yard::Yard;
use super::{Bench, BenchError, REST, folder_in, http, io_at};
use crate::sandbox::bundle::Filter;

/// How often each burst is measured unless told otherwise.
const ROUNDS: usize = 3;

/// How many start at once.
const SIZES: [usize; 2] = [100, 500];

/// The function that is called. It goes as soon as it has nothing to do.
const MANIFEST: &str = r#"
app = "bench"

[function.static]
runtime = "http"
source = "./static"
command = ["./server"]
memory = "16Mi"
scale = { max-idle = "5ms", max = 1000 }
"#;

/// One side of a burst.
#[derive(Default)]
struct Burst {
    rates: Samples,
    times: Samples,
}

impl Burst {
    /// Adds a burst by the times of its starts since it began.
    fn add(&mut self, times: &[Duration]) {
        let end = times.iter().max().copied().unwrap_or_default();
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        self.rates.push(f64::from(count) / end.as_secs_f64());
        times.iter().for_each(|time| self.times.time(*time));
    }

    fn row(&self, name: &str, role: Role) -> Row {
        let mut row = Row::new(name, role, &self.times);
        row.parts = self.rates.median().map(|rate| ("starts/s".to_owned(), rate)).into_iter().collect();
        row
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let yard = Yard::open(bench, None)?;
    let sandboxes = sandboxes(bench, &yard, rounds).await;
    yard.close().await;
    let mut sections = sandboxes?;
    sections.extend(functions(bench, rounds)?);
    Ok(bench.report("burst", rounds, sections))
}

/// Sandboxes, each with its own process; the other runtime makes as many, on all processors.
async fn sandboxes(bench: &Bench<'_>, yard: &Yard, rounds: usize) -> Result<Vec<Section>, BenchError> {
    let annex = Annex::open().map_err(io_at("a mount namespace for the other runtime cannot be made"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let peer = Peer::prepare("crun", &yard.request, Filter::Equal, &yard.folder().join("peers"), cores)?;
    let mut sections = Vec::new();
    for size in SIZES {
        let (mut ours, mut theirs) = (Burst::default(), Burst::default());
        for round in 0..rounds {
            bench.go_on()?;
            bench.say(&format!("{size} sandboxes at once: {round} of {rounds} rounds"));
            yard.wait_full()?;
            sleep(REST);
            let start = Instant::now();
            let starts = (0..size).map(|_| yard.first_byte(yard.request.clone(), start));
            let times: Result<Vec<Duration>, BenchError> = join_all(starts).await.into_iter().collect();
            ours.add(&times?);
            bench.go_on()?;
            if let Some(peer) = peer.clone() {
                sleep(REST);
                let times = annex.run(move || all(&peer, size, cores)).map_err(io_at("the annex failed"))?;
                theirs.add(&times?);
            }
        }
        let rows = vec![
            ours.row("hearth", Role::Ours),
            match peer {
                Some(_) => theirs.row("crun run", Role::Peer).note(format!("{cores} at a time")),
                None => Row::missing("crun run", Role::Peer, "crun is not installed"),
            },
        ];
        sections.push(Section::new(format!("{size} sandboxes at once, time until the first byte of each"), "ms", rows));
    }
    Ok(sections)
}

/// Runs `size` containers, one after the other on each of some threads; returns when each wrote, since the beginning.
fn all(peer: &Peer, size: usize, at_once: usize) -> Result<Vec<Duration>, BenchError> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let share = |thread: usize| size / at_once + usize::from(thread < size % at_once);
        let threads: Vec<_> = (0..at_once)
            .map(|thread| {
                scope.spawn(move || -> Result<Vec<Duration>, BenchError> {
                    (0..share(thread))
                        .map(|_| {
                            let began = start.elapsed();
                            Ok(began + peer.first_byte(thread)?)
                        })
                        .collect()
                })
            })
            .collect();
        let mut times = Vec::with_capacity(size);
        for thread in threads {
            times.extend(thread.join().unwrap_or(Err(BenchError::Timeout("a thread of the burst")))?);
        }
        Ok(times)
    })
}

/// Calls of one function that has no instance, all at once.
fn functions(bench: &Bench<'_>, rounds: usize) -> Result<Vec<Section>, BenchError> {
    let what = io_at("the app of the benchmark cannot be written");
    let app = folder_in(std::env::temp_dir()).map_err(&what)?;
    write_app(app.path(), MANIFEST).map_err(&what)?;
    bench.say("functions: building and deploying");
    let subject = Subject::start(bench, Logging::Default)?;
    subject.apply(app.path())?;
    let mut sections = Vec::new();
    for size in SIZES {
        let (mut rates, mut starts, mut times) = (Samples::default(), Samples::default(), Samples::default());
        for round in 0..rounds {
            bench.go_on()?;
            bench.say(&format!("{size} calls at once: {round} of {rounds} rounds"));
            subject.wait_for_zero()?;
            let mut load = Load::connect(subject.gateway(), size, &http::get("/function/static", ""))?;
            sleep(REST);
            let before = subject.metric("hearth_cold_starts_total")?;
            let Outcome { per_second, latencies } = load.once()?;
            starts.push(subject.metric("hearth_cold_starts_total")? - before);
            rates.push(per_second);
            times.extend(latencies);
        }
        let mut row = Row::new("hearth", Role::Ours, &times);
        let parts = [("calls/s", rates.median()), ("calls that waited for a start", starts.median())];
        row.parts = parts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        sections.push(Section::new(format!("{size} calls at once of a function without an instance"), "ms", vec![row]));
    }
    Ok(sections)
}
