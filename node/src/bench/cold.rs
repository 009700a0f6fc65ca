//! `hearth bench cold`: from nothing to a first byte, and to a first answer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::annex::Annex;
use super::http::{Connection, get};
use super::peer::{Peer, first_byte};
use super::program::{Address, install, server, write_app};
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::subject::{Logging, Subject};
use super::yard::Yard;
use super::{Bench, BenchError, REST, find, folder_in, io_at, until};
use crate::error_chain;
use crate::sandbox::bundle::Filter;
use crate::sandbox::{LaunchError, LaunchRequest, Network};

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 50;

/// Rounds before those that count: caches of files fill, zygotes warm up.
const WARM_UP: usize = 3;

/// What the other runtimes run, and in what they differ.
const PEERS: [(&str, &str, Filter); 4] = [
    ("crun run", "crun", Filter::Equal),
    ("crun run, no seccomp", "crun", Filter::None),
    ("runc run", "runc", Filter::Equal),
    ("runc run, no seccomp", "runc", Filter::None),
];

/// The row of sandboxes that have a way out.
const EGRESS: &str = "hearth, with a way out";

const PYTHON: &str = "import json\nimport http\n\n\ndef handler(event, context):\n    return {\"ok\": http.HTTPStatus.OK, \"size\": len(json.dumps(event))}\n";

const NODEJS: &str = "export const handler = async (event) => ({ ok: 200, size: JSON.stringify(event).length });\n";

/// The app whose functions are called. They go as soon as they have nothing to do.
const MANIFEST: &str = r#"
app = "bench"

[function.static]
runtime = "http"
source = "./static"
command = ["./server"]
scale = { max-idle = "5ms" }

[function.python]
runtime = "python3"
source = "./python"
handler = "app.handler"
scale = { max-idle = "5ms" }

[function.nodejs]
runtime = "nodejs"
source = "./nodejs"
handler = "app.handler"
scale = { max-idle = "5ms" }
"#;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let yard = Yard::open(bench, None)?;
    let sandboxes = sandboxes(bench, &yard, rounds).await;
    yard.close().await;
    let mut sections = vec![sandboxes?];
    sections.extend(functions(bench, rounds)?);
    Ok(bench.report("cold", rounds, sections))
}

/// Our sandbox, the other runtimes, a bare exec: each in turn.
async fn sandboxes(bench: &Bench<'_>, yard: &Yard, rounds: usize) -> Result<Section, BenchError> {
    let annex = Annex::open().map_err(io_at("a mount namespace for the other runtimes cannot be made"))?;
    let mut peers = Vec::new();
    for (_, runtime, filter) in PEERS {
        peers.push(Peer::prepare(runtime, &yard.request, filter, &yard.folder().join("peers"), 1)?);
    }
    let mut reaching = Reaching::open(yard).await?;
    let (mut ours, mut floor) = (Samples::default(), Samples::default());
    let mut theirs = vec![Samples::default(); peers.len()];
    for round in 0..rounds + WARM_UP {
        bench.go_on()?;
        if round % 10 == 0 {
            bench.say(&format!("sandboxes: {round} of {} rounds", rounds + WARM_UP));
        }
        yard.wait_full()?;
        sleep(REST);
        let request = yard.request.clone();
        let own = yard.first_byte(request, Instant::now()).await?;
        reaching.turn(yard, round >= WARM_UP).await?;
        let mut others = Vec::new();
        // Everybody rests after the pool is full again: filling it warms the kernel for whoever comes next.
        yard.wait_full()?;
        for peer in &peers {
            sleep(REST);
            others.push(match peer.clone() {
                Some(peer) => Some(annex.run(move || peer.first_byte(0)).map_err(io_at("the annex failed"))??),
                None => None,
            });
        }
        sleep(REST);
        let program = yard.program();
        let bare = annex.run(move || first_byte(Command::new(program))).map_err(io_at("the annex failed"))??;
        if round >= WARM_UP {
            ours.time(own);
            floor.time(bare);
            for (samples, other) in theirs.iter_mut().zip(others) {
                other.into_iter().for_each(|time| samples.time(time));
            }
        }
    }
    let mut rows = vec![Row::new("hearth", Role::Ours, &ours), reaching.row()];
    for (((name, runtime, _), samples), peer) in PEERS.iter().zip(&theirs).zip(&peers) {
        rows.push(match peer {
            Some(_) => Row::new(*name, Role::Peer, samples),
            None => Row::missing(*name, Role::Peer, format!("{runtime} is not installed")),
        });
    }
    rows.push(Row::new("bare fork and exec", Role::Floor, &floor));
    let section =
        Section::new("first byte of a static binary in a sandbox, with seccomp and a user namespace", "ms", rows);
    let times = section.ratio("crun run");
    let added = section.median(EGRESS).zip(section.median("hearth")).map(|(egress, none)| egress - none);
    let section = section.goal("times faster than crun", times, Side::AtLeast, 10.0);
    Ok(section.goal("added by a way out", added, Side::AtMost, 1.0))
}

