//! The bodies of requests and answers on their way through.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::failure::CallFailure;
use super::lease::Lease;
use super::record::{CallOutcome, Ongoing};
use crate::contract::{AnswerBody, AnswerStream, StreamFailure};

/// What a broken-off body is called where its sender has gone.
const BROKEN: CallFailure = CallFailure::BadRequest("the request ended within its body");

/// Reads a whole body into memory, up to `limit` bytes and within `wait`.
pub(super) async fn collect(mut body: Incoming, limit: usize, wait: Duration) -> Result<Bytes, CallFailure> {
    let too_large = || CallFailure::TooLarge { limit: u64::try_from(limit).unwrap_or(u64::MAX) };
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let collecting = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BROKEN)?.into_data() else { continue };
            if first.len() + rest.len() + data.len() > limit {
                return Err(too_large());
            }
            // Most bodies come in one piece, which is not copied.
            if first.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&data);
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    };
    timeout(wait, collecting).await.unwrap_or(Err(CallFailure::SlowBody { limit: wait }))
}

/// The body of a request that streams to a function.
#[derive(Debug)]
pub(super) struct Inbound {
    body: Option<Incoming>,
    limit: u64,
    meter: Arc<Meter>,
}

/// What went through an [`Inbound`].
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: AtomicU64,
    is_overlong: AtomicBool,
}

impl Meter {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns whether the body was cut off at its limit.
    pub(super) fn is_overlong(&self) -> bool {
        self.is_overlong.load(Ordering::Relaxed)
    }
}

/// A body that streams is longer than it may be.
#[derive(Debug, thiserror::Error)]
#[error("the body is longer than {0} bytes")]
struct Overlong(u64);

impl Inbound {
    /// Passes at most `limit` bytes on; none is a body without any.
    pub(super) fn new(body: Option<Incoming>, limit: u64, meter: Arc<Meter>) -> Self {
        Self { body, limit, meter }
    }

    /// Returns the limit at which the body was cut off, if it was.
    pub(super) fn overlong(&self) -> Option<u64> {
        self.meter.is_overlong().then_some(self.limit)
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
            None => return Poll::Ready(None),
        };
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let before = self.meter.bytes.fetch_add(length, Ordering::Relaxed);
            if before.saturating_add(length) > self.limit {
                self.meter.is_overlong.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(Box::new(Overlong(self.limit)))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of an answer; its end is the end of the call.
#[derive(Debug)]
pub struct ReplyBody {
    source: Source,
    ongoing: Option<Ongoing>,
    meter: Option<Arc<Meter>>,
}

#[derive(Debug)]
enum Source {
    Whole(Bytes),
    Http(AnswerBody),
    Event(Streaming),
    /// It comes from a peer.
    Away(Incoming),
}

/// An answer that a handler of events streams.
struct Streaming {
    /// Yields the next bytes and the stream they came from; none once the stream is over.
    next: Option<Pin<Box<dyn Future<Output = Taken> + Send>>>,
    /// Invariant: outlives the stream, whose drop tells the instance that nobody listens.
    lease: Option<Lease>,
}

type Taken = (AnswerStream, Option<Result<Bytes, StreamFailure>>);

impl std::fmt::Debug for Streaming {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Streaming").field("lease", &self.lease).finish_non_exhaustive()
    }
}

fn next(mut stream: AnswerStream) -> Pin<Box<dyn Future<Output = Taken> + Send>> {
    Box::pin(async move {
        let taken = stream.next().await;
        (stream, taken)
    })
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.next = None;
        self.lease = None;
    }
}

impl ReplyBody {
    pub(super) fn whole(bytes: Bytes, ongoing: Ongoing) -> Self {
        Self { source: Source::Whole(bytes), ongoing: Some(ongoing), meter: None }
    }

    pub(super) fn http(body: AnswerBody, ongoing: Ongoing, meter: Arc<Meter>) -> Self {
        Self { source: Source::Http(body), ongoing: Some(ongoing), meter: Some(meter) }
    }

