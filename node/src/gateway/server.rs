//! Connections: accepts them, serves HTTP/1.1 and HTTP/2 on them, and lets them go.

use std::io;
use std::net::{self, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Verdict, Watched};
use super::lanes::Lanes;
use super::limits::Limits;
use super::{Core, Gateway};

/// How long a connection over which nothing came yet is kept when the node stops: its first call may be on its way.
const FIRST_CALL_MAX: Duration = Duration::from_millis(500);

/// How often it is looked for that call.
const FIRST_CALL_LOOK: Duration = Duration::from_millis(10);

/// How long accepting rests after the machine ran out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many bytes of one stream's body an HTTP/2 client may send ahead, and of all streams of its connection.
const WINDOWS: [u32; 2] = [256 << 10, 1 << 20];

/// How many bytes of answers wait per HTTP/2 stream for a client that reads slowly.
const SEND_BUFFER_MAX: usize = 128 << 10;

/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take to answer.
const PING: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(10)];

/// How a gateway stopped serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections whose calls were cut off because they did not end in time.
    pub connections_aborted: usize,
}

impl Gateway {
    /// Serves a listener until `shutdown`. Then no connection is accepted, calls in flight may finish within `grace`,
    /// and clients are told to come no more; what is left is cut off.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken, grace: Duration) -> Drained {
        let limits = self.core.limits;
        let builder = Arc::new(builder(&limits));
        let room = Arc::new(Semaphore::new(limits.connections_max));
        let mut connections = JoinSet::new();
        let lanes = match Lanes::start() {
            Ok(lanes) => lanes,
            Err(error) => {
                tracing::error!(%error, "the threads of the gateway could not be started");
                return Drained { connections_aborted: 0 };
            }
        };
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accept(&listener, &room) => {
                    while connections.try_join_next().is_some() {}
                    match accepted {
                        Ok((socket, address, permit)) => {
                            let connection = self.connection(&builder, &shutdown, permit);
                            lanes.spawn(&mut connections, connection.run(socket, address));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a connection could not be accepted");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        for (socket, address, permit) in left_in_line(listener, &room) {
            lanes.spawn(&mut connections, self.connection(&builder, &shutdown, permit).run(socket, address));
        }
        let all = async { while connections.join_next().await.is_some() {} };
        let is_drained = timeout(grace, all).await.is_ok();
        while connections.try_join_next().is_some() {}
        let connections_aborted = if is_drained { 0 } else { connections.len() };
        connections.shutdown().await;
        Drained { connections_aborted }
    }

    fn connection(
        &self,
        builder: &Arc<auto::Builder<TokioExecutor>>,
        shutdown: &CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Connection {
        let (core, builder) = (Arc::clone(&self.core), Arc::clone(builder));
        Connection { core, builder, shutdown: shutdown.clone(), _permit: permit }
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(net::TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, address) = listener.accept().await?;
    // An answer that waits for the acknowledgement of its head costs 40 ms.
    socket.set_nodelay(true)?;
    // It belongs to the reactor of the thread that will serve it.
    Ok((socket.into_std()?, address, permit))
}

/// Closes a listener and returns who is connected already as far as the kernel is concerned: they would be reset with it.
///
/// The kernel is asked itself: what the runtime knows of the socket may be older.
fn left_in_line(
    listener: TcpListener,
    room: &Arc<Semaphore>,
) -> Vec<(net::TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let mut left = Vec::new();
    let Ok(listener) = listener.into_std() else { return left };
    while let Ok(permit) = Arc::clone(room).try_acquire_owned()
        && let Ok((socket, address)) = listener.accept()
    {
        if socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)).is_ok() {
            left.push((socket, address, permit));
        }
    }
    left
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A connection that does not send a whole head in time is found by its own watch, which costs no timer per request.
    builder.http1().max_buf_size(limits.head_max).max_headers(limits.headers_max).pipeline_flush(true);
    let [stream_window, connection_window] = WINDOWS;
    let [ping_interval, ping_timeout] = PING;
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.head_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .keep_alive_interval(ping_interval)
        .keep_alive_timeout(ping_timeout);
    builder
}

/// What one connection holds.
struct Connection {
    core: Arc<Core>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    shutdown: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// How far the end of a connection is that the node wants to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    NotYet,
    /// Since then. A connection over which nothing came yet would be cut off, though its first call may be on its way.
    Asked(Instant),
    /// What is in flight finishes, and nothing more is taken.
    Told,
}

impl Connection {
    async fn run(self, socket: net::TcpStream, address: SocketAddr) {
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::warn!(%error, "a connection could not be served"),
        };
        let client = Arc::new(Client::new(address.ip()));
        let service = service_fn(|request| Arc::clone(&self.core).serve(Arc::clone(&client), request));
        let socket = Watched::new(socket, Arc::clone(&client));
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(socket, service));
        let mut shutdown = pin!(self.shutdown.cancelled());
        let mut closing = Closing::NotYet;
        let mut look = pin!(sleep_until(Instant::now() + self.core.limits.idle_max));
        loop {
            tokio::select! {
                biased;
                // How a connection breaks is the client's own affair; calls that it cut off say so in their records.
                ended = connection.as_mut() => return drop(ended),
                () = shutdown.as_mut(), if closing == Closing::NotYet => closing = Closing::Asked(Instant::now()),
                () = sleep(FIRST_CALL_LOOK), if matches!(closing, Closing::Asked(_)) => {}
                () = look.as_mut() => match client.judge(Instant::now(), &self.core.limits) {
                    Verdict::Close => return,
                    Verdict::LookAgain(pause) => look.as_mut().reset(Instant::now() + pause),
                },
            }
            if let Closing::Asked(since) = closing
                && (client.has_called() || since.elapsed() > FIRST_CALL_MAX)
            {
                closing = Closing::Told;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
