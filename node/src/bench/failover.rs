//! `hearth bench failover`: from the loss of a leader to the next acknowledged write, beside etcd.
//!
//! A client writes all the time to the two voters that do not lead, a write every [`WRITE_EVERY`], whatever became of those before.
//! What counts is the first write that is begun after the loss and acknowledged. A process that stands still is for its peers the
//! same as a host that has gone: its connections stand and say nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control_plane::raft::Timing;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::client::{Client, Dialect};
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::trio::Trio;
use super::{Bench, BenchError, LOOK_EVERY, PATIENCE};

/// How often the leader is lost in each way unless told otherwise.
const ROUNDS: usize = 20;

/// The time from one write to the next.
const WRITE_EVERY: Duration = Duration::from_millis(2);

/// How long the client has been writing when the leader is lost: drawn by the round, so that heartbeats are hit anywhere.
const BEFORE: [u64; 5] = [203, 217, 229, 241, 259];

/// How long it goes on after the next acknowledged write.
const AFTER: Duration = Duration::from_millis(100);

/// How long a write may take before it counts as failed.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// How long a soak lasts before it looks whether it is to stop.
const SOAK_STEP: Duration = Duration::from_millis(250);

/// What is measured beyond the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// How soon our voters take a silent leader for gone.
    pub timing: Timing,
    /// How long all cores are kept busy while elections are counted.
    pub soak: Option<Duration>,
}

/// How a leader is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Killed,
    Silent,
    HandedOver,
}

impl Loss {
    const ALL: [Self; 3] = [Self::Killed, Self::Silent, Self::HandedOver];

    fn title(self) -> &'static str {
        match self {
            Self::Killed => "the leader is killed: until the next acknowledged write",
            Self::Silent => "the leader is silent, as a lost host is: until the next acknowledged write",
            Self::HandedOver => "the leader hands over: until the next acknowledged write",
        }
    }

    /// How long it may take, in milliseconds.
    fn goal(self) -> f64 {
        match self {
            Self::Killed => 100.0,
            Self::Silent => 350.0,
            Self::HandedOver => 20.0,
        }
    }
}

/// What one side came to with one kind of loss.
#[derive(Default)]
struct Outcome {
    times: Samples,
    written: u32,
    failed: u32,
}

impl Outcome {
    fn row(&self, name: &str, role: Role) -> Row {
        let mut row = Row::new(name, role, &self.times);
        row.parts.insert("writes".to_owned(), f64::from(self.written));
        row.parts.insert("failed writes".to_owned(), f64::from(self.failed));
        row
    }
}

/// One side: its processes, and a client of each.
struct Party {
    dialect: Dialect,
    trio: Trio,
    /// The ones that say who leads.
    direct: Vec<Client>,
    fronts: Vec<Client>,
    outcomes: [Outcome; 3],
}

pub(super) async fn run(bench: &Bench<'_>, options: Failover) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    bench.say("starting three voters, and three of etcd");
    let mut parties = vec![Party::new(Dialect::Ours, Trio::ours(bench, options.timing)?)?];
    if let Some(trio) = Trio::etcd()? {
        parties.push(Party::new(Dialect::Etcd, trio)?);
    }
    for round in 0..rounds {
        bench.say(&format!("{round} of {rounds} rounds"));
        for (number, loss) in Loss::ALL.into_iter().enumerate() {
            for party in &mut parties {
                bench.go_on()?;
                party.lose(loss, number, BEFORE[round % BEFORE.len()]).await?;
            }
        }
    }
    let mut sections: Vec<Section> = Vec::new();
    for (number, loss) in Loss::ALL.into_iter().enumerate() {
        let row = |party: &Party| match party.dialect {
            Dialect::Ours => party.outcomes[number].row("hearth", Role::Ours),
            Dialect::Etcd => party.outcomes[number].row("etcd", Role::Peer),
        };
        let mut rows: Vec<Row> = parties.iter().map(row).collect();
        if rows.len() < 2 {
            rows.push(Row::missing("etcd", Role::Peer, "etcd is not installed"));
        }
        let section = Section::new(loss.title(), "ms", rows);
        let median = section.median("hearth");
        let mut section = section.goal("p50", median, Side::AtMost, loss.goal());
        if loss == Loss::HandedOver {
            let failed = parties.first().map(|party| f64::from(party.outcomes[number].failed));
            section = section.goal("failed writes", failed, Side::AtMost, 0.0);
        }
        sections.push(section);
    }
    drop(parties);
    if let Some(duration) = options.soak {
        sections.push(soak(bench, options.timing, duration).await?);
    }
    Ok(bench.report("failover", rounds, sections))
}

impl Party {
    fn new(dialect: Dialect, trio: Trio) -> Result<Self, BenchError> {
        let failed = |error: tonic::transport::Error| failed(error.to_string());
        let clients = |addresses: &[std::net::SocketAddr]| -> Result<Vec<Client>, BenchError> {
            addresses.iter().map(|address| Client::new(dialect, *address).map_err(failed)).collect()
        };
        let (direct, fronts) = (clients(&trio.clients)?, clients(&trio.fronts)?);
        Ok(Self { dialect, trio, direct, fronts, outcomes: <[Outcome; 3]>::default() })
    }