    pub(super) fn event(stream: AnswerStream, lease: Lease, ongoing: Ongoing) -> Self {
        let streaming = Streaming { next: Some(next(stream)), lease: Some(lease) };
        Self { source: Source::Event(streaming), ongoing: Some(ongoing), meter: None }
    }

    pub(super) fn away(body: Incoming, ongoing: Ongoing, meter: Option<Arc<Meter>>) -> Self {
        Self { source: Source::Away(body), ongoing: Some(ongoing), meter }
    }

    pub(super) fn set_status(&mut self, status: u16) {
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.record.status = status;
        }
    }

    /// Notes bytes that go out.
    fn count(&mut self, length: usize) {
        if let Some(ongoing) = &mut self.ongoing {
            ongoing.record.bytes_out += u64::try_from(length).unwrap_or(u64::MAX);
        }
    }

    /// Notes that the answer is complete or will never be.
    fn end(&mut self, outcome: Option<CallOutcome>) {
        let Some(mut ongoing) = self.ongoing.take() else { return };
        if let Some(outcome) = outcome {
            ongoing.record.outcome = outcome;
        }
        if let Some(meter) = &self.meter {
            ongoing.record.bytes_in = meter.bytes();
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        // What is dropped before its end was cut off by the caller; a body without bytes is never asked for any.
        let is_complete = self.is_end_stream();
        self.end((!is_complete).then_some(CallOutcome::Cancelled));
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match &mut self.source {
            Source::Whole(bytes) => Ok((!bytes.is_empty()).then(|| Frame::data(std::mem::take(bytes)))),
            Source::Http(body) => match ready!(Pin::new(body).poll_frame(context)) {
                None => Ok(None),
                Some(Ok(frame)) => Ok(Some(frame)),
                Some(Err(error)) => Err(error.into()),
            },
            Source::Away(body) => match ready!(Pin::new(&mut *body).poll_frame(context)) {
                // A stream that is reset without an error is not at its end.
                None if !body.is_end_stream() => Err("the peer broke off its answer".into()),
                None => Ok(None),
                Some(Ok(frame)) => Ok(Some(frame)),
                Some(Err(error)) => Err(error.into()),
            },
            Source::Event(streaming) => match ready!(streaming.poll(context)) {
                None => Ok(None),
                Some(Ok(bytes)) => Ok(Some(Frame::data(bytes))),
                Some(Err(error)) => Err(error.into()),
            },
        };
        match frame {
            Ok(Some(frame)) => {
                self.count(frame.data_ref().map_or(0, Bytes::len));
                if self.is_end_stream() {
                    self.end(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Ok(None) => {
                self.end(None);
                Poll::Ready(None)
            }
            Err(error) => {
                self.end(Some(CallOutcome::InstanceError));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Http(body) => body.is_end_stream(),
            Source::Event(streaming) => streaming.next.is_none(),
            Source::Away(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Source::Http(body) => body.size_hint(),
            Source::Event(_) => SizeHint::default(),
            Source::Away(body) => body.size_hint(),
        }
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamFailure>>> {
        let Some(future) = &mut self.next else { return Poll::Ready(None) };
        let (stream, taken) = ready!(future.as_mut().poll(context));
        match taken {
            Some(Ok(bytes)) => {
                self.next = Some(next(stream));
                Poll::Ready(Some(Ok(bytes)))
            }
            None => {
                self.close();
                Poll::Ready(None)
            }
            Some(Err(failure)) => {
                self.next = None;
                if let Some(lease) = &mut self.lease {
                    lease.stream_failed(&failure);
                }
                self.lease = None;
                Poll::Ready(Some(Err(failure)))
            }
        }
    }

    /// The stream is complete: the slot is free.
    fn close(&mut self) {
        self.next = None;
        if let Some(mut lease) = self.lease.take() {
            lease.answered();
        }
    }
}
