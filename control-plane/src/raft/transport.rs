//! What carries messages between voters: tonic in `node`, an unreliable network on virtual time in the simulator.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use proto::v1;

/// Why a message has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nobody listens at the peer's address, or the way there is broken.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// No answer came within the time for it; the peer may have acted.
    #[error("the peer did not answer within {0:?}")]
    Timeout(Duration),
    /// The peer answered that it cannot, or with something that is no answer.
    #[error("the peer failed: {0}")]
    Failed(String),
}

/// Entries on their way to a peer, in order.
pub type Appends = Pin<Box<dyn Stream<Item = v1::AppendRequest> + Send>>;

/// What a peer answers to them, in the same order; ends after an error.
pub type AppendReplies = Pin<Box<dyn Stream<Item = Result<v1::AppendReply, TransportError>> + Send>>;

/// What a connection is for: a large message must not hold up a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes and heartbeats: small and urgent.
    Urgent,
    /// Entries.
    Entries,
    /// Snapshots.
    Snapshot,
}

/// Makes ways to peers.
pub trait Transport: Clone + Send + Sync + 'static {
    /// The way to one peer.
    type Peer: Peer;

    /// Returns the way to a peer, without waiting for it: a peer that is not there fails each message.
    fn peer(&self, id: u64, address: &str, lane: Lane) -> Self::Peer;

    /// Waits for the proof that a peer's process has ended: a connection to it that stood has ended, and then its port refused
    /// another. Silence proves nothing, and whoever was never connected has no proof either.
    ///
    /// A proof may be wrong: something on the way may refuse in the peer's name.
    fn died(&self, id: u64, address: &str) -> impl Future<Output = ()> + Send;
}

/// The way to one peer.
pub trait Peer: Send + Sync + 'static {
    /// Asks once. The answer comes within `limit`, or an error does.
    fn call(
        &self,
        request: v1::RaftRequest,
        limit: Duration,
    ) -> impl Future<Output = Result<v1::RaftReply, TransportError>> + Send;

    /// Sends entries as they come. Fails, or the answers do, when the way breaks; a way that is silent is the caller's to notice.
    fn append(&self, appends: Appends) -> impl Future<Output = Result<AppendReplies, TransportError>> + Send;
}
