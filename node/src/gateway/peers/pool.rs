//! Connections to peers: HTTP/2, one for each peer on each thread that calls, kept while they live.
//!
//! A connection is driven on the thread that made it, so that a forwarded call wakes no other. A peer that could not be reached is
//! left out and looked for, by a task and not by calls that would wait for it.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use control_plane::model::NodeId;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use super::replay::Lent;
use super::{PING, SEND_BUFFER_MAX, WINDOWS};

/// How long a connection may take to be made.
const DIAL_MAX: Duration = Duration::from_secs(1);

/// How often a peer that could not be reached is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The most resets of one connection that are remembered at once: callers that go away come in bursts.
const RESETS_MAX: usize = 1000;

/// The longest head of an answer, in bytes: what a function here may answer, and what the peer adds to it.
const ANSWER_HEAD_MAX: u32 = 512 << 10;

/// A connection to a peer: bytes both ways.
pub trait PeerIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> PeerIo for T {}

/// A connection that is being made.
pub type Dialing<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn PeerIo>>> + Send + 'a>>;

/// Makes connections to the gateways of peers.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Connects to a node; whoever answers must have proved to be it. Dropping the future gives up.
    fn dial(&self, node: NodeId) -> Dialing<'_>;

    /// Returns whether a node has not been heard of for a moment, so that calls had better go to others.
    fn is_suspected(&self, _node: NodeId) -> bool {
        false
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<SendRequest<Lent>>>>;

/// The connections to all peers.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Mutex<HashMap<(NodeId, ThreadId), Slot>>,
    reach: Arc<Reach>,
}

/// Who can be reached.
#[derive(Debug)]
struct Reach {
    dial: Arc<dyn Dial>,
    /// Peers that could not be reached, and cannot be as far as is known.
    shunned: Mutex<HashSet<NodeId>>,
}

/// Why there is no answer of a peer.
#[derive(Debug)]
pub(super) enum Undone {
    /// The peer has not seen the call.
    Unseen,
    /// It may have begun.
    Lost(hyper::Error),
}

impl Pool {
    pub(super) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { slots: Mutex::default(), reach: Arc::new(Reach { dial, shunned: Mutex::default() }) }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<(NodeId, ThreadId), Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a peer could not be reached.
    pub(super) fn is_shunned(&self, node: NodeId) -> bool {
        self.reach.shunned().contains(&node)
    }

    /// Returns whether a peer has not been heard of for a moment.
    pub(super) fn is_suspected(&self, node: NodeId) -> bool {
        self.reach.dial.is_suspected(node)
    }

    /// Lets go of connections to nodes that are peers no more.
    pub(super) fn keep(&self, is_peer: impl Fn(NodeId) -> bool) {
        self.slots().retain(|(node, _), _| is_peer(*node));
        self.reach.shunned().retain(|node| is_peer(*node));
    }

    /// Sends a request and returns the answer once its head is here. Dropping the future resets the stream.
    pub(super) async fn send(&self, node: NodeId, request: Request<Lent>) -> Result<Response<Incoming>, Undone> {
        let mut sender = match self.sender(node).await {
            Ok(sender) => sender,
            Err(error) => {
                if self.reach.shunned().insert(node) {
                    tracing::warn!(peer = %node, %error, "a peer cannot be reached");
                    tokio::spawn(until_reached(Arc::downgrade(&self.reach), node));
                }
                return Err(Undone::Unseen);
            }
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut refused) => {
                let is_unsent = refused.take_message().is_some();
                let error = refused.into_error();
                Err(if is_unsent || is_unseen(&error) { Undone::Unseen } else { Undone::Lost(error) })
            }
        }
    }

    /// Returns the connection of this thread to a peer, which is made if there is none. Who comes meanwhile waits for it.
    async fn sender(&self, node: NodeId) -> io::Result<SendRequest<Lent>> {
        let slot = Arc::clone(self.slots().entry((node, thread::current().id())).or_default());
        let mut open = slot.lock().await;
        if let Some(sender) = open.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        // Somebody who waited here before has just found out.
        if self.is_shunned(node) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "it could not be reached a moment ago"));
        }
        let dialing = async {
            let io = self.reach.dial.dial(node).await?;
            builder().handshake(TokioIo::new(io)).await.map_err(io::Error::other)
        };
        let (sender, connection) = timeout(DIAL_MAX, dialing).await.map_err(io::Error::from)??;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer = %node, %error, "a connection to a peer broke");
            }
        });
        *open = Some(sender.clone());
        Ok(sender)
    }
}

impl Reach {
    fn shunned(&self) -> MutexGuard<'_, HashSet<NodeId>> {
        self.shunned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves a peer out until it can be reached, is no peer any more, or nobody asks.
async fn until_reached(reach: Weak<Reach>, node: NodeId) {
    loop {
        sleep(LOOK_EVERY).await;
        let Some(reach) = reach.upgrade().filter(|reach| reach.shunned().contains(&node)) else { return };
        if let Ok(Ok(_)) = timeout(DIAL_MAX, reach.dial.dial(node)).await {
            tracing::info!(peer = %node, "a peer can be reached again");
            reach.shunned().remove(&node);
            return;
        }
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let [stream_window, connection_window] = WINDOWS;
    let [ping_interval, ping_timeout] = PING;
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .max_concurrent_reset_streams(RESETS_MAX)
        .max_header_list_size(ANSWER_HEAD_MAX)
        .keep_alive_interval(ping_interval)
        .keep_alive_timeout(ping_timeout)
        .keep_alive_while_idle(true);
    builder
}

/// Returns whether an error means that the peer has not begun the call: it refused the stream, or it said with which
/// stream it would end and this one came later (RFC 9113, sections 6.8 and 8.7).
fn is_unseen(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let is_beyond_the_last = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (is_refused || is_beyond_the_last)
}
