//! What the benchmarks of voters take, and the voters themselves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use control_plane::raft::Timing;

use super::args::BenchOptions;

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