    /// Waits until all three take writes and one of them leads; returns which.
    async fn settled(&self) -> Result<usize, BenchError> {
        let settling = async {
            for front in &self.fronts {
                while front.put(0).await.is_err() {
                    sleep(LOOK_EVERY).await;
                }
            }
            loop {
                for (number, client) in self.direct.iter().enumerate() {
                    if client.is_leader().await {
                        return number;
                    }
                }
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(PATIENCE, settling).await.map_err(|_| BenchError::Timeout("three voters take writes"))
    }

    /// Takes the leader away while a client writes to the others, and brings it back.
    async fn lose(&mut self, loss: Loss, number: usize, before_ms: u64) -> Result<(), BenchError> {
        let leader = self.settled().await?;
        let survivors: Vec<Client> =
            (0..self.fronts.len()).filter(|voter| *voter != leader).map(|voter| self.fronts[voter].clone()).collect();
        let successor = match self.dialect {
            Dialect::Ours => 0,
            Dialect::Etcd => {
                let other = &self.direct[(leader + 1) % self.direct.len()];
                other.member().await.map_err(|status| failed(status.to_string()))?.0
            }
        };
        let writing = timeout(
            PATIENCE,
            writes(&survivors, Duration::from_millis(before_ms), || self.take_away(loss, leader, successor)),
        );
        let written = writing.await;
        match loss {
            Loss::Killed => self.trio.restart(leader)?,
            Loss::Silent => self.trio.signal(leader, Signal::SIGCONT)?,
            Loss::HandedOver => {}
        }
        let (took, written, failures) =
            written.map_err(|_| BenchError::Timeout("a write after the leader's loss"))??;
        let outcome = &mut self.outcomes[number];
        outcome.times.time(took);
        outcome.written += written;
        outcome.failed += failures;
        Ok(())
    }

    fn take_away(&self, loss: Loss, leader: usize, successor: u64) -> Result<(), BenchError> {
        match (loss, self.dialect) {
            (Loss::Killed, _) => self.trio.signal(leader, Signal::SIGKILL),
            (Loss::Silent, _) => self.trio.signal(leader, Signal::SIGSTOP),
            (Loss::HandedOver, Dialect::Ours) => self.trio.signal(leader, Signal::SIGUSR1),
            (Loss::HandedOver, Dialect::Etcd) => {
                let client = self.direct[leader].clone();
                // Its answer comes when it is done, which the writes tell as well.
                tokio::spawn(async move { client.move_leader(successor).await });
                Ok(())
            }
        }
    }
}

/// Writes to some voters in turns; returns how long after the loss the first write was acknowledged that was begun after it, how
/// many writes there were, and how many failed.
async fn writes(
    survivors: &[Client],
    before: Duration,
    take_away: impl Fn() -> Result<(), BenchError>,
) -> Result<(Duration, u32, u32), BenchError> {
    let mut under_way: JoinSet<(Instant, Instant, bool)> = JoinSet::new();
    let mut tempo = interval(WRITE_EVERY);
    let (start, mut lost, mut first) = (Instant::now(), None::<Instant>, None::<Instant>);
    let (mut written, mut failures) = (0, 0);
    loop {
        tokio::select! {
            _ = tempo.tick() => {
                if lost.is_none() && start.elapsed() >= before {
                    lost = Some(Instant::now());
                    take_away()?;
                }
                if first.is_some_and(|first| first.elapsed() >= AFTER) {
                    break;
                }
                let client = survivors[written as usize % survivors.len()].clone();
                let number = written as usize;
                written += 1;
                under_way.spawn(async move {
                    let began = Instant::now();
                    let is_done = timeout(WRITE_MAX, client.put(number)).await.is_ok_and(|put| put.is_ok());
                    (began, Instant::now(), is_done)
                });
            }
            Some(ended) = under_way.join_next() => {
                let (began, ended, is_done) = ended.map_err(|error| failed(error.to_string()))?;
                failures += u32::from(!is_done);
                if is_done && lost.is_some_and(|lost| began >= lost) {
                    first = Some(first.map_or(ended, |first| first.min(ended)));
                }
            }
        }
    }
    while let Some(ended) = under_way.join_next().await {
        failures += u32::from(!ended.map_err(|error| failed(error.to_string()))?.2);
    }
    let took = first.zip(lost).map_or(Duration::ZERO, |(first, lost)| first - lost);
    Ok((took, written, failures))
}

/// Keeps every core busy for a while and counts how often our voters elected a leader although theirs was there.
async fn soak(bench: &Bench<'_>, timing: Timing, duration: Duration) -> Result<Section, BenchError> {
    let party = Party::new(Dialect::Ours, Trio::ours(bench, timing)?)?;
    party.settled().await?;
    let before = party.trio.elections();
    let stop = Arc::new(AtomicBool::new(false));
    let _idle_again = Idle(Arc::clone(&stop));
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    }
    let start = Instant::now();
    let mut times = Samples::default();
    while start.elapsed() < duration {
        bench.go_on()?;
        let left = humantime::format_duration(Duration::from_secs(duration.saturating_sub(start.elapsed()).as_secs()));
        let needless = party.trio.elections().saturating_sub(before);
        bench.say(&format!("all cores busy for {left} more, {needless} elections that nobody needed"));
        let step = Instant::now();
        while step.elapsed() < SOAK_STEP {
            let began = Instant::now();
            let put = timeout(WRITE_MAX, party.fronts[times.count() % party.fronts.len()].put(times.count())).await;
            if put.is_ok_and(|put| put.is_ok()) {
                times.time(began.elapsed());
            }
        }
    }
    let needless = u32::try_from(party.trio.elections().saturating_sub(before)).unwrap_or(u32::MAX);
    let title = format!("writes with all cores busy for {}", humantime::format_duration(duration));
    let section = Section::new(title, "ms", vec![Row::new("hearth", Role::Ours, &times)]);
    Ok(section.goal("needless elections", Some(f64::from(needless)), Side::AtMost, 0.0))
}

/// Lets the cores rest when it is dropped.
struct Idle(Arc<AtomicBool>);

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn failed(reason: String) -> BenchError {
    BenchError::Program { program: "a voter".to_owned(), reason }
}
