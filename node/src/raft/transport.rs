//! Messages to peers, over HTTP/2: several connections to each, so that neither entries nor images hold up a heartbeat.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use control_plane::model::NodeId;
use control_plane::raft::{AppendReplies, Appends, Lane, Peer, Transport, TransportError};
use futures_util::{Stream, StreamExt};
use http::Uri;
use hyper_util::rt::TokioIo;
use proto::v1;
use proto::v1::cluster_client::ClusterClient;
use proto::v1::raft_client::RaftClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tower::service_fn;

use super::service::MESSAGE_MAX_BYTES;
use crate::auth::Protocol;
use crate::peering::{CONNECT_MAX, Dialer};

/// How long a connection may be silent before the peer is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// How long it may take to answer that; then the connection is given up.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(1);

/// How much may be on its way in one stream before the peer has taken it, in bytes.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;

/// How much may be on its way in all streams of a connection, in bytes.
pub(super) const CONNECTION_WINDOW: u32 = 8 << 20;

/// Returns where a node is reached by the members as they are known here, if it is one of them.
type Places = dyn Fn(u64) -> Option<String> + Send + Sync;

/// The connections to all peers; clones share them.
#[derive(Clone)]
pub(super) struct Channels {
    dialer: Dialer,
    open: Arc<Mutex<BTreeMap<Way, Channel>>>,
    places: Arc<OnceLock<Box<Places>>>,
}

/// The way to one peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    node: u64,
    address: String,
    track: Track,
}

/// What has a connection of its own, so that nothing of it waits behind the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Track {
    /// Heartbeats and votes.
    Urgent,
    /// Entries, snapshots, and what nodes ask each other.
    Usual,
    /// Blobs of images.
    Bulk,
}

impl Channels {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, open: Arc::default(), places: Arc::default() }
    }

    /// Looks up at `places` where voters are, each time that one is spoken to.
    pub(super) fn look_up(&self, places: impl Fn(u64) -> Option<String> + Send + Sync + 'static) {
        // It is told once, by whoever made this.
        let _ = self.places.set(Box::new(places));
    }

    /// Returns a connection, which is made with the first message and again whenever it broke.
    fn channel(&self, way: &Way) -> Channel {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = open.get(way) {
            return channel.clone();
        }
        // A peer that is found elsewhere is not where it was.
        open.retain(|known, _| known.node != way.node || known.address == way.address);
        let endpoint = Endpoint::from_static("http://peer")
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_MAX)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let dialler = (self.dialer.clone(), way.clone());
        let channel = endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let (dialer, Way { node, address, .. }) = dialler.clone();
            async move {
                let node = NodeId(u32::try_from(node).map_err(io::Error::other)?);
                dialer.dial(node, &address, Protocol::Rpc).await.map(TokioIo::new)
            }
        }));
        open.insert(way.clone(), channel.clone());
        channel
    }

    /// Returns the connection to a node for everything that is not urgent.
    pub(super) fn peer_channel(&self, node: u64, address: &str) -> Channel {
        self.channel(&Way { node, address: address.to_owned(), track: Track::Usual })
    }

    /// Returns the connection to a node for blobs of images.
    pub(super) fn bulk_channel(&self, node: u64, address: &str) -> Channel {
        self.channel(&Way { node, address: address.to_owned(), track: Track::Bulk })
    }

    /// Returns the way to the leader for what only it does.
    pub(super) fn leader(&self, node: u64, address: &str) -> ClusterClient<Channel> {
        let client = ClusterClient::new(self.peer_channel(node, address));
        client.max_decoding_message_size(MESSAGE_MAX_BYTES).max_encoding_message_size(MESSAGE_MAX_BYTES)
    }
}

impl Transport for Channels {
    type Peer = Voter;

    fn peer(&self, id: u64, address: &str, lane: Lane) -> Voter {
        let track = if lane == Lane::Urgent { Track::Urgent } else { Track::Usual };
        let way = Way { node: id, address: address.to_owned(), track };
        Voter { channels: self.clone(), way }
    }

    async fn died(&self, id: u64, address: &str) {
        match u32::try_from(id) {
            Ok(node) => super::death::died(&self.dialer, NodeId(node), address).await,
            // Nobody has such an id.
            Err(_) => std::future::pending().await,
        }
    }
}

/// One peer's consensus.
pub(super) struct Voter {
    channels: Channels,
    way: Way,
}

impl Voter {
    fn client(&self) -> RaftClient<Channel> {
        // openraft makes its way to a peer once for as long as one leader leads, and keeps the address that the peer had then.
        let place = self.channels.places.get().and_then(|places| places(self.way.node));
        let address = place.unwrap_or_else(|| self.way.address.clone());
        let client = RaftClient::new(self.channels.channel(&Way { address, ..self.way.clone() }));
        client.max_decoding_message_size(MESSAGE_MAX_BYTES).max_encoding_message_size(MESSAGE_MAX_BYTES)
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

impl Peer for Voter {
    async fn call(&self, request: v1::RaftRequest, limit: Duration) -> Result<v1::RaftReply, TransportError> {
        let mut request = Request::new(request);
        request.set_timeout(limit);
        match self.client().call(request).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(error(&status, limit)),
        }
    }

    async fn append(&self, appends: Appends) -> Result<AppendReplies, TransportError> {
        let replies = self.client().append(Outgoing(appends)).await.map_err(|status| error(&status, CONNECT_MAX))?;
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
