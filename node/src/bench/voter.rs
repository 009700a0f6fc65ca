//! One voter and nothing else: what `hearth bench commits` measures, in a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use control_plane::model::NodeId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::peering::{Dialer, take_plain};
use crate::raft::{Config, Peers, Raft, serve};

/// A voter to run.
#[derive(Clone, Debug)]
pub struct Voter {
    /// Which.
    pub node: NodeId,
    /// Where its log lies.
    pub dir: PathBuf,
    /// Where peers and clients reach it.
    pub address: SocketAddr,
    /// Other voters that it takes in; without any, it waits to be taken in.
    pub others: Vec<(NodeId, SocketAddr)>,
}

impl Voter {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let peers =
            Peers { dialer: Dialer::Plain, address: self.address.to_string(), is_joining: self.others.is_empty() };
        let config = Config { dir: self.dir, node: self.node };
        let raft = Raft::open(config, Some(peers), Clock::system()).await?;
        let serving = tokio::spawn(serve(take_plain(listener), raft.routes(), |_| true, stop.clone()));
        for (node, address) in &self.others {
            raft.admit(*node, &address.to_string()).await?;
        }
        stop.cancelled().await;
        raft.shutdown().await;
        serving.await??;
        Ok(())
    }
}
