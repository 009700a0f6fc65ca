//! Bodies on their way through, and what lasts as long as they do.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};

use super::pool::{Connection, Pool};
use crate::contract::capture::Capture;

/// The body of a request, whoever sends it.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, RequestBodyError>;

/// What the sender of a request's body met; of a type of its own, so that it is told from the instance's failures.
#[derive(Debug, thiserror::Error)]
#[error("the request ended within its body")]
pub(super) struct RequestBodyError(#[source] pub(super) Box<dyn Error + Send + Sync>);

/// One request and its response; its drop says that both are over.
pub(super) struct Exchange {
    capture: Arc<Capture>,
    request_id: Arc<str>,
    _held: Box<dyn Any + Send>,
}

impl Exchange {
    pub(super) fn new(capture: Arc<Capture>, request_id: Arc<str>, held: Box<dyn Any + Send>) -> Self {
        capture.begin(&request_id);
        Self { capture, request_id, _held: held }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.capture.end(&self.request_id);
    }
}

/// The body of a response, as it comes from the instance.
pub struct AnswerBody {
    streaming: Option<Streaming>,
}

struct Streaming {
    body: Incoming,
    connection: Connection,
    pool: Arc<Pool>,
    deadline: Instant,
    /// What ends a response that does not end by itself; made when there is something to wait for.
    limit: Option<Pin<Box<dyn Future<Output = AnswerBodyError> + Send>>>,
    _exchange: Exchange,
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerBodyError>>> {
        // Only the connection brings the body, and this task drives it: nobody else needs to be told.
        let mut quiet = Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(&mut quiet) {
            return Poll::Ready(frame.map(|frame| frame.map_err(AnswerBodyError::Broken)));
        }
        self.connection.drive(context);
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(&mut quiet) {
            return Poll::Ready(frame.map(|frame| frame.map_err(AnswerBodyError::Broken)));
        }
        let limit = self.limit.get_or_insert_with(|| {
            let (silent, deadline) = (self.pool.silent(), self.deadline);
            Box::pin(async move {
                tokio::select! {
                    () = silent => AnswerBodyError::InstanceDied,
                    () = sleep_until(deadline) => AnswerBodyError::TimedOut,
                }
            })
        });
        limit.as_mut().poll(context).map(|error| Some(Err(error)))
    }

    /// The response is over: its connection may serve the next request.
    fn end(self, context: &mut Context<'_>) {
        // A body that is not read to its end by the one who knows its length says so when it is dropped.
        drop(self.body);
        self.pool.keep(self.connection, context);
    }
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerBodyError {
    /// The instance ended or closed the connection within its response.
    #[error("the instance broke off its response")]
    Broken(#[from] hyper::Error),
    /// The instance ended, and what it had left to say did not come.
    #[error("the instance ended within its response")]
    InstanceDied,
    /// The deadline passed.
    #[error("the response was not complete in time")]
    TimedOut,
}

impl AnswerBody {
    /// Returns the body of a response; one that has none is over at once.
    pub(super) fn new(
        body: Incoming,
        connection: Connection,
        pool: Arc<Pool>,
        deadline: Instant,
        exchange: Exchange,
        context: &mut Context<'_>,
    ) -> Self {
        let streaming = Streaming { body, connection, pool, deadline, limit: None, _exchange: exchange };
        if streaming.body.is_end_stream() {
            streaming.end(context);
            return Self::empty();
        }
        Self { streaming: Some(streaming) }
    }

    pub(super) fn empty() -> Self {
        Self { streaming: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerBodyError>>> {
        let Some(mut streaming) = self.streaming.take() else { return Poll::Ready(None) };
        match streaming.poll(context) {
            Poll::Pending => {
                self.streaming = Some(streaming);
                Poll::Pending
            }
            // The exchange is over here and not when somebody gets round to asking again.
            Poll::Ready(Some(Ok(frame))) if streaming.body.is_end_stream() => {
                streaming.end(context);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.streaming = Some(streaming);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                streaming.end(context);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.streaming.as_ref().is_none_or(|streaming| streaming.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.streaming.as_ref().map_or_else(|| SizeHint::with_exact(0), |streaming| streaming.body.size_hint())
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AnswerBody").field("is_ended", &self.is_end_stream()).finish_non_exhaustive()
    }
}
