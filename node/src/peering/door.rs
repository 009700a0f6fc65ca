//! Connections from other nodes: who comes in, and to whom each is led.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::PeerStream;
use crate::auth::{PeerTls, Protocol, protocol_of};

/// How long a handshake may take.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(3);

/// Handshakes at once, at most: whoever comes beyond that waits to be taken.
const HANDSHAKES_MAX: usize = 64;

/// Connections that may wait for their room to take them.
const WAITING_MAX: usize = 64;

/// How long nothing is taken after the kernel refused a connection, for instance because there are too many files.
const REFUSED_REST: Duration = Duration::from_millis(100);

/// The port that other nodes come to.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    tls: PeerTls,
    rpc: mpsc::Sender<PeerStream>,
    calls: mpsc::Sender<PeerStream>,
    join: mpsc::Sender<PeerStream>,
}

/// Who came in, by what they want.
#[derive(Debug)]
pub struct Visitors {
    /// Peers that speak gRPC.
    pub rpc: mpsc::Receiver<PeerStream>,
    /// Peers that hand over calls.
    pub calls: mpsc::Receiver<PeerStream>,
    /// Machines that want to be let in.
    pub join: mpsc::Receiver<PeerStream>,
}

impl Door {
    /// Makes the door; nobody comes in before it is [kept](Self::keep).
    pub fn new(listener: TcpListener, tls: PeerTls) -> (Self, Visitors) {
        let (rpc, rpc_visitors) = mpsc::channel(WAITING_MAX);
        let (calls, calls_visitors) = mpsc::channel(WAITING_MAX);
        let (join, join_visitors) = mpsc::channel(WAITING_MAX);
        let visitors = Visitors { rpc: rpc_visitors, calls: calls_visitors, join: join_visitors };
        (Self { listener, tls, rpc, calls, join }, visitors)
    }

    /// Lets in whoever proves to be a peer, until `stop`.
    pub async fn keep(self, stop: CancellationToken) {
        let door = Arc::new(self);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = door.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection of a peer was not taken");
                    tokio::time::sleep(REFUSED_REST).await;
                    continue;
                }
            };
            let door = Arc::clone(&door);
            tokio::spawn(async move {
                let from = stream.peer_addr().ok();
                let shaken = timeout(HANDSHAKE_MAX, door.shake_hands(stream)).await;
                drop(permit);
                match shaken {
                    Ok(Ok((stream, protocol))) => door.lead(stream, protocol).await,
                    Ok(Err(error)) => tracing::debug!(?from, %error, "a connection was not let in"),
                    Err(_) => tracing::debug!(?from, "a handshake took too long"),
                }
            });
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<(PeerStream, Protocol)> {
        stream.set_nodelay(true)?;
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = self.tls.server_for(&begun.client_hello());
        let stream = begun.into_stream(config).await?;
        let protocol =
            protocol_of(stream.get_ref().1).ok_or_else(|| io::Error::other("it speaks no protocol of ours"))?;
        Ok((PeerStream::Tls(Box::new(stream.into())), protocol))
    }

    async fn lead(&self, stream: PeerStream, protocol: Protocol) {
        let room = match protocol {
            Protocol::Rpc => &self.rpc,
            Protocol::Calls => &self.calls,
            Protocol::Join => &self.join,
        };
        // The room is gone only when the node stops.
        let _ = room.send(stream).await;
    }
}

/// Takes connections that nothing protects, for measurements and tests on one machine.
pub fn take_plain(listener: TcpListener) -> impl Stream<Item = PeerStream> + Send + 'static {
    futures_util::stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if stream.set_nodelay(true).is_ok() => {
                    return Some((PeerStream::Plain(stream), listener));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(REFUSED_REST).await,
            }
        }
    })
}
