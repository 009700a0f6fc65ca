//! Connections to other nodes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use control_plane::model::NodeId;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::transport::server::Connected;

use crate::auth::{PeerId, PeerTls, Protocol, peer_of};

/// How long a connection may take to be made, its handshake included.
pub const CONNECT_MAX: Duration = Duration::from_millis(500);

/// What connects to other nodes; cheap to clone.
#[derive(Clone, Debug)]
pub enum Dialer {
    /// With nothing to protect it: for measurements and tests on one machine.
    Plain,
    /// With certificates on both sides.
    Mutual(PeerTls),
}

impl Dialer {
    /// Connects to a node at an address, which is a host and a port; it must prove to be that node.
    pub async fn dial(&self, node: NodeId, address: &str, protocol: Protocol) -> io::Result<PeerStream> {
        let dialling = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let Self::Mutual(tls) = self else { return Ok(PeerStream::Plain(stream)) };
            let config: Arc<ClientConfig> = match protocol {
                Protocol::Rpc => tls.client(),
                Protocol::Calls => tls.calls_client(),
                Protocol::Join => return Err(io::Error::other("whoever joins has no certificate to dial with")),
            };
            let stream = TlsConnector::from(config).connect(tls.name_of(node), stream).await?;
            Ok(PeerStream::Tls(Box::new(stream.into())))
        };
        timeout(CONNECT_MAX, dialling).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_MAX:?}")))
        })
    }
}

/// A connection between two nodes.
#[derive(Debug)]
pub enum PeerStream {
    /// One that nothing protects.
    Plain(TcpStream),
    /// One that both sides proved to be who they are on, unless it is for joining.
    Tls(Box<TlsStream<TcpStream>>),
}

impl PeerStream {
    /// Returns which node has proved to be at the other end.
    pub fn peer(&self) -> Option<PeerId> {
        self.connect_info().0
    }
}

/// Who is at the other end of a connection: nobody, where nothing proves it.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub Option<PeerId>);

impl Connected for PeerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        match self {
            Self::Plain(_) => Caller(None),
            Self::Tls(stream) => Caller(peer_of(stream.get_ref().1)),
        }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
