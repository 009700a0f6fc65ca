//! A stream of entries that cannot hang: openraft itself waits for ever for the answers of a half-open connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft_rt::AsyncRuntime;
use proto::v1;

use super::transport::{AppendReplies, Appends, TransportError};

/// How many requests went out, as seen from both directions of one stream.
#[derive(Default)]
struct Sent {
    count: AtomicU64,
    is_all: AtomicBool,
    /// Wakes the answers' side, whose deadline begins with a request.
    waker: Mutex<Option<Waker>>,
}

impl Sent {
    fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Requests on their way out, counted.
struct Requests {
    inner: Appends,
    sent: Arc<Sent>,
}

/// Answers as they come; ends when there is nothing left to be answered, fails when an answer is overdue.
pub(super) struct Replies<RT: AsyncRuntime> {
    inner: AppendReplies,
    sent: Arc<Sent>,
    received: u64,
    overdue: Duration,
    /// When the next answer is overdue, and which one it is.
    deadline: Option<(u64, Pin<Box<RT::Sleep>>)>,
    is_ended: bool,
}

/// A guard for one stream: give [`Guard::requests`] to the transport and read its answers through [`Guard::replies`].
pub(super) struct Guard(Arc<Sent>);

impl Guard {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn requests(&self, inner: Appends) -> Appends {
        Box::pin(Requests { inner, sent: Arc::clone(&self.0) })
    }

    /// Each answer must come within `overdue` of the one before it, or of its request.
    pub(super) fn replies<RT: AsyncRuntime>(self, inner: AppendReplies, overdue: Duration) -> Replies<RT> {
        Replies { inner, sent: self.0, received: 0, overdue, deadline: None, is_ended: false }
    }
}

impl Stream for Requests {
    type Item = v1::AppendRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.inner.poll_next_unpin(context);
        match &polled {
            Poll::Ready(Some(_)) => {
                self.sent.count.fetch_add(1, Ordering::SeqCst);
                self.sent.wake();
            }
            Poll::Ready(None) => {
                self.sent.is_all.store(true, Ordering::SeqCst);
                self.sent.wake();
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl<RT: AsyncRuntime> Replies<RT> {
    fn end(&mut self, last: Option<TransportError>) -> Poll<Option<Result<v1::AppendReply, TransportError>>> {
        self.is_ended = true;
        Poll::Ready(last.map(Err))
    }
}

impl<RT: AsyncRuntime> Stream for Replies<RT> {
    type Item = Result<v1::AppendReply, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        *self.sent.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        match self.inner.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(reply))) => {
                self.received += 1;
                return Poll::Ready(Some(Ok(reply)));
            }
            Poll::Ready(Some(Err(error))) => return self.end(Some(error)),
            Poll::Ready(None) => return self.end(None),
            Poll::Pending => {}
        }
        // In this order: once all are out, their number does not change any more.
        let is_all = self.sent.is_all.load(Ordering::SeqCst);
        let sent = self.sent.count.load(Ordering::SeqCst);
        if sent <= self.received {
            self.deadline = None;
            // The other side may never say that it has ended too: its end may be lost.
            return if is_all { self.end(None) } else { Poll::Pending };
        }
        let (received, overdue) = (self.received, self.overdue);
        if self.deadline.as_ref().is_none_or(|(awaited, _)| *awaited != received) {
            self.deadline = Some((received, Box::pin(RT::sleep(overdue))));
        }
        let Some((_, sleep)) = &mut self.deadline else { return Poll::Pending };
        match sleep.as_mut().poll(context) {
            Poll::Ready(()) => self.end(Some(TransportError::Timeout(overdue))),
            Poll::Pending => Poll::Pending,
        }
    }
}
