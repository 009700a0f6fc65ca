//! Messages to peers, over HTTP/2: two connections to each, so that entries never hold up a heartbeat.

use std::collections::BTreeMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use control_plane::raft::{AppendReplies, Appends, Lane, Peer, Transport, TransportError};
use futures_util::{Stream, StreamExt};
use proto::v1;
use proto::v1::cluster_client::ClusterClient;
use proto::v1::raft_client::RaftClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::service::MESSAGE_MAX_BYTES;

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_millis(300);

/// How long a connection may be silent before the peer is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// How long it may take to answer that; then the connection is given up.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(1);

/// How much may be on its way in one stream before the peer has taken it, in bytes.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;

/// How much may be on its way in all streams of a connection, in bytes.
pub(super) const CONNECTION_WINDOW: u32 = 8 << 20;

/// The connections to all peers; clones share them.
#[derive(Clone, Default)]
pub(super) struct Channels {
    /// By the peer's address, and whether it is the urgent one.
    open: Arc<Mutex<BTreeMap<(String, bool), Channel>>>,
}

impl Channels {
    /// Returns a connection, which is made with the first message and again whenever it broke.
    fn channel(&self, address: &str, lane: Lane) -> Result<Channel, TransportError> {
        let key = (address.to_owned(), lane == Lane::Urgent);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| TransportError::Unreachable(format!("`{address}` is no address: {error}")))?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_MAX)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let channel = endpoint.connect_lazy();
        open.insert(key, channel.clone());
        Ok(channel)
    }
}

impl Channels {
    /// Returns the way to the leader for what only it does.
    pub(super) fn leader(&self, address: &str) -> Result<ClusterClient<Channel>, TransportError> {
        let client = ClusterClient::new(self.channel(address, Lane::Entries)?);
        Ok(client.max_decoding_message_size(MESSAGE_MAX_BYTES).max_encoding_message_size(MESSAGE_MAX_BYTES))
    }
}

impl Transport for Channels {
    type Peer = Way;

    fn peer(&self, _id: u64, address: &str, lane: Lane) -> Way {
        Way { channels: self.clone(), address: address.to_owned(), lane }
    }

    async fn died(&self, _id: u64, address: &str) {
        super::death::died(address).await;
    }
}

/// The way to one peer.
pub(super) struct Way {
    channels: Channels,
    address: String,
    lane: Lane,
}

impl Way {
    fn client(&self) -> Result<RaftClient<Channel>, TransportError> {
        let client = RaftClient::new(self.channels.channel(&self.address, self.lane)?);
        Ok(client.max_decoding_message_size(MESSAGE_MAX_BYTES).max_encoding_message_size(MESSAGE_MAX_BYTES))
    }
}

/// A name for a boxed stream: rustc cannot see that one without a name lives long enough (E0477).
struct Outgoing(Appends);

impl Stream for Outgoing {
    type Item = v1::AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

impl Peer for Way {
    async fn call(&self, request: v1::RaftRequest, limit: Duration) -> Result<v1::RaftReply, TransportError> {
        let mut request = Request::new(request);
        request.set_timeout(limit);
        match self.client()?.call(request).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(error(&status, limit)),
        }
    }

    async fn append(&self, appends: Appends) -> Result<AppendReplies, TransportError> {
        let replies = self.client()?.append(Outgoing(appends)).await.map_err(|status| error(&status, CONNECT_MAX))?;
        Ok(Box::pin(replies.into_inner().map(|reply| reply.map_err(|status| error(&status, KEEP_ALIVE_MAX)))))
    }
}

/// Says in our words why there is no answer.
fn error(status: &Status, limit: Duration) -> TransportError {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => TransportError::Timeout(limit),
        Code::Unavailable | Code::Unknown => {
            let mut reason = status.message().to_owned();
            let mut cause = status.source();
            while let Some(error) = cause {
                reason = format!("{reason}: {error}");
                cause = error.source();
            }
            TransportError::Unreachable(reason)
        }
        _ => TransportError::Failed(status.message().to_owned()),
    }
}
