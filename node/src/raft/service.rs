//! Messages from peers.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use control_plane::codec;
use control_plane::raft::{AnswerError, Disk, Proposal, Replica, TransportError};
use futures_util::{Stream, StreamExt};
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::impls::TokioRuntime;
use openraft::raft::ReadPolicy;
use proto::v1;
use proto::v1::cluster_server::{Cluster, ClusterServer};
use proto::v1::raft_server::{Raft as Service, RaftServer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::{Core, T};
use crate::clock::Clock;

/// How long a message may be, in bytes: one entry, or a part of a snapshot.
pub(super) const MESSAGE_MAX_BYTES: usize = 64 << 20;

/// How many streams and calls one connection carries at once.
const STREAMS_MAX: u32 = 256;

/// Answers the peers of one voter.
struct Answering<D: Disk>(Replica<TokioRuntime, D>);

#[tonic::async_trait]
impl<D: Disk> Service for Answering<D> {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<v1::AppendReply, Status>> + Send>>;

    async fn call(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftReply>, Status> {
        self.0.answer(request.into_inner()).await.map(Response::new).map_err(|error| match error {
            AnswerError::Malformed(_) | AnswerError::Snapshot(_) => Status::invalid_argument(error.to_string()),
            AnswerError::Stopped(_) => Status::failed_precondition(error.to_string()),
        })
    }

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        // A stream that breaks has ended; its sender knows why.
        let requests = request.into_inner().scan((), |(), request| std::future::ready(request.ok()));
        let answers = self.0.answer_appends(requests);
        Ok(Response::new(Box::pin(
            answers
                .map(|answer| answer.map_err(|error: TransportError| Status::failed_precondition(error.to_string()))),
        )))
    }
}

/// Does what only a leader does, for peers that do not lead.
pub(super) struct Leader {
    core: Core,
    clock: Clock,
}

impl Leader {
    pub(super) fn new(core: Core, clock: Clock) -> Self {
        Self { core, clock }
    }
}

#[tonic::async_trait]
impl Cluster for Leader {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        use v1::propose_reply::{Applied, Result as Wire};
        let command = request.into_inner().command.ok_or_else(|| Status::invalid_argument("there is no command"))?;
        let command = codec::decode_command(command).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let proposal = Proposal { at: self.clock.now(), command };
        let result = match self.core.client_write(proposal).await {
            Ok(written) => Wire::Applied(Applied {
                index: written.log_id.index,
                answer: written.data.as_ref().map(codec::encode_answer),
            }),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Wire::NotLeader(not_leader(&forward))
            }
            Err(error) => return Err(Status::failed_precondition(error.to_string())),
        };
        Ok(Response::new(v1::ProposeReply { result: Some(result) }))
    }

    async fn read_index(
        &self,
        _request: Request<v1::ReadIndexRequest>,
    ) -> Result<Response<v1::ReadIndexReply>, Status> {
        use v1::read_index_reply::Result as Wire;
        let result = match self.core.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((id, _)) => Wire::Index(id.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Wire::NotLeader(not_leader(&forward))
            }
            // A quorum did not answer in time: the caller may ask again.
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Wire::NotLeader(v1::NotLeader { leader: 0 })
            }
            Err(error) => return Err(Status::failed_precondition(error.to_string())),
        };
        Ok(Response::new(v1::ReadIndexReply { result: Some(result) }))
    }
}

fn not_leader(forward: &ForwardToLeader<T>) -> v1::NotLeader {
    v1::NotLeader { leader: forward.leader_id.unwrap_or(0) }
}

/// Answers peers on `listener` until `stop`.
pub(super) async fn serve<D: Disk>(
    listener: TcpListener,
    replica: Replica<TokioRuntime, D>,
    leader: Leader,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let address = listener.local_addr()?;
    let service = RaftServer::new(Answering(replica))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(super::transport::STREAM_WINDOW)
        .initial_connection_window_size(super::transport::CONNECTION_WINDOW)
        .add_service(service)
        .add_service(ClusterServer::new(leader))
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
    serving.await.map_err(|source| ServeError::Stopped { address, source })
}

/// Why peers are not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// The listener is not usable.
    #[error("the listener for peers cannot be used")]
    Listener(#[from] io::Error),
    /// The server has stopped by itself.
    #[error("peers are not answered any more at {address}")]
    Stopped {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
}
