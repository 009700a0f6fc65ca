//! `hearth bench warm`: what the way through the gateway adds to a call, and how many calls go through it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::driven::Driven;
use super::http::{Connection, get};
use super::load::Load;
use super::nginx::Nginx;
use super::process_time::cpu_time;
use super::program::{FUNCTION_PORT, write_app};
use super::report::{Report, Role, Row, Section, Side};
use super::subject::{Logging, Subject};
use super::way::{Way, added, take_turns};
use super::{Bench, BenchError, find, folder_in, io_at};

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 10;

/// How long one turn of the load is.
const LOAD_TIME: Duration = Duration::from_secs(1);

/// Connections of the load.
const CONNECTIONS: usize = 64;

/// What is called. One instance takes every call, and may use every processor.
const MANIFEST: &str = r#"
app = "bench"

[function.static]
runtime = "http"
source = "./static"
command = ["./server"]
concurrency = 1000
cpu = "CORES"
scale = { min = 1, max = 1 }
"#;

const MANIFEST_PYTHON: &str = r#"
[function.python]
runtime = "python3"
source = "./python"
handler = "app.handler"
scale = { min = 1, max = 1 }
"#;

const PYTHON: &str = "def handler(event, context):\n    return {\"statusCode\": 200, \"body\": \"ok\"}\n";

pub(super) fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut sections = Vec::new();
    for logging in [Logging::Default, Logging::Quiet] {
        bench.say(match logging {
            Logging::Default => "with access logs: building and deploying",
            Logging::Quiet => "without access logs: building and deploying",
        });
        let pair = Pair::start(bench, logging)?;
        if logging == Logging::Default {
            sections.extend(pair.latency(bench, rounds)?);
        }
        sections.push(pair.throughput(bench, rounds, logging)?);
    }
    Ok(bench.report("warm", rounds, sections))
}

/// The gateway with a function behind it, and nginx with an equal server behind it.
struct Pair {
    subject: Subject,
    nginx: Option<Nginx>,
    has_python: bool,
}

impl Pair {
    fn start(bench: &Bench<'_>, logging: Logging) -> Result<Self, BenchError> {
        let app = folder_in(std::env::temp_dir()).map_err(io_at("the app of the benchmark cannot be written"))?;
        let has_python = find("python3").is_some();
        write_apps(app.path(), has_python).map_err(io_at("the app of the benchmark cannot be written"))?;
        let nginx = Nginx::start(logging)?;
        let subject = Subject::start(bench, logging)?;
        subject.apply(app.path())?;
        Ok(Self { subject, nginx, has_python })
    }

    /// One call at a time, each way in turn.
    fn latency(&self, bench: &Bench<'_>, rounds: usize) -> Result<Vec<Section>, BenchError> {
        let ways = self.ways().map_err(io_at("a warm call failed"))?;
        let whole = take_turns(bench, ways, rounds)?;
        let mut rows = Vec::new();
        rows.extend(added(&whole, "hearth", Role::Ours, "through the gateway", "directly in the sandbox"));
        rows.push(
            added(&whole, "nginx", Role::Peer, "through nginx", "directly on the socket")
                .unwrap_or_else(|| Row::missing("nginx", Role::Peer, "nginx is not installed")),
        );
        let added = Section::new("added to a call over one connection", "µs", rows);
        let median = added.median("hearth");
        Ok(vec![added.goal("median", median, Side::AtMost, 100.0), whole])
    }

    fn ways(&self) -> std::io::Result<Vec<Way>> {
        let gateway = || Connection::tcp(self.subject.gateway());
        let label = "\"function\":\"static\"";
        let resident = self.subject.residents().into_iter().find(|resident| resident.label.contains(label));
        let pid = resident.ok_or_else(|| std::io::Error::other("the function has no instance"))?.pid;
        let mut ways = vec![
            Way::new("through the gateway", Role::Ours, gateway()?, "/function/static"),
            Way::new("directly in the sandbox", Role::Floor, connect_in(pid)?, "/"),
        ];
        if let Some(nginx) = &self.nginx {
            ways.push(Way::new("through nginx", Role::Peer, Connection::tcp(nginx.address)?, "/"));
            ways.push(Way::new("directly on the socket", Role::Floor, Connection::unix(&nginx.socket)?, "/"));
        }
        if self.has_python {
            ways.push(Way::new("python3 handler through the gateway", Role::Ours, gateway()?, "/function/python"));
        }
        Ok(ways)
    }

    /// As many calls as go through, by the same load in turn.
    fn throughput(&self, bench: &Bench<'_>, rounds: usize, logging: Logging) -> Result<Section, BenchError> {
        let mut ours = Load::connect(self.subject.gateway(), CONNECTIONS, &get("/function/static", ""))?;
        let nginx = self.nginx.as_ref();
        let mut theirs = nginx.map(|nginx| Load::connect(nginx.address, CONNECTIONS, &get("/", ""))).transpose()?;
        let mut sides = [Driven::default(), Driven::default()];
        for round in 0..=rounds {
            bench.go_on()?;
            bench.say(&format!("{CONNECTIONS} connections: {round} of {rounds} rounds"));
            let own_pids = vec![self.subject.pid()];
            let pids = [own_pids, nginx.map(Nginx::pids).unwrap_or_default()];
            for ((load, side), pids) in [Some(&mut ours), theirs.as_mut()].into_iter().zip(&mut sides).zip(&pids) {
                let Some(load) = load else { continue };
                let before = cpu_time(pids);
                let outcome = load.run(LOAD_TIME)?;
                let spent = cpu_time(pids).saturating_sub(before);
                // The first round warms up.
                if round > 0 {
                    side.add(outcome.per_second, spent, outcome.latencies);
                }
            }
        }
        let [own, other] = &sides;
        let mut rows = vec![own.row("hearth", Role::Ours, "request")];
        rows.push(match nginx {
            Some(_) => other.row("nginx", Role::Peer, "request"),
            None => Row::missing("nginx", Role::Peer, "nginx is not installed"),
        });
        let logs = match logging {
            Logging::Default => "both with their access log",
            Logging::Quiet => "both without access log",
        };
        let section = Section::new(format!("requests a second over {CONNECTIONS} connections, {logs}"), "1/s", rows);
        let share = section.ratio("nginx").map(|ratio| 1.0 / ratio);
        Ok(section.goal("of nginx's requests", share, Side::AtLeast, 0.7))
    }
}

/// Connects to the function's port in the network namespace of a process, on a thread that ends with it.
fn connect_in(pid: i32) -> std::io::Result<Connection> {
    let connect = move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net"))?;
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        Connection::tcp_stream(SocketAddr::from((Ipv4Addr::LOCALHOST, FUNCTION_PORT)))
    };
    let stream = std::thread::spawn(connect).join().map_err(|_| std::io::Error::other("the thread panicked"))??;
    Ok(Connection::over(stream))
}

fn write_apps(folder: &Path, has_python: bool) -> std::io::Result<()> {
    let python = if has_python { MANIFEST_PYTHON } else { "" };
    let cores = std::thread::available_parallelism()?.to_string();
    fs::create_dir(folder.join("python"))?;
    fs::write(folder.join("python/app.py"), PYTHON)?;
    write_app(folder, &format!("{MANIFEST}{python}").replace("CORES", &cores))
}
