//! `hearth bench death`: a host is lost, and what it ran with it: until nobody calls it any more, and until others serve instead.
//!
//! Three agents on this machine. The entry leads, runs nothing itself, and passes the calls that come to it on to two hosts with one
//! instance each. A call every [`CALL_EVERY`] tells which of them goes unanswered; the events of the host that is left tell when
//! the minimum is served by it alone.
//!
//! A process that stands still is for its peers what a host without power is: its connections stand and say nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use control_plane::model::Timestamp;
use nix::sys::signal::Signal;
use proto::json::{Event, EventKind, Instance, InstancePhase, Member, Node, NodeStatus, Role as Part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::http::get;
use super::program::write_app;
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::subject::{Logging, Subject};
use super::{Bench, BenchError, LOOK_EVERY, PATIENCE, folder_in, io_at, until};
use crate::clock::Clock;

/// How often a host is lost in each way unless told otherwise.
const ROUNDS: usize = 10;

/// The time from one call to the next.
const CALL_EVERY: Duration = Duration::from_millis(5);

/// From here on a call counts as one that went to the lost host.
const STALLED: Duration = Duration::from_millis(250);

/// How long a call may take before it counts as failed.
const CALL_MAX: Duration = Duration::from_secs(10);

/// How long calls go on after the loss.
const WATCHED: Duration = Duration::from_secs(7);

/// How long calls have been going on when the host is lost: drawn by the round, so that beats are hit anywhere.
const BEFORE: [u64; 5] = [303, 417, 529, 641, 759];

/// How long it may take at the 99th percentile until no call goes to the lost host, in milliseconds.
const OFF_MAX: f64 = 1_500.0;

/// How long it may take at the 99th percentile until the minimum is served elsewhere, in milliseconds.
const REPLACED_MAX: f64 = 4_000.0;

/// What is called.
const MANIFEST: &str = r#"
app = "bench"

[function.static]
runtime = "http"
source = "./static"
command = ["./server"]
concurrency = 1000
scale = { min = 2, max = 4, max-idle = "1s" }
placement = { spread = "zone" }
"#;

/// How a host is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Its processes end, and its kernel says so.
    Killed,
    /// It says nothing any more.
    Silent,
}

impl Loss {
    const ALL: [Self; 2] = [Self::Killed, Self::Silent];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "a host's processes are killed",
            Self::Silent => "a host is silent, as one without power is",
        }
    }
}

/// What one kind of loss came to.
#[derive(Default)]
struct Outcome {
    off: Samples,
    replaced: Samples,
    calls: u32,
    failed: u32,
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut rack = Rack::found(bench)?;
    let mut outcomes: [Outcome; 2] = Default::default();
    for round in 0..rounds {
        for (loss, outcome) in Loss::ALL.into_iter().zip(&mut outcomes) {
            bench.go_on()?;
            bench.say(&format!("{}: {round} of {rounds} rounds", loss.as_str()));
            rack.settle()?;
            rack.lose(loss, round, outcome).await?;
        }
    }
    let mut sections = Vec::new();
    for (loss, outcome) in Loss::ALL.into_iter().zip(&outcomes) {
        let mut off = Row::new("hearth", Role::Ours, &outcome.off);
        off.parts.insert("calls".to_owned(), f64::from(outcome.calls));
        off.parts.insert("failed calls".to_owned(), f64::from(outcome.failed));
        let off = Section::new(format!("{}: until no call goes there", loss.as_str()), "ms", vec![off]);
        let worst = outcome.off.percentile(99);
        sections.push(off.goal("p99", worst, Side::AtMost, OFF_MAX));
        let rows = vec![
            Row::new("hearth", Role::Ours, &outcome.replaced),
            Row::published("Nomad", 20_000.0, "20 to 30 s as documented"),
            Row::published("Dirigent", 15_000.0, "15 to 20 s by its paper"),
            Row::published("Kubernetes", 340_000.0, "as it comes: 40 s until it notices, 300 s until pods go"),
        ];
        let replaced = Section::new(format!("{}: until others serve its minimum", loss.as_str()), "ms", rows);
        let worst = outcome.replaced.percentile(99);
        sections.push(replaced.goal("p99", worst, Side::AtMost, REPLACED_MAX));
    }
    Ok(bench.report("death", rounds, sections))
}

/// Three agents; dropping it ends them and what they run.
struct Rack {
    entry: Subject,
    hosts: [Subject; 2],
}

impl Rack {
    fn found(bench: &Bench<'_>) -> Result<Self, BenchError> {
        bench.say("three agents, of which one takes the calls and two run the function");
        let entry = Subject::start_told(bench, Logging::Quiet, &["--name", "entry", "--zone", "entry"])?;
        let token = entry.tell(&["token", "create", "-o", "name"])?;
        let contact = entry.peers().to_string();
        let host = |name| {
            let told = ["--name", name, "--zone", name, "--join", &contact, "--token", token.trim()];
            Subject::start_told(bench, Logging::Quiet, &told)
        };
        let rack = Self { entry, hosts: [host("one")?, host("two")?] };
        let votes = |member: &Member| member.role == Part::Voter;
        rack.until_all("three agents vote", &["cluster", "members"], votes)?;
        let what = io_at("the app of the benchmark cannot be written");
        let app = folder_in(std::env::temp_dir()).map_err(&what)?;
        write_app(app.path(), MANIFEST).map_err(&what)?;
        rack.entry.apply(app.path())?;
        rack.entry.tell(&["node", "drain", "entry"])?;
        Ok(rack)
    }

