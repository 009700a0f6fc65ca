//! Connections to one instance, kept between requests.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::body::RequestBody;

/// How long a connection is kept for the next request. Some servers close theirs after two seconds.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How many connections are kept; more may be in use.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// How long the connections of an instance that has ended may take to end too.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// One connection, between requests or within one.
///
/// Whoever uses it drives it: with a task of its own for each, every request woke another thread twice.
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
    /// The thread that opened it, whose reactor knows it: used from another, it wakes that one first.
    home: ThreadId,
    /// It was opened to see whether anybody listens, on a thread that serves no calls: it serves one and goes.
    is_probe: bool,
}

impl Connection {
    /// Lets the connection do what it can; the task of `context` is woken when it can do more.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        self.is_over = self.is_over || self.driver.as_mut().poll(context).is_ready();
    }

    /// Returns whether it can take another request, as far as it was driven.
    pub(super) fn is_free(&self) -> bool {
        !self.is_over && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the response.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|context| {
            self.is_over = self.is_over || self.driver.as_mut().poll(context).is_ready();
            // Only the connection brings the answer, and this task drives it: nobody else needs to be told.
            answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        })
        .await
    }

    /// Drives the connection to its end.
    pub(super) async fn run(mut self) {
        poll_fn(|context| {
            self.drive(context);
            if self.is_over { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Makes a connection to the instance.
pub(super) type Connect = Box<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> + Send + Sync>;

/// The connections to one instance.
pub(super) struct Pool {
    connect: Connect,
    idle: Mutex<IdleList>,
    /// Cancelled when the instance has ended: no more connections are made.
    ending: CancellationToken,
    /// Cancelled when it cannot have anything left to say: whatever is in flight ends.
    end: CancellationToken,
}

#[derive(Default)]
struct IdleList {
    /// The one used last stands last and is used next, so that the others can grow old.
    connections: Vec<Idle>,
    /// A task is looking after those that grow old. Invariant: true while there are any.
    is_swept: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(connect: Connect) -> Arc<Self> {
        Arc::new(Self {
            connect,
            idle: Mutex::default(),
            ending: CancellationToken::new(),
            end: CancellationToken::new(),
        })
    }

    /// Returns a connection, and whether it was made for this.
    pub(super) async fn take(&self) -> io::Result<(Connection, bool)> {
        match poll_fn(|context| Poll::Ready(self.take_idle(context))).await {
            Some(connection) => Ok((connection, false)),
            None => Ok((self.open().await?, true)),
        }
    }

    /// Makes a connection and keeps it for the first request.
    pub(super) async fn probe(self: &Arc<Self>) -> io::Result<()> {
        let connection = self.open().await?;
        self.put(Connection { is_probe: true, ..connection });
        Ok(())
    }

    /// Keeps a connection whose response is over for the next request, unless it is good for no other.
    pub(super) fn keep(self: &Arc<Self>, mut connection: Connection, context: &mut Context<'_>) {
        // It learns that its response is over only now.
        connection.drive(context);
        if connection.is_free() && !connection.is_probe {
            self.put(connection);
        }
    }

    /// Runs a task that ends with the instance.
    pub(super) fn watch(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        tokio::spawn(async move { end.run_until_cancelled(task).await });
    }

    /// Makes no more connections, and ends those in use a moment later: what the instance still said may be under way.
    pub(super) fn wind_down(&self) {
        self.ending.cancel();
        self.lock().connections.clear();
        let end = self.end.clone();
        tokio::spawn(async move {
            sleep(LAST_WORDS).await;
            end.cancel();
        });
    }

    /// Ends every connection.
    pub(super) fn close(&self) {
        self.ending.cancel();
        self.lock().connections.clear();
        self.end.cancel();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Waits until the instance has ended.
    pub(super) async fn closed(&self) {
        self.ending.cancelled().await;
    }

    /// Waits until an instance that has ended cannot have anything left to say.
    pub(super) fn silent(&self) -> impl Future<Output = ()> + Send + use<> {
        self.end.clone().cancelled_owned()
    }

    #[cfg(test)]
    pub(super) fn idle_count(&self) -> usize {
        self.lock().connections.len()
    }

    async fn open(&self) -> io::Result<Connection> {
        if self.is_closed() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let socket = (self.connect)().await?;
        socket.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        // How a connection ends is told to whoever waits for its answer.
        let driver = Box::pin(async move { drop(driver.with_upgrades().await) });
        Ok(Connection { sender, driver, is_over: false, home: thread::current().id(), is_probe: false })
    }

    fn put(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.lock();
        if idle.connections.len() >= IDLE_CONNECTIONS_MAX || self.is_closed() {
            return;
        }
        idle.connections.push(Idle { connection, since: Instant::now() });
        if !idle.is_swept {
            idle.is_swept = true;
            self.watch(sweep(Arc::downgrade(self)));
        }
    }

    fn take_idle(&self, context: &mut Context<'_>) -> Option<Connection> {
        loop {
            let Idle { mut connection, since, .. } = {
                let mut idle = self.lock();
                // One of another thread will do: a server that serves one connection at a time is to get no second.
                let here = thread::current().id();
                let own = idle.connections.iter().rposition(|idle| idle.connection.home == here);
                let last = idle.connections.len().checked_sub(1)?;
                idle.connections.remove(own.unwrap_or(last))
            };
            // Whether the other side has closed it shows only now.
            connection.drive(context);
            if since.elapsed() <= IDLE_MAX && connection.is_free() {
                return Some(connection);
            }
        }
    }

    /// Closes what has been idle for too long. Returns whether anything is left to look after.
    fn close_old(&self) -> bool {
        let mut idle = self.lock();
        idle.connections.retain(|idle| idle.since.elapsed() <= IDLE_MAX);
        idle.is_swept = !idle.connections.is_empty();
        idle.is_swept
    }

    fn lock(&self) -> MutexGuard<'_, IdleList> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections as they grow old, until there are none.
async fn sweep(pool: Weak<Pool>) {
    loop {
        sleep(IDLE_MAX).await;
        if !pool.upgrade().is_some_and(|pool| pool.close_old()) {
            return;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").field("idle", &self.lock().connections.len()).finish_non_exhaustive()
    }
}
