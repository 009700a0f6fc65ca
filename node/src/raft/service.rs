//! Messages from peers.

use std::io;
use std::pin::Pin;

use control_plane::codec;
use control_plane::raft::{AnswerError, Disk, Proposal, Replica, TransportError, View, write};
use futures_util::{Stream, StreamExt};
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::impls::TokioRuntime;
use openraft::raft::ReadPolicy;
use proto::v1;
use proto::v1::cluster_server::{Cluster, ClusterServer};
use proto::v1::raft_server::{Raft as Service, RaftServer};
use tokio_util::sync::CancellationToken;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::{Core, T};
use crate::auth::PeerId;
use crate::clock::Clock;
use crate::peering::{Caller, PeerStream};

/// How long a message may be, in bytes: one entry, or a part of a snapshot.
pub const MESSAGE_MAX_BYTES: usize = 64 << 20;

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
    view: View,
    clock: Clock,
}

impl Leader {
    pub(super) fn new(core: Core, view: View, clock: Clock) -> Self {
        Self { core, view, clock }
    }
}

#[tonic::async_trait]
impl Cluster for Leader {
    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeReply>, Status> {
        use v1::propose_reply::{Applied, Result as Wire};
        let v1::ProposeRequest { command, ticket } = request.into_inner();
        let command = command.ok_or_else(|| Status::invalid_argument("there is no command"))?;
        let command = codec::decode_command(command).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let proposal = Proposal { at: self.clock.now(), command, ticket: ticket.map(codec::decode_ticket) };
        let result = match write(&self.core, &self.view, proposal).await {
            Ok(Err(rejection)) => Wire::Refused(codec::encode_rejection(&rejection)),
            Ok(Ok(written)) => Wire::Applied(Applied {
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

/// Returns the services of one voter.
pub(super) fn routes<D: Disk>(replica: Replica<TokioRuntime, D>, leader: Leader) -> Routes {
    let consensus = RaftServer::new(Answering(replica))
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    let leader = ClusterServer::new(leader)
        .max_decoding_message_size(MESSAGE_MAX_BYTES)
        .max_encoding_message_size(MESSAGE_MAX_BYTES);
    Routes::new(consensus).add_service(leader)
}

/// Answers whoever comes in with services, until `stop`.
///
/// `admits` is asked about the caller of every request: a connection outlives the membership of who made it.
pub async fn serve(
    incoming: impl Stream<Item = PeerStream> + Send + 'static,
    routes: Routes,
    admits: impl Fn(Option<PeerId>) -> bool + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let check = InterceptorLayer::new(move |request: Request<()>| {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0);
        if admits(caller) { Ok(request) } else { Err(Status::permission_denied("this node is not a member any more")) }
    });
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(super::transport::STREAM_WINDOW)
        .initial_connection_window_size(super::transport::CONNECTION_WINDOW)
        .layer(check)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming.map(Ok::<_, io::Error>), stop.cancelled_owned());
    serving.await.map_err(ServeError)
}

/// Why peers are not answered.
#[derive(Debug, thiserror::Error)]
#[error("peers are not answered any more")]
pub struct ServeError(#[source] tonic::transport::Error);
