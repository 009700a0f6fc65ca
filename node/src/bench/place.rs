//! `hearth bench place`: from a demand for instances to placements that three voters have agreed on and kept.
//!
//! This process leads, as a node does: the controller plans and proposes, the log syncs, and the state applies. The two other voters
//! are processes of their own on the same disk. The nodes that instances are placed on are [pretended](super::fleet): they start
//! nothing, and say of everything that it is ready.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use control_plane::model::{FunctionName, FunctionSpec, NodeId, Purpose, Scaling, Spread};
use control_plane::raft::Timing;
use control_plane::state::{Command, Reply, State};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fleet::{placed_after, speak};
use super::plan::{function, machine};
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::trio::Trio;
use super::{Bench, BenchError, PATIENCE, io_at};
use crate::clock::Clock;
use crate::cluster::Suspects;
use crate::leader;
use crate::peering::{Dialer, take_plain};
use crate::raft::{Config, Peers, Raft, serve};
use crate::telemetry::EventLog;

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 10;

/// How many nodes are pretended.
const NODES: u32 = 1_000;

/// Functions that have instances already, and how many each.
const SETTLED: (u32, u32) = (12, 250);

/// How many instances are demanded at once to see how many a second are placed.
const BURST: u32 = 1_000;

/// How many demands there are at a steady pace, how many instances each, and the time from one to the next.
const DEMANDS: u32 = 100;
const DEMAND: u32 = 100;
const DEMAND_EVERY: Duration = Duration::from_millis(10);

/// How many placements a second there are to be.
const RATE_MIN: f64 = 10_000.0;

/// How long the 99th of a hundred placements may take from its demand, in milliseconds.
const LATENCY_MAX: f64 = 50.0;

/// Proposals that are under way at once while the cluster is set up.
const AT_ONCE: usize = 64;

/// How long nothing must be applied until the cluster counts as quiet: grants are topped up within 250 ms.
const QUIET: Duration = Duration::from_millis(400);

/// How soon voters take a silent leader for gone: late, because nobody is lost here and all share one machine.
const TIMING: Timing = Timing { heartbeat_ms: 50, election_min_ms: 1_000, election_max_ms: 2_000 };

/// Beats that may wait for the controller.
const BEATS_MAX: usize = 1024;

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    bench.say(&format!("three voters, and {NODES} nodes that are pretended"));
    let trio = Trio::followers(bench, TIMING)?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let cluster = Cluster::found(&trio, &stop).await?;
    cluster.fill().await?;
    let (mut rates, mut latencies, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    for round in 0..=rounds {
        bench.go_on()?;
        bench.say(&format!("{round} of {rounds} rounds"));
        let rate = cluster.burst().await?;
        let (paced, demands) = cluster.paced().await?;
        // The first round warms up.
        if round > 0 {
            rates.push(rate);
            latencies.extend(paced);
            floor.extend(demands);
        }
    }
    cluster.raft.shutdown().await;
    let title = format!("placements a second from a demand for {BURST} to the last commit, {NODES} nodes, spread zone");
    let rows = vec![
        Row::new("hearth", Role::Ours, &rates),
        Row::published("Dirigent", 2_500.0, "sandboxes a second by its paper, on other machines"),
        Row::published("Nomad", 3_750.0, "allocations a second as published, on other machines"),
    ];
    let placed = Section::new(title, "1/s", rows);
    let median = placed.median("hearth");
    let placed = placed.goal("placements a second", median, Side::AtLeast, RATE_MIN);
    let rate = f64::from(DEMAND) / DEMAND_EVERY.as_secs_f64();
    let title = format!("from demand to commit, {rate} placements a second demanded, {DEMAND} at a time");
    let rows = vec![
        Row::new("hearth", Role::Ours, &latencies),
        Row::new("the entry of the demand alone", Role::Floor, &floor),
    ];
    let paced = Section::new(title, "ms", rows);
    let worst = paced.row("hearth").and_then(|row| row.p99);
    Ok(bench.report("place", rounds, vec![placed, paced.goal("p99", worst, Side::AtMost, LATENCY_MAX)]))
}

