//! Three voters of ours and three of etcd under the same load, in turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use control_plane::raft::Timing;
use futures_util::future::try_join_all;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::client::{Client, Dialect, KEYS};
use super::driven::Driven;
use super::process_time::cpu_time;
use super::report::{Role, Row, Section};
use super::sample::Samples;
use super::trio::Trio;
use super::{Bench, BenchError, LOOK_EVERY, PATIENCE};

/// How long one turn of the load is.
const LOAD_TIME: Duration = Duration::from_secs(1);

/// Over how many connections clients come.
const CONNECTIONS: usize = 8;

/// How many first writes are under way at once.
const FIRST_WRITES: usize = 64;

/// How often one turn may lose its leader.
const TURNS_LOST_MAX: u32 = 5;

/// What clients do, each one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// They put values.
    Write,
    /// They read values that were put before.
    Read,
}

impl Work {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }

    async fn once(self, client: &Client, number: usize) -> Result<(), Status> {
        match self {
            Self::Write => client.put(number).await,
            Self::Read => client.get(number).await,
        }
    }
}

/// Lets `count` clients work on three voters of ours and on three of etcd in turns; none of them has a log of before.
pub(super) async fn contest(
    bench: &Bench<'_>,
    rounds: usize,
    title: String,
    work: Work,
    count: usize,
) -> Result<Section, BenchError> {
    bench.say(&format!("{count} clients: starting three voters, and three of etcd"));
    let mut ours = Party::gather(Dialect::Ours, Trio::ours(bench, Timing::default())?, work).await?;
    let mut etcd = match Trio::etcd()? {
        Some(trio) => Some(Party::gather(Dialect::Etcd, trio, work).await?),
        None => None,
    };
    for round in 0..=rounds {
        bench.say(&format!("{count} clients: {round} of {rounds} rounds"));
        for party in [Some(&mut ours), etcd.as_mut()].into_iter().flatten() {
            bench.go_on()?;
            // The first round warms up.
            party.take_turn(bench, count, round > 0).await?;
        }
    }
    let theirs = etcd.map_or_else(
        || Row::missing("etcd", Role::Peer, "etcd is not installed"),
        |party| party.driven.row("etcd", Role::Peer, work.as_str()),
    );
    Ok(Section::new(title, "1/s", vec![ours.driven.row("hearth", Role::Ours, work.as_str()), theirs]))
}

/// One side: its processes, the connections to its leader, and what came of it.
struct Party {
    dialect: Dialect,
    trio: Trio,
    work: Work,
    clients: Vec<Client>,
    driven: Driven,
}

impl Party {
    /// Waits until a leader takes writes, and connects to it.
    async fn gather(dialect: Dialect, trio: Trio, work: Work) -> Result<Self, BenchError> {
        let mut party = Self { dialect, trio, work, clients: Vec::new(), driven: Driven::default() };
        party.connect().await?;
        Ok(party)
    }

    /// Connects to whoever leads, once that one has taken the first writes where values are to be read.
    async fn connect(&mut self) -> Result<(), BenchError> {
        let connect = |address| Client::new(self.dialect, address).map_err(|error| failed(&error));
        let looking = async {
            loop {
                for (address, front) in self.trio.clients.iter().zip(&self.trio.fronts) {
                    let client = connect(*address)?;
                    if !client.is_leader().await {
                        continue;
                    }
                    match self.work {
                        Work::Write => return Ok::<_, BenchError>(*address),
                        Work::Read if write_first(&client).await.is_ok() => return Ok(*front),
                        // It leads no more.
                        Work::Read => {}
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let address =
            timeout(PATIENCE, looking).await.map_err(|_| BenchError::Timeout("three voters have a leader"))??;
        self.clients = (0..CONNECTIONS).map(|_| connect(address)).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Takes a turn, and takes it again where leadership moved before it was over; any other failure is one.
    async fn take_turn(&mut self, bench: &Bench<'_>, count: usize, counts: bool) -> Result<(), BenchError> {
        let mut lost = 0;
        while let Err(status) = self.turn(count, counts).await? {
            if status.code() != Code::Unavailable || lost == TURNS_LOST_MAX {
                return Err(failed(&status));
            }
            lost += 1;
            bench.say(&format!("the turn begins again: {}", status.message()));
            self.connect().await?;
        }
        Ok(())
    }

    /// Lets `count` clients work, each on one value after the other.
    async fn turn(&mut self, count: usize, counts: bool) -> Result<Result<(), Status>, BenchError> {
        let begun = Arc::new(AtomicUsize::new(0));
        let pids = self.trio.pids();
        let (before, start) = (cpu_time(&pids), Instant::now());
        let mut workers = JoinSet::new();
        for number in 0..count {
            let (client, work) = (self.clients[number % CONNECTIONS].clone(), self.work);
            let begun = Arc::clone(&begun);
            workers.spawn(async move {
                let mut times = Samples::default();
                while start.elapsed() < LOAD_TIME {
                    let began = Instant::now();
                    work.once(&client, begun.fetch_add(1, Ordering::Relaxed)).await?;
                    times.time(began.elapsed());
                }
                Ok::<_, Status>(times)
            });
        }
        let mut latencies = Samples::default();
        while let Some(ended) = workers.join_next().await {
            match ended.map_err(|error| failed(&error))? {
                Ok(times) => latencies.extend(times),
                Err(status) => return Ok(Err(status)),
            }
        }
        let (elapsed, spent) = (start.elapsed(), cpu_time(&pids).saturating_sub(before));
        if counts {
            let count = f64::from(u32::try_from(latencies.count()).unwrap_or(u32::MAX));
            self.driven.add(count / elapsed.as_secs_f64(), spent, latencies);
        }
        Ok(Ok(()))
    }
}

/// Writes every value that is to be read.
async fn write_first(client: &Client) -> Result<(), Status> {
    for first in (0..KEYS).step_by(FIRST_WRITES) {
        try_join_all((first..first + FIRST_WRITES).map(|number| client.put(number))).await?;
    }
    Ok(())
}

fn failed(error: &dyn std::error::Error) -> BenchError {
    BenchError::Program { program: "a voter".to_owned(), reason: error.to_string() }
}