/// Our sandbox with a way out, where the machine can make one.
struct Reaching {
    request: LaunchRequest,
    /// Why it cannot.
    closed: Option<String>,
    samples: Samples,
}

impl Reaching {
    async fn open(yard: &Yard) -> Result<Self, BenchError> {
        let request = LaunchRequest { network: Network::Egress, ..yard.request.clone() };
        // The first makes the way out.
        let closed = match yard.first_byte(request.clone(), Instant::now()).await {
            Ok(_) => None,
            Err(BenchError::Launch(LaunchError::Egress(error))) => Some(error_chain::text(&error)),
            Err(error) => return Err(error),
        };
        Ok(Self { request, closed, samples: Samples::default() })
    }

    /// Leaves both pools full, as it finds them.
    async fn turn(&mut self, yard: &Yard, counts: bool) -> Result<(), BenchError> {
        if self.closed.is_some() {
            return Ok(());
        }
        yard.wait_full()?;
        yard.wait_full_of(Network::Egress)?;
        sleep(REST);
        let took = yard.first_byte(self.request.clone(), Instant::now()).await?;
        if counts {
            self.samples.time(took);
        }
        yard.wait_full_of(Network::Egress)
    }

    fn row(self) -> Row {
        match self.closed {
            None => Row::new(EGRESS, Role::Ours, &self.samples),
            Some(reason) => Row::missing(EGRESS, Role::Ours, reason),
        }
    }
}

/// What a function takes by itself, outside of any sandbox.
#[derive(Clone, Copy)]
enum Alone {
    /// The server, from its exec to its first answer.
    Server,
    /// A program with two arguments, from its exec to its first byte.
    Program(&'static str, [&'static str; 2]),
}

/// One function.
struct Case {
    function: &'static str,
    title: &'static str,
    alone: Alone,
    ours: Samples,
    parts: BTreeMap<String, Samples>,
    bare: Samples,
}

impl Case {
    fn new(function: &'static str, title: &'static str, alone: Alone) -> Self {
        Self { function, title, alone, ours: Samples::default(), parts: BTreeMap::new(), bare: Samples::default() }
    }

    fn section(self) -> Section {
        let title = format!("HTTP request to answer of a function without an instance: {}", self.title);
        let mut own = Row::new("hearth", Role::Ours, &self.ours);
        own.parts = self.parts.iter().filter_map(|(name, samples)| Some((name.clone(), samples.median()?))).collect();
        let section = Section::new(title, "ms", vec![own, Row::new("its program alone", Role::Floor, &self.bare)]);
        if self.function != "python" {
            return section;
        }
        let median = section.median("hearth");
        section.goal("median", median, Side::AtMost, 10.0)
    }
}

/// One call of each function while it has no instance, and each language's own start beside it.
fn functions(bench: &Bench<'_>, rounds: usize) -> Result<Vec<Section>, BenchError> {
    let mut cases = vec![Case::new("static", "static binary that serves HTTP", Alone::Server)];
    let mut missing = Vec::new();
    let python = Alone::Program("python3", ["-c", "import json, http; print(1)"]);
    let nodejs = Alone::Program("node", ["-e", "console.log(1)"]);
    for (function, title, alone) in
        [("python", "python3, json and http imported", python), ("nodejs", "nodejs", nodejs)]
    {
        match alone {
            Alone::Program(program, _) if find(program).is_none() => {
                let row = Row::missing("hearth", Role::Ours, format!("{program} is not installed"));
                missing.push(Section::new(title, "ms", vec![row]));
            }
            Alone::Program(..) | Alone::Server => cases.push(Case::new(function, title, alone)),
        }
    }
    let app = folder_in(std::env::temp_dir()).map_err(io_at("the app of the benchmark cannot be written"))?;
    write_apps(app.path(), &cases).map_err(io_at("the app of the benchmark cannot be written"))?;
    let alone = Server::install(app.path()).map_err(io_at("the app of the benchmark cannot be written"))?;
    bench.say("functions: building and deploying");
    let subject = Subject::start(bench, Logging::Default)?;
    subject.apply(app.path())?;
    for round in 0..rounds + WARM_UP {
        bench.go_on()?;
        if round % 10 == 0 {
            bench.say(&format!("functions: {round} of {} rounds", rounds + WARM_UP));
        }
        for case in &mut cases {
            turn(&subject, &alone, case, round >= WARM_UP)?;
        }
    }
    Ok(cases.into_iter().map(Case::section).chain(missing).collect())
}

