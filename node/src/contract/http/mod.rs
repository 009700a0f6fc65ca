//! An instance that serves HTTP/1.1 itself: requests go in as they are, responses come out as they are.
//!
//! Bodies stream both ways and are never held as a whole. Connections are kept for the next request for a moment, no
//! longer than the most impatient servers keep theirs, because a request on a connection that the server is just
//! closing fails without anyone knowing whether it was seen.

mod body;
mod hop;
mod pool;
mod tunnel;

use std::any::Any;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

pub use self::body::{AnswerBody, AnswerBodyError};
use self::body::{Exchange, RequestBody, RequestBodyError};
pub(crate) use self::hop::clean as clean_hop_by_hop;
use self::pool::{Connection, Pool};
use super::capture::Capture;
use super::invocation::{InitFailure, ReadyInfo};

/// How long to wait before asking again whether the instance listens; doubles up to the second.
const PROBE_PAUSE: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// The daemon's end of one instance that serves HTTP.
#[derive(Debug)]
pub struct Http {
    pool: Arc<Pool>,
    capture: Arc<Capture>,
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum HttpFailure {
    /// The instance ended or closed the connection. Unless `may_have_started`, it never saw the request.
    #[error("the instance closed the connection")]
    InstanceDied {
        /// Some of the request had left for the instance.
        may_have_started: bool,
        /// What the connection said, where it said anything.
        source: Option<hyper::Error>,
    },
    /// The instance cannot be connected to, though it was.
    #[error("the instance does not listen")]
    Unreachable(#[source] io::Error),
    /// What the instance sent is no HTTP response.
    #[error("the instance did not answer in HTTP")]
    Broken(#[source] hyper::Error),
    /// The body of the request broke off: whoever sends it has gone.
    #[error("the request ended within its body")]
    RequestBroken(#[source] hyper::Error),
    /// The deadline passed before there was a response.
    #[error("the instance did not answer in time")]
    TimedOut,
}

impl Http {
    /// Returns the end of an instance to which `connect` makes connections.
    pub fn new<C, F>(connect: C, capture: Arc<Capture>) -> Self
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        Self { pool: Pool::new(Box::new(move || Box::pin(connect()))), capture }
    }

    /// Waits until the instance accepts connections.
    pub async fn ready(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        let probe = async {
            let [mut pause, pause_max] = PROBE_PAUSE;
            while self.pool.probe().await.is_err() {
                sleep(pause).await;
                pause = (pause * 2).min(pause_max);
            }
        };
        tokio::select! {
            () = self.pool.closed() => Err(InitFailure::InstanceDied),
            listens = timeout_at(deadline, probe) => match listens {
                Ok(()) => Ok(ReadyInfo { runtime: String::new(), init_ms: 0, in_flight: Vec::new() }),
                Err(_) => Err(InitFailure::TimedOut),
            },
        }
    }

    /// Sends a request and returns the response once its head is here.
    ///
    /// Headers that are about the connection are left out both ways. A request for an upgrade is passed on as one, and
    /// if the instance agrees, bytes are handed back and forth until it closes its connection or the deadline passes. The
    /// deadline also ends a body that takes longer. `held` is kept until all of it is over: its drop says that the
    /// instance is free.
    ///
    /// Dropping the future closes the connection. A server that does not look goes on with its work all the same, and
    /// nobody can know for how long.
    pub async fn send<B, H>(
        &self,
        request_id: &Arc<str>,
        request: Request<B>,
        deadline: Instant,
        held: H,
    ) -> Result<Response<AnswerBody>, HttpFailure>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
        H: Any + Send,
    {
        let exchange = Exchange::new(Arc::clone(&self.capture), Arc::clone(request_id), Box::new(held));
        let mut request = request.map(|body| body.map_err(|error| RequestBodyError(error.into())).boxed_unsync());
        let client = hop::prepare(&mut request);
        let (mut response, connection) = tokio::select! {
            biased;
            answered = timeout_at(deadline, self.exchange(request)) => match answered {
                Ok(answered) => answered?,
                Err(_) => return Err(HttpFailure::TimedOut),
            },
            () = self.pool.silent() => return Err(HttpFailure::InstanceDied { may_have_started: true, source: None }),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let instance = hyper::upgrade::on(&mut response);
            let Some(client) = client else {
                let died = HttpFailure::InstanceDied { may_have_started: true, source: None };
                return Err(died);
            };
            self.pool.watch(connection.run());
            self.pool.watch(tunnel::run(client, instance, deadline, exchange));
            return Ok(response.map(|_| AnswerBody::empty()));
        }
        hop::clean(response.headers_mut());
        let (head, body) = response.into_parts();
        let mut parts = Some((body, connection, exchange));
        let body = poll_fn(|context| {
            let (body, connection, exchange) = parts.take().expect("this is ready at once");
            Poll::Ready(AnswerBody::new(body, connection, Arc::clone(&self.pool), deadline, exchange, context))
        });
        Ok(Response::from_parts(head, body.await))
    }

    /// Notes that the instance has ended: what it still sent counts, everything else in flight ends with it,
    /// conversations after an upgrade included.
    pub fn instance_died(&self) {
        self.pool.wind_down();
    }

    /// Sends the request over a kept connection, or over another where that one turns out to be closed.
    async fn exchange(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Connection), HttpFailure> {
        loop {
            let (mut connection, is_fresh) = self.pool.take().await.map_err(|error| self.unreachable(error))?;
            let mut refused = match connection.send(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(refused) => refused,
            };
            match refused.take_message() {
                Some(unsent) if !is_fresh => request = unsent,
                unsent => return Err(failure(refused.into_error(), unsent.is_none())),
            }
        }
    }

    fn unreachable(&self, error: io::Error) -> HttpFailure {
        if self.pool.is_closed() {
            return HttpFailure::InstanceDied { may_have_started: false, source: None };
        }
        HttpFailure::Unreachable(error)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.pool.close();
    }
}

fn failure(error: hyper::Error, may_have_started: bool) -> HttpFailure {
    if error.source().is_some_and(|source| source.is::<RequestBodyError>()) {
        HttpFailure::RequestBroken(error)
    } else if error.is_parse() {
        HttpFailure::Broken(error)
    } else {
        HttpFailure::InstanceDied { may_have_started, source: Some(error) }
    }
}

#[cfg(test)]
mod tests;
