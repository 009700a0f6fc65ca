//! Bodies on their way through, and what lasts as long as they do.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

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
    deadline: Pin<Box<Sleep>>,
    _exchange: Exchange,
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerBodyError {
    /// The instance ended or closed the connection within its response.
    #[error("the instance broke off its response")]
    Broken(#[from] hyper::Error),
    /// The deadline passed.
    #[error("the response was not complete in time")]
    TimedOut,
}

impl AnswerBody {
    pub(super) fn new(body: Incoming, deadline: Instant, exchange: Exchange) -> Self {
        let streaming = Streaming { body, deadline: Box::pin(sleep_until(deadline)), _exchange: exchange };
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
        let Some(streaming) = &mut self.streaming else { return Poll::Ready(None) };
        let ended = match Pin::new(&mut streaming.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(error))) => Some(Err(AnswerBodyError::Broken(error))),
            Poll::Ready(None) => None,
            Poll::Pending if streaming.deadline.as_mut().poll(context).is_pending() => return Poll::Pending,
            Poll::Pending => Some(Err(AnswerBodyError::TimedOut)),
        };
        // The exchange is over here and not when somebody gets round to dropping this.
        self.streaming = None;
        Poll::Ready(ended)
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