    /// Waits until all hosts are back, the entry leads, and each host has one instance.
    fn settle(&self) -> Result<(), BenchError> {
        self.until_all("all agents are heard of", &["get", "nodes"], |node: &Node| node.status != NodeStatus::Dead)?;
        let nodes: Vec<Node> = self.entry.ask(&["get", "nodes"])?;
        if !nodes.iter().any(|node| node.is_leader && node.name == "entry") {
            self.entry.tell(&["cluster", "transfer-leader", "--to", "entry"])?;
        }
        self.entry.tell(&["scale", "static", "--min", "0"])?;
        self.until_instances("nothing is left of the round before", <[Instance]>::is_empty)?;
        self.entry.tell(&["scale", "static", "--min", "2"])?;
        let is_ready = |instance: &Instance| instance.phase == InstancePhase::Ready;
        self.until_instances("each host has one instance, which is ready", |instances| match instances {
            [one, other] => is_ready(one) && is_ready(other) && one.node != other.node,
            _ => false,
        })
    }

    fn until_instances(&self, what: &'static str, holds: impl Fn(&[Instance]) -> bool) -> Result<(), BenchError> {
        until(what, || self.entry.ask::<Vec<Instance>>(&["get", "instances"]).is_ok_and(|listed| holds(&listed)))
    }

    /// Asks for a list until something holds for all three that are on it.
    fn until_all<T: serde::de::DeserializeOwned>(
        &self,
        what: &'static str,
        question: &[&str],
        holds: impl Fn(&T) -> bool,
    ) -> Result<(), BenchError> {
        until(what, || {
            let listed = self.entry.ask::<Vec<T>>(question).unwrap_or_default();
            listed.len() == 3 && listed.iter().all(&holds)
        })
    }

    /// Takes a host away under calls, and brings it back.
    async fn lose(&mut self, loss: Loss, round: usize, outcome: &mut Outcome) -> Result<(), BenchError> {
        let (lost, left) = (round % 2, 1 - round % 2);
        let clock = Clock::system();
        let mut at = None;
        let gateway = self.entry.gateway();
        let calls = calls(gateway, Duration::from_millis(BEFORE[round % BEFORE.len()]), || {
            at = Some(clock.now());
            match loss {
                Loss::Killed => self.hosts[lost].kill(),
                Loss::Silent => self.hosts[lost].signal(Signal::SIGSTOP),
            }
        });
        let (lost_at, calls) = calls.await?;
        let replaced = self.replaced(left, at.unwrap_or_default());
        match loss {
            Loss::Killed => self.hosts[lost].launch()?,
            Loss::Silent => self.hosts[lost].signal(Signal::SIGCONT),
        }
        outcome.replaced.time(replaced?);
        let stalled = calls.iter().filter(|call| call.began >= lost_at && call.is_stalled());
        outcome.off.time(stalled.map(|call| call.began - lost_at).max().unwrap_or_default());
        outcome.calls += u32::try_from(calls.len()).unwrap_or(u32::MAX);
        outcome.failed += u32::try_from(calls.iter().filter(|call| !call.is_answered).count()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Returns how long after the loss an instance became ready on the host that is left.
    fn replaced(&self, left: usize, lost_at: Timestamp) -> Result<Duration, BenchError> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let events: Vec<Event> = self.hosts[left].ask(&["get", "events"])?;
            let ready = events.iter().filter(|event| event.kind == EventKind::InstanceReady);
            let first = ready.map(|event| Timestamp::from_millis(event.at_ms)).find(|at| *at >= lost_at);
            if let Some(first) = first {
                return Ok(first.since(lost_at));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(BenchError::Timeout("the minimum is served elsewhere"))
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        let all = || self.hosts.iter().chain([&self.entry]);
        // One that was lost may stand still yet; one that was killed is not needed to decide.
        all().for_each(|agent| agent.signal(Signal::SIGCONT));
        if self.entry.delete_all().is_ok() {
            let _ = until("the instances end", || all().all(|agent| agent.residents().is_empty()));
        }
        all().for_each(|agent| agent.signal(Signal::SIGTERM));
        self.hosts.iter_mut().chain([&mut self.entry]).for_each(Subject::wait_gone);
    }
}

/// One call of the function.
struct Call {
    began: Instant,
    took: Duration,
    is_answered: bool,
}

impl Call {
    fn is_stalled(&self) -> bool {
        !self.is_answered || self.took >= STALLED
    }
}

/// Calls the function again and again, and takes a host away meanwhile; returns when that was, and all calls.
async fn calls(
    gateway: SocketAddr,
    before: Duration,
    take_away: impl FnOnce(),
) -> Result<(Instant, Vec<Call>), BenchError> {
    let (mut under_way, mut tempo) = (JoinSet::new(), interval(CALL_EVERY));
    let call_while = async |under_way: &mut JoinSet<Call>, tempo: &mut tokio::time::Interval, duration: Duration| {
        let start = Instant::now();
        while start.elapsed() < duration {
            tempo.tick().await;
            under_way.spawn(call(gateway));
        }
    };
    call_while(&mut under_way, &mut tempo, before).await;
    let lost_at = Instant::now();
    take_away();
    call_while(&mut under_way, &mut tempo, WATCHED).await;
    let mut calls = Vec::new();
    while let Some(ended) = under_way.join_next().await {
        calls.push(ended.map_err(|error| io_at("a call cannot be made")(error.into()))?);
    }
    Ok((lost_at, calls))
}

async fn call(gateway: SocketAddr) -> Call {
    let began = Instant::now();
    let calling = async {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.write_all(&get("/function/static", "Connection: close\r\n")).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    let is_answered = timeout(CALL_MAX, calling).await.is_ok_and(|answered| answered.unwrap_or(false));
    Call { began, took: began.elapsed(), is_answered }
}
