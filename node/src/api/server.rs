//! Accepts connections on the Unix socket and over TCP, and serves them until it is told to stop.

use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::unistd::{Gid, Group, chown};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use super::Api;
use super::routes::router;
use crate::auth::{Door, Token};

/// How many connections each of the two listeners serves at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 256;

/// How long a client may take to send the head of a request.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How many streams one HTTP/2 connection may have.
const STREAMS_MAX: u32 = 100;

/// How long to wait after accepting failed, because descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The group that may use the socket beside root, if the machine has it.
const GROUP: &str = "hearth";

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port is taken, or the address is none of this machine's.
    #[error("the API cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("the API cannot listen on {}", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ServeError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tcp { address, source } if source.kind() == io::ErrorKind::AddrInUse => Some(format!(
                "`ss -ltnp 'sport = :{}'` shows who has the port; --api-port takes another",
                address.port()
            )),
            Self::Tcp { source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
                Some("--bind takes an address of this machine".to_owned())
            }
            Self::Tcp { .. } | Self::Socket { .. } => None,
        }
    }
}

/// Two listeners that are bound, before they serve.
#[derive(Debug)]
pub struct Bound {
    unix: UnixListener,
    tcp: TcpListener,
    address: SocketAddr,
}

/// The API while it is served.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Binds both listeners; what connects from here on waits until [`Bound::serve`].
    ///
    /// The data directory must be locked: a socket file that is there is a dead agent's and is replaced.
    pub async fn bind(socket: &Path, address: SocketAddr) -> Result<Bound, ServeError> {
        let unix = bind_socket(socket).map_err(|source| ServeError::Socket { path: socket.to_owned(), source })?;
        let failed = |source| ServeError::Tcp { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        Ok(Bound { unix, tcp, address })
    }

    /// Takes no more connections, lets requests in flight end for at most `patience`, then cuts them off.
    ///
    /// Streams that follow a log end only with the log store: close that first, or they take all of the patience.
    pub async fn stop(self, patience: Duration) {
        // Nobody listens if both tasks have ended.
        let _ = self.stop.send(true);
        let deadline = tokio::time::Instant::now() + patience;
        for mut task in self.tasks {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Bound {
    /// Returns where it listens over TCP: the port that the kernel chose, if zero was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves the API in tasks of their own.
    pub fn serve(self, api: Api, token: Token) -> Server {
        let (stop, stopped) = watch::channel(false);
        let local = router(api.clone(), Door::Local);
        let remote = router(api, Door::Remote(token));
        let tasks = vec![
            tokio::spawn(accept(stopped.clone(), local, self.unix)),
            tokio::spawn(accept(stopped, remote, self.tcp)),
        ];
        Server { stop, tasks }
    }
}

/// What connections come from.
trait Listener: Send + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Returns the next connection; dropping the future loses none.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Makes the socket so that nobody but root and the group gets in, not even for a moment.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // The name appears when it is renamed, and by then mode and owner are right.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push("~");
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    let group: Option<Gid> = Group::from_name(GROUP)?.map(|group| group.gid);
    let mode = match group {
        Some(group) => {
            chown(&temporary, None, Some(group))?;
            0o660
        }
        None => 0o600,
    };
    fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Accepts connections until it is told to stop, then waits for those that are served.
async fn accept(mut stopped: watch::Receiver<bool>, router: Router, listener: impl Listener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed, so there is always a permit some time.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.next().await)
        };
        let (place, stream) = tokio::select! {
            // A sender that is gone means the same.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            accepted = accepted => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match stream {
            Ok(stream) => {
                connections.spawn(serve(stream, router.clone(), place, &graceful));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the API could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    graceful.shutdown().await;
    // Dropping the set ends what is left, when this task itself is given up.
    while connections.join_next().await.is_some() {}
}

/// Serves one connection.
fn serve<S>(
    stream: S,
    router: Router,
    place: Option<OwnedSemaphorePermit>,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT_MAX);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).into_owned();
    let watched = graceful.watch(connection);
    async move {
        // What a client breaks off is its own affair.
        if let Err(error) = watched.await {
            tracing::debug!(%error, "a connection to the API ended early");
        }
        drop(place);
    }
}
