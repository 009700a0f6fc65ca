//! What benchmarks take, and the voters that some of them measure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use control_plane::raft::Timing;

use super::args::Format;

#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  hearth bench cold                 first bytes and first answers, beside crun and runc\n  hearth bench warm --rounds 20     what the gateway adds, beside nginx\n  hearth bench memory -o json       for a program to read"
)]
pub(super) struct Bench {
    #[command(subcommand)]
    pub(super) kind: BenchKind,
}

#[derive(Debug, Subcommand)]
pub(super) enum BenchKind {
    /// From nothing to a first byte beside other OCI runtimes, and to a first answer.
    #[command(before_help = "Examples:\n  hearth bench cold\n  hearth bench cold --rounds 10 -o json")]
    Cold(BenchOptions),
    /// A hundred and five hundred first calls at once.
    #[command(before_help = "Examples:\n  hearth bench burst\n  hearth bench burst --rounds 1 -o json")]
    Burst(BenchOptions),
    /// What the gateway adds to a call, and requests a second beside nginx.
    #[command(before_help = "Examples:\n  hearth bench warm\n  hearth bench warm --rounds 30 -o json")]
    Warm(BenchOptions),
    /// What the way through a second node adds to a warm call, over mutual TLS and without; needs no root.
    #[command(before_help = "Examples:\n  hearth bench hop\n  hearth bench hop --rounds 100 -o json")]
    Hop(BenchOptions),
    /// Writes that three voters have agreed on and kept, beside etcd; needs no root.
    #[command(before_help = "Examples:\n  hearth bench commits\n  hearth bench commits --rounds 20 -o json")]
    Commits(BenchOptions),
    /// Reads that see all that was acknowledged before them, beside etcd; needs no root.
    #[command(before_help = "Examples:\n  hearth bench reads\n  hearth bench reads --rounds 20 -o json")]
    Reads(BenchOptions),
    /// Placements a second of the planner, beside a bare look at every node; needs no root.
    #[command(before_help = "Examples:\n  hearth bench plan\n  hearth bench plan --rounds 20 -o json")]
    Plan(BenchOptions),
    /// From a demand for instances to placements that three voters have kept; needs no root.
    #[command(before_help = "Examples:\n  hearth bench place\n  hearth bench place --rounds 50 -o json")]
    Place(BenchOptions),
    /// From the loss of a leader to the next write, beside etcd; needs no root.
    #[command(
        before_help = "Examples:\n  hearth bench failover\n  hearth bench failover --rounds 50 -o json\n  hearth bench failover --rounds 1 --soak 30m      elections that nobody needed, with all cores busy"
    )]
    Failover(FailoverOptions),
    /// From the loss of a host until nobody calls it, and until others serve instead.
    #[command(before_help = "Examples:\n  hearth bench death\n  hearth bench death --rounds 30 -o json")]
    Death(BenchOptions),
    /// What the daemon, a blank sandbox and an idle instance hold.
    #[command(before_help = "Examples:\n  hearth bench memory\n  hearth bench memory --rounds 1 -o json")]
    Memory(BenchOptions),
}

#[derive(Debug, Args)]
pub(super) struct BenchOptions {
    /// How often each thing is measured; each benchmark has a number of its own otherwise.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) rounds: Option<u32>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

#[derive(Debug, Args)]
pub(super) struct BenchVoter {
    /// Which voter it is.
    #[arg(long)]
    pub(super) node: u32,
    /// Where its log lies.
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// Where others reach it.
    #[arg(long)]
    pub(super) address: SocketAddr,
    /// Where clients reach it whether it leads or not.
    #[arg(long)]
    pub(super) front: SocketAddr,
    /// Another voter to take in.
    #[arg(long, value_parser = numbered_address)]
    pub(super) admit: Vec<(u32, SocketAddr)>,
    #[command(flatten)]
    pub(super) timing: TimingOptions,
}

#[derive(Debug, Args)]
pub(super) struct FailoverOptions {
    #[command(flatten)]
    pub(super) options: BenchOptions,
    #[command(flatten)]
    pub(super) timing: TimingOptions,
    /// Keep all cores busy for so long and count the elections.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(super) soak: Option<Duration>,
}

/// How soon voters take a silent leader for gone.
#[derive(Debug, Args)]
pub(super) struct TimingOptions {
    /// Milliseconds between heartbeats.
    #[arg(long, default_value_t = Timing::default().heartbeat_ms)]
    heartbeat_ms: u64,
    /// Milliseconds until an election, as MIN-MAX.
    #[arg(long, value_parser = span)]
    election_ms: Option<(u64, u64)>,
}

impl TimingOptions {
    pub(super) fn timing(&self) -> Timing {
        let usual = Timing::default();
        let (election_min_ms, election_max_ms) =
            self.election_ms.unwrap_or((usual.election_min_ms, usual.election_max_ms));
        Timing { heartbeat_ms: self.heartbeat_ms, election_min_ms, election_max_ms }
    }
}

/// Reads `MIN-MAX`.
fn span(text: &str) -> Result<(u64, u64), String> {
    let (min, max) = text.split_once('-').ok_or("it is written MIN-MAX")?;
    Ok((min.parse().map_err(|_| "the least is a number")?, max.parse().map_err(|_| "the most is a number")?))
}

/// Reads `NODE=ADDRESS`.
fn numbered_address(text: &str) -> Result<(u32, SocketAddr), String> {
    let (node, address) = text.split_once('=').ok_or("it is written NODE=ADDRESS")?;
    Ok((node.parse().map_err(|_| "the node is a number")?, address.parse().map_err(|_| "the address is HOST:PORT")?))
}
