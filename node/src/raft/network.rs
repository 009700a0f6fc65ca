//! The way to other voters. A cluster of one has none: every peer is out of reach, and said to be.

use std::future::Future;
use std::io;

use control_plane::raft::Types;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::{BasicNode, TokioRuntime};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

type T = Types<TokioRuntime>;

/// Makes connections to nobody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alone;

impl RaftNetworkFactory<T> for Alone {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &BasicNode) -> Self {
        Self
    }
}

fn unreachable() -> Unreachable<T> {
    Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, "this cluster has one node"))
}

impl RaftNetworkV2<T> for Alone {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<T>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<T>, RPCError<T>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn vote(&mut self, _rpc: VoteRequest<T>, _option: RPCOption) -> Result<VoteResponse<T>, RPCError<T>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn pre_vote(&mut self, _rpc: VoteRequest<T>, _option: RPCOption) -> Result<VoteResponse<T>, RPCError<T>> {
        Err(RPCError::Unreachable(unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: control_plane::raft::Vote,
        _snapshot: openraft::alias::SnapshotOf<T, Vec<u8>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<T>, StreamingError<T>> {
        Err(StreamingError::Unreachable(unreachable()))
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<T>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<T>, RPCError<T>> {
        Err(RPCError::Unreachable(unreachable()))
    }
}
