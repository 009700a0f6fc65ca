//! One voter and nothing else: what the benchmarks of the log measure, in a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use control_plane::codec;
use control_plane::model::NodeId;
use control_plane::raft::Timing;
use proto::v1;
use proto::v1::cluster_server::{Cluster, ClusterServer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::range::Ranges;
use crate::clock::Clock;
use crate::peering::{Dialer, take_plain};
use crate::raft::{Config, Peers, ProposeError, Raft, serve};

/// What a voter writes to its log whenever it comes to lead.
pub(super) const LEADS: &str = "this voter leads";

/// A voter to run.
#[derive(Clone, Debug)]
pub struct Voter {
    /// Which.
    pub node: NodeId,
    /// Where its log lies.
    pub dir: PathBuf,
    /// Where peers reach it, and clients if it leads.
    pub address: SocketAddr,
    /// Where clients reach it whether it leads or not.
    pub front: SocketAddr,
    /// Other voters that it takes in; without any, it waits to be taken in.
    pub others: Vec<(NodeId, SocketAddr)>,
    /// How soon it takes a silent leader for gone.
    pub timing: Timing,
}

impl Voter {
    /// Runs until `stop`. At the signal `USR1` it hands leadership over, if it leads.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut asked = signal(SignalKind::user_defined1())?;
        let listener = TcpListener::bind(self.address).await?;
        let front = TcpListener::bind(self.front).await?;
        let peers =
            Peers { dialer: Dialer::Plain, address: self.address.to_string(), is_joining: self.others.is_empty() };
        let config = Config { dir: self.dir, node: self.node, timing: self.timing };
        let raft = Raft::open(config, Some(peers), Clock::system()).await?;
        let peering = tokio::spawn(serve(take_plain(listener), raft.routes(), |_| true, stop.clone()));
        let serving = Server::builder()
            .add_service(ClusterServer::new(Front(raft.clone())))
            .add_service(Ranges(raft.clone()))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(front).with_nodelay(Some(true)),
                stop.clone().cancelled_owned(),
            );
        let serving = tokio::spawn(serving);
        let mut leads = raft.leadership();
        let telling = tokio::spawn(async move {
            while leads.wait_for(|leads| *leads).await.is_ok() {
                eprintln!("{LEADS}");
                if leads.wait_for(|leads| !*leads).await.is_err() {
                    return;
                }
            }
        });
        for (node, address) in &self.others {
            raft.admit(*node, &address.to_string()).await?;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(()) = asked.recv() => hand_over(&raft).await,
            }
        }
        telling.abort();
        raft.shutdown().await;
        peering.await??;
        serving.await??;
        Ok(())
    }
}

/// Hands leadership over to any other voter.
async fn hand_over(raft: &Raft) {
    let members = raft.members();
    if let Some(other) = members.voters.keys().find(|node| Some(**node) != members.leader)
        && let Err(error) = raft.hand_over(*other).await
    {
        eprintln!("leadership was not handed over: {error}");
    }
}

/// Takes writes from clients as a node does: whoever leads is found, and while nobody does they are held.
struct Front(Raft);

#[tonic::async_trait]
impl Cluster for Front {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        use v1::propose_reply::{Applied, Result as Wire};
        let command = request.into_inner().command.ok_or_else(|| Status::invalid_argument("there is no command"))?;
        let command = codec::decode_command(command).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let answer = match self.0.propose(command).await {
            Ok(reply) => Ok(reply),
            Err(ProposeError::Rejected(rejection)) => Err(rejection),
            Err(error) => return Err(Status::unavailable(error.to_string())),
        };
        let applied = Applied { index: self.0.metrics().applied, answer: Some(codec::encode_answer(&answer)) };
        Ok(Response::new(v1::ProposeReply { result: Some(Wire::Applied(applied)) }))
    }

    async fn read_index(&self, _: Request<v1::ReadIndexRequest>) -> Result<Response<v1::ReadIndexReply>, Status> {
        Err(Status::unimplemented("clients only write here"))
    }
}
