//! openraft's network over a [`Transport`]: messages, guarded streams of entries, snapshots in parts.

use std::fmt;
use std::future::{Future, ready};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftTypeConfig};
use openraft_rt::AsyncRuntime;
use proto::v1;
use proto::v1::raft_reply::Reply;
use proto::v1::raft_request::Request;

use super::append::Guard;
use super::learner::Pace;
use super::transport::{Appends, Lane, Peer, Transport, TransportError};
use super::{Types, View, Vote, message, parts};
use crate::codec::DecodeError;

/// How long it takes until a stream is opened again to a peer that cannot be reached: a refusal comes at once, and a leader
/// whose followers are down would ask without a pause.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);

/// Makes openraft's ways to peers out of a transport's.
#[derive(Clone)]
pub struct Network<T> {
    transport: T,
    view: View,
}

impl<T> Network<T> {
    /// Returns a network over a transport; `view` is what this node has applied, which tells learners from voters.
    pub fn new(transport: T, view: View) -> Self {
        Self { transport, view }
    }
}

impl<T> fmt::Debug for Network<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// openraft's way to one peer.
pub struct Link<P> {
    peer: P,
    /// Which heartbeats go out, where this is a way for them.
    pace: Option<Pace>,
}

impl<P> fmt::Debug for Link<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

/// Why a peer gave no answer, before it is said in openraft's words.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the peer's answer makes no sense")]
    Decode(#[from] DecodeError),
    #[error("a learner needs no heartbeat yet")]
    NotDue,
}

impl AskError {
    /// After a timeout openraft asks again at once, for it has waited; after anything else it pauses first.
    fn into_rpc<C: RaftTypeConfig>(self) -> RPCError<C> {
        match self {
            Self::Transport(TransportError::Timeout(_)) => RPCError::Network(NetworkError::new(&self)),
            Self::Transport(_) | Self::Decode(_) | Self::NotDue => RPCError::Unreachable(Unreachable::new(&self)),
        }
    }

    fn into_streaming<C: RaftTypeConfig>(self) -> StreamingError<C> {
        match self {
            Self::Transport(TransportError::Timeout(_)) => StreamingError::Network(NetworkError::new(&self)),
            Self::Transport(_) | Self::Decode(_) | Self::NotDue => StreamingError::Unreachable(Unreachable::new(&self)),
        }
    }
}

impl<RT: AsyncRuntime, T: Transport> RaftNetworkFactory<Types<RT>> for Network<T> {
    type Network = Link<T::Peer>;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link<T::Peer> {
        Link { peer: self.transport.peer(target, &node.addr, Lane::Entries), pace: None }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Link<T::Peer> {
        let pace = Some(Pace::new(target, self.view.clone()));
        Link { peer: self.transport.peer(target, &node.addr, Lane::Urgent), pace }
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Link<T::Peer> {
        Link { peer: self.transport.peer(target, &node.addr, Lane::Snapshot), pace: None }
    }
}

impl<P: Peer> Link<P> {
    /// Asks once; the answer is overdue after `limit`, whatever the transport does.
    async fn ask<RT: AsyncRuntime>(&self, request: Request, limit: Duration) -> Result<Reply, AskError> {
        let asked = self.peer.call(v1::RaftRequest { request: Some(request) }, limit);
        let answered = RT::timeout(limit, asked).await.map_err(|_| TransportError::Timeout(limit))?;
        Ok(answered?.reply.ok_or(DecodeError::Missing("reply"))?)
    }

    async fn ask_vote<RT: AsyncRuntime>(
        &self,
        request: Request,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<RT>>, RPCError<Types<RT>>> {
        let reply = self.ask::<RT>(request, option.hard_ttl()).await.map_err(AskError::into_rpc)?;
        let Reply::Vote(reply) = reply else { return Err(unexpected().into_rpc()) };
        message::parse_vote_reply(reply).map_err(|error| AskError::from(error).into_rpc())
    }

    async fn open<'s, RT: AsyncRuntime>(
        &'s self,
        appends: Appends,
        option: RPCOption,
    ) -> Result<BoxStream<'s, Result<StreamAppendResult<Types<RT>>, RPCError<Types<RT>>>>, RPCError<Types<RT>>> {
        let guard = Guard::new();
        let limit = option.hard_ttl();
        let opening = self.peer.append(guard.requests(appends));
        let opened = match RT::timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(TransportError::Timeout(limit)),
        };
        let replies = match opened {
            Ok(replies) => replies,
            Err(error) => {
                // openraft pauses with the first request of a stream, and one that cannot be opened never asks for it.
                if !matches!(error, TransportError::Timeout(_)) {
                    RT::sleep(UNREACHABLE_PAUSE).await;
                }
                return Err(AskError::from(error).into_rpc());
            }
        };
        let replies = guard.replies::<RT>(replies, option.soft_ttl()).map(|reply| {
            let parsed = reply.map_err(AskError::from).and_then(|reply| Ok(message::parse_append_reply(reply)?));
            parsed.map_err(AskError::into_rpc)
        });
        Ok(Box::pin(replies))
    }
}

