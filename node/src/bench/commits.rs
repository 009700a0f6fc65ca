//! `hearth bench commits`: writes that three voters have agreed on and kept, beside etcd.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use control_plane::raft::Timing;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::driven::Driven;
use super::process_time::cpu_time;
use super::put::{Client, Dialect};
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::trio::Trio;
use super::{Bench, BenchError, LOOK_EVERY, PATIENCE, folder_in, io_at};

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 5;

/// How long one turn of the load is.
const LOAD_TIME: Duration = Duration::from_secs(1);

/// How many clients write at once, and how many times as many writes as etcd's are to come of it.
const CLIENTS: [(usize, f64); 3] = [(1, 1.0), (64, 2.0), (1024, 1.5)];

/// Over how many connections they write.
const CONNECTIONS: usize = 8;

/// How many bytes the floor writes before it syncs.
const FLOOR_BYTES: usize = 128;

/// One side: its processes, the connections to its leader, and what came of it.
struct Party {
    trio: Trio,
    clients: Vec<Client>,
    driven: Driven,
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut sections = vec![floor(bench, rounds)?];
    for (count, goal) in CLIENTS {
        // New ones for each: none pays for what the others have left in its log.
        bench.say(&format!("{count} clients: starting three voters, and three of etcd"));
        let mut ours = Party::gather(Dialect::Ours, Trio::ours(bench, Timing::default())?).await?;
        let mut etcd = match Trio::etcd()? {
            Some(trio) => Some(Party::gather(Dialect::Etcd, trio).await?),
            None => None,
        };
        for round in 0..=rounds {
            bench.say(&format!("{count} clients: {round} of {rounds} rounds"));
            for party in [Some(&mut ours), etcd.as_mut()].into_iter().flatten() {
                bench.go_on()?;
                // The first round warms up.
                party.turn(count, round > 0).await?;
            }
        }
        let title = format!("writes a second that three voters have synced, {count} clients");
        let theirs = etcd.map_or_else(
            || Row::missing("etcd", Role::Peer, "etcd is not installed"),
            |party| party.driven.row("etcd", Role::Peer, "write"),
        );
        let section = Section::new(title, "1/s", vec![ours.driven.row("hearth", Role::Ours, "write"), theirs]);
        let times = section.ratio("etcd").map(|ratio| 1.0 / ratio);
        sections.push(section.goal("times etcd's writes", times, Side::AtLeast, goal));
    }
    Ok(bench.report("commits", rounds, sections))
}

impl Party {
    /// Waits until a leader takes writes, and connects to it.
    async fn gather(dialect: Dialect, trio: Trio) -> Result<Self, BenchError> {
        let failed = |error: tonic::transport::Error| BenchError::Program {
            program: "a voter".to_owned(),
            reason: error.to_string(),
        };
        let looking = async {
            loop {
                for address in &trio.clients {
                    let client = Client::new(dialect, *address).map_err(failed)?;
                    if client.is_leader().await {
                        return Ok::<_, BenchError>(*address);
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let leader =
            timeout(PATIENCE, looking).await.map_err(|_| BenchError::Timeout("three voters have a leader"))??;
        let clients =
            (0..CONNECTIONS).map(|_| Client::new(dialect, leader)).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { trio, clients, driven: Driven::default() })
    }

    /// Lets `count` clients write, each one value after the other.
    async fn turn(&mut self, count: usize, counts: bool) -> Result<(), BenchError> {
        let written = Arc::new(AtomicUsize::new(0));
        let pids = self.trio.pids();
        let (before, start) = (cpu_time(&pids), Instant::now());
        let mut writers = JoinSet::new();
        for number in 0..count {
            let (client, written) = (self.clients[number % CONNECTIONS].clone(), Arc::clone(&written));
            writers.spawn(async move {
                let mut times = Samples::default();
                while start.elapsed() < LOAD_TIME {
                    let began = Instant::now();
                    client.put(written.fetch_add(1, Ordering::Relaxed)).await?;
                    times.time(began.elapsed());
                }
                Ok::<_, tonic::Status>(times)
            });
        }
        let mut latencies = Samples::default();
        while let Some(ended) = writers.join_next().await {
            let times = ended.map_err(|error| error.to_string()).and_then(|times| times.map_err(|s| s.to_string()));
            latencies.extend(times.map_err(|reason| BenchError::Program { program: "a voter".to_owned(), reason })?);
        }
        let (elapsed, spent) = (start.elapsed(), cpu_time(&pids).saturating_sub(before));
        if counts {
            let count = f64::from(u32::try_from(latencies.count()).unwrap_or(u32::MAX));
            self.driven.add(count / elapsed.as_secs_f64(), spent, latencies);
        }
        Ok(())
    }
}

/// What the disk needs to keep one small write.
fn floor(bench: &Bench<'_>, rounds: usize) -> Result<Section, BenchError> {
    let what = io_at("the disk cannot be measured");
    bench.go_on()?;
    bench.say("the disk by itself");
    let folder = folder_in(std::env::temp_dir()).map_err(&what)?;
    let mut file = OpenOptions::new().create_new(true).append(true).open(folder.path().join("log")).map_err(&what)?;
    let mut samples = Samples::default();
    for _ in 0..rounds * 200 {
        let began = Instant::now();
        file.write_all(&[7; FLOOR_BYTES]).and_then(|()| file.sync_data()).map_err(&what)?;
        samples.time(began.elapsed());
    }
    let rows = vec![Row::new("write and fdatasync", Role::Floor, &samples)];
    Ok(Section::new("one small write on one disk, by itself", "ms", rows))
}