/// A cluster that this process leads.
struct Cluster {
    raft: Raft,
}

impl Cluster {
    /// Founds it with two voters that wait to be taken in.
    async fn found(followers: &Trio, stop: &CancellationToken) -> Result<Self, BenchError> {
        let what = io_at("the leader cannot be started");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(&what)?;
        let address = listener.local_addr().map_err(&what)?.to_string();
        let config = Config { dir: followers.folder().join("leader"), node: NodeId(1), timing: TIMING };
        let peers = Peers { dialer: Dialer::Plain, address, is_joining: false };
        let clock = Clock::system();
        let raft = Raft::open(config, Some(peers), clock.clone()).await.map_err(|error| failed(&error))?;
        tokio::spawn(serve(take_plain(listener), raft.routes(), |_| true, stop.clone()));
        for (number, address) in (1..).zip(&followers.clients).skip(1) {
            raft.admit(NodeId(number), &address.to_string()).await.map_err(|error| failed(&error))?;
        }
        let (beats_tx, beats) = mpsc::channel(BEATS_MAX);
        leader::start(NodeId(1), raft.clone(), clock, EventLog::new(), beats, Suspects::default(), stop.clone());
        tokio::spawn(speak(raft.clone(), beats_tx));
        Ok(Self { raft })
    }

    /// Registers the nodes, deploys the functions, and waits until everything is as it is to be.
    async fn fill(&self) -> Result<(), BenchError> {
        let registrations =
            (1..=NODES).map(|number| Command::RegisterNode { node: NodeId(number), spec: machine(number) });
        self.propose_all(registrations.collect()).await?;
        let (settled, instances) = SETTLED;
        let mut functions = vec![demanded(burst_name()?, 0)?];
        for number in 0..DEMANDS {
            functions.push(demanded(paced_name(number)?, number)?);
        }
        for number in 0..settled {
            let mut spec = demanded(format!("settled-{number}").parse().map_err(|error| failed(&error))?, number)?;
            spec.scaling = scaling(instances)?;
            functions.push(spec);
        }
        let app = "bench".parse().map_err(|error| failed(&error))?;
        self.propose(Command::DeployApp { app, functions, check_index: None }).await?;
        let proven = |state: &State| state.functions.values().all(|function| function.live.is_some());
        self.until("the functions are live", proven).await?;
        self.until_minimums(settled * instances).await
    }

    /// Demands many instances of one function and returns how many a second were placed.
    async fn burst(&self) -> Result<f64, BenchError> {
        let (name, before) = (burst_name()?, self.placed_last());
        let began = Instant::now();
        let placing = tokio::spawn(placed(self.raft.clone(), before, BURST));
        self.scale(name.clone(), BURST).await?;
        let seen = self.waited(placing).await?;
        let took = seen.last().map_or(PATIENCE, |(_, at)| *at - began);
        self.scale(name, 0).await?;
        self.until_minimums(SETTLED.0 * SETTLED.1).await?;
        Ok(f64::from(BURST) / took.as_secs_f64())
    }

    /// Demands instances at a steady pace; returns how long each took to be placed, and each demand to be heard.
    async fn paced(&self) -> Result<(Samples, Samples), BenchError> {
        let before = self.placed_last();
        let placing = tokio::spawn(placed(self.raft.clone(), before, DEMANDS * DEMAND));
        let mut tempo = interval(DEMAND_EVERY);
        let (mut demands, mut due) = (JoinSet::new(), BTreeMap::new());
        for number in 0..DEMANDS {
            // What comes late because this process was busy has waited since it was due.
            let at = tempo.tick().await.into_std();
            let name = paced_name(number)?;
            due.insert(name.clone(), at);
            let demand = Command::Scale { function: name, change: scaling(DEMAND)?.into() };
            let raft = self.raft.clone();
            demands.spawn(async move { raft.propose(demand).await.map(|_| at.elapsed()) });
        }
        let (mut latencies, mut heard) = (Samples::default(), Samples::default());
        while let Some(ended) = demands.join_next().await {
            heard.time(ended.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?);
        }
        for (name, at) in self.waited(placing).await? {
            latencies.time(at - due.get(&name).copied().unwrap_or(at));
        }
        let back =
            (0..DEMANDS).map(|number| Ok(Command::Scale { function: paced_name(number)?, change: scaling(0)?.into() }));
        self.propose_all(back.collect::<Result<_, BenchError>>()?).await?;
        self.until_minimums(SETTLED.0 * SETTLED.1).await?;
        Ok((latencies, heard))
    }