fn unexpected() -> AskError {
    AskError::Decode(DecodeError::Missing("an answer of the request's kind"))
}

impl<RT: AsyncRuntime, P: Peer> RaftNetworkV2<Types<RT>> for Link<P> {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<RT>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<RT>>, RPCError<Types<RT>>> {
        let request = message::append_request(&rpc);
        let asked = message::Asked::of(&request);
        let reply = self.ask::<RT>(Request::Append(request), option.hard_ttl()).await.map_err(AskError::into_rpc)?;
        let Reply::Append(reply) = reply else { return Err(unexpected().into_rpc()) };
        let result = message::parse_append_reply(reply).map_err(|error| AskError::from(error).into_rpc())?;
        Ok(message::parse_single_reply(result, asked))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types<RT>>, RPCError<Types<RT>>>>, RPCError<Types<RT>>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types<RT>>> + OptionalSend + Unpin + 'static,
    {
        if self.pace.as_mut().is_some_and(|pace| !pace.is_due()) {
            return Box::pin(ready(Err(AskError::NotDue.into_rpc())));
        }
        let appends: Appends = Box::pin(input.map(|request| message::append_request(&request)));
        Box::pin(self.open(appends, option))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<RT>>, RPCError<Types<RT>>> {
        self.ask_vote(Request::Vote(message::vote_request(&rpc)), option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<RT>>, RPCError<Types<RT>>> {
        self.ask_vote(Request::PreVote(message::vote_request(&rpc)), option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types<RT>, Vec<u8>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types<RT>>, StreamingError<Types<RT>>> {
        let sending = async {
            let mut outgoing = parts::Outgoing::new(vote, snapshot.meta.last_log_id, snapshot.snapshot);
            loop {
                let part = Request::Snapshot(outgoing.next());
                let reply = self.ask::<RT>(part, option.hard_ttl()).await?;
                let Reply::Snapshot(reply) = reply else { return Err(unexpected()) };
                if let Some(end) = outgoing.answered(reply)? {
                    return Ok(SnapshotResponse::new(end));
                }
            }
        };
        match select(std::pin::pin!(sending), std::pin::pin!(cancel)).await {
            Either::Left((sent, _)) => sent.map_err(AskError::into_streaming),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<RT>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<RT>>, RPCError<Types<RT>>> {
        let asked = Request::Transfer(message::transfer_request(&request));
        let reply = self.ask::<RT>(asked, option.hard_ttl()).await.map_err(AskError::into_rpc)?;
        let Reply::Transfer(reply) = reply else { return Err(unexpected().into_rpc()) };
        Ok(message::parse_transfer_reply(reply, &request))
    }
}