fn turn(subject: &Subject, alone: &Server, case: &mut Case, counts: bool) -> Result<(), BenchError> {
    let failed = io_at("a function cannot be called");
    subject.wait_for_zero()?;
    sleep(REST);
    let request = get(&format!("/function/{}", case.function), "X-Hearth-Trace: 1\r\n");
    let start = Instant::now();
    let answer = Connection::tcp(subject.gateway()).and_then(|mut to| to.send(&request)).map_err(&failed)?;
    let took = start.elapsed();
    let phases = phases(answer.header("server-timing").unwrap_or_default());
    let is_cold = phases.get("sandbox").is_some_and(|sandbox| *sandbox > 0.0);
    if answer.status != 200 || !is_cold {
        let reason = format!("it answered {} to a cold call\n{}", answer.status, answer.head);
        return Err(BenchError::Program { program: case.function.to_owned(), reason });
    }
    sleep(REST);
    let bare = match case.alone {
        Alone::Server => alone.first_answer()?,
        Alone::Program(program, arguments) => {
            let mut command = Command::new(program);
            command.args(arguments);
            first_byte(command)?
        }
    };
    if counts {
        case.ours.time(took);
        case.bare.time(bare);
        for (name, millis) in phases {
            case.parts.entry(name).or_default().push(millis);
        }
    }
    Ok(())
}

/// The static server, outside of any sandbox and on a Unix socket.
struct Server {
    program: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn install(folder: &Path) -> std::io::Result<Self> {
        let (program, socket) = (folder.join("alone"), folder.join("socket"));
        install(&server(Address::Socket(&socket))?, &program)?;
        Ok(Self { program, socket })
    }

    /// Starts it and returns the time until it answered one request.
    fn first_answer(&self) -> Result<Duration, BenchError> {
        let failed = io_at("the static server does not work");
        let request = get("/", "");
        let start = Instant::now();
        let mut child = Command::new(&self.program).stdin(Stdio::null()).spawn().map_err(&failed)?;
        let answered = until("the static server answers", || {
            Connection::unix(&self.socket).and_then(|mut to| to.exchange(&request)).is_ok()
        });
        let took = start.elapsed();
        let ended = child.kill().and_then(|()| child.wait());
        answered?;
        ended.and_then(|_| fs::remove_file(&self.socket)).map_err(&failed)?;
        Ok(took)
    }
}

/// Reads the phases out of a `Server-Timing` header, in milliseconds.
fn phases(header: &str) -> BTreeMap<String, f64> {
    let phase = |part: &str| {
        let (name, duration) = part.trim().split_once(";dur=")?;
        Some((name.to_owned(), duration.parse().ok()?))
    };
    header.split(',').filter_map(phase).collect()
}

fn write_apps(folder: &Path, cases: &[Case]) -> std::io::Result<()> {
    let mut manifest: toml::Table = toml::from_str(MANIFEST).map_err(std::io::Error::other)?;
    if let Some(functions) = manifest.get_mut("function").and_then(toml::Value::as_table_mut) {
        functions.retain(|name, _| cases.iter().any(|case| case.function == name));
    }
    for (name, file, text) in [("python", "app.py", PYTHON), ("nodejs", "app.mjs", NODEJS)] {
        fs::create_dir(folder.join(name))?;
        fs::write(folder.join(name).join(file), text)?;
    }
    write_app(folder, &manifest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_as_the_gateway_writes_them() {
        let read = phases("queue;dur=0.100, place;dur=0.000, sandbox;dur=1.250, init;dur=2.000, run;dur=0.300");
        assert_eq!(read.len(), 5);
        assert_eq!((read["sandbox"], read["run"]), (1.25, 0.3));
        assert!(phases("").is_empty());
    }
}