    /// Waits for what [`placed`] is to see.
    async fn waited<T>(&self, placing: JoinHandle<T>) -> Result<T, BenchError> {
        match timeout(PATIENCE, placing).await {
            Ok(seen) => seen.map_err(|error| failed(&error)),
            Err(_) if self.raft.is_leader() => Err(BenchError::Timeout("what is demanded is placed")),
            Err(_) => Err(BenchError::Timeout("this process leads no more, the machine is too busy to measure")),
        }
    }

    fn placed_last(&self) -> u32 {
        self.raft.read(|state| state.placed_last)
    }

    async fn scale(&self, function: FunctionName, min: u32) -> Result<(), BenchError> {
        self.propose(Command::Scale { function, change: scaling(min)?.into() }).await.map(drop)
    }

    async fn propose(&self, command: Command) -> Result<Reply, BenchError> {
        self.raft.propose(command).await.map_err(|error| failed(&error))
    }

    async fn propose_all(&self, commands: Vec<Command>) -> Result<(), BenchError> {
        for some in commands.chunks(AT_ONCE) {
            let proposals = some.iter().map(|command| self.propose(command.clone()));
            futures_util::future::try_join_all(proposals).await?;
        }
        Ok(())
    }

    /// Waits until exactly so many minimums are placed, and nothing happens any more.
    async fn until_minimums(&self, count: u32) -> Result<(), BenchError> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let has_them = |state: &State| {
            let placements = state.placements.values();
            placements.filter(|placement| placement.purpose == Purpose::Minimum).count() == count
        };
        self.until("the minimums are placed", has_them).await?;
        let quiet = async {
            let mut changes = self.raft.changes();
            while timeout(QUIET, changes.changed()).await.is_ok() {}
        };
        timeout(PATIENCE, quiet).await.map_err(|_| BenchError::Timeout("the cluster comes to rest"))
    }

    async fn until(&self, what: &'static str, holds: impl Fn(&State) -> bool) -> Result<(), BenchError> {
        let waiting = async {
            while !self.raft.read(&holds) {
                sleep(QUIET / 4).await;
            }
        };
        timeout(PATIENCE, waiting).await.map_err(|_| BenchError::Timeout(what))
    }
}

/// Waits until `count` instances are placed after the `last`, and tells of each whose it is and when it was seen.
async fn placed(raft: Raft, mut last: u32, count: u32) -> Vec<(FunctionName, Instant)> {
    let mut changes = raft.changes();
    let mut seen = Vec::new();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    loop {
        raft.read(|state| {
            let now = Instant::now();
            let fresh = placed_after(state, last).filter(|(_, placement)| placement.purpose == Purpose::Minimum);
            seen.extend(fresh.map(|(_, placement)| (placement.revision.function.clone(), now)));
            last = state.placed_last;
        });
        if seen.len() >= count || changes.changed().await.is_err() {
            return seen;
        }
    }
}

fn burst_name() -> Result<FunctionName, BenchError> {
    "burst".parse().map_err(|error| failed(&error))
}

fn paced_name(number: u32) -> Result<FunctionName, BenchError> {
    format!("paced-{number}").parse().map_err(|error| failed(&error))
}

/// Returns a function that has no instances until they are demanded.
fn demanded(name: FunctionName, number: u32) -> Result<FunctionSpec, BenchError> {
    Ok(FunctionSpec { scaling: scaling(0)?, ..function(name, number, Spread::Zone)? })
}

fn scaling(min: u32) -> Result<Scaling, BenchError> {
    Scaling::new(min, 10_000, Duration::from_secs(60)).map_err(|error| failed(&error))
}

fn failed(error: &dyn std::error::Error) -> BenchError {
    BenchError::Program { program: "the cluster".to_owned(), reason: error.to_string() }
}
