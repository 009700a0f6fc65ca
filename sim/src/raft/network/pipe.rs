//! One direction of a stream, at the end where things come out.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;

struct Held<T> {
    items: VecDeque<T>,
    is_closed: bool,
    waker: Option<Waker>,
}

/// A queue without bound: what lies in it is on the wire. Clones share it.
pub(super) struct Pipe<T>(Arc<Mutex<Held<T>>>);

impl<T> Clone for Pipe<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Pipe<T> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Held { items: VecDeque::new(), is_closed: false, waker: None })))
    }

    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something in; after the end it is dropped.
    pub(super) fn push(&self, item: T) {
        let waker = {
            let mut held = self.held();
            if !held.is_closed {
                held.items.push_back(item);
            }
            held.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends it behind what is in it.
    pub(super) fn close(&self) {
        let waker = {
            let mut held = self.held();
            held.is_closed = true;
            held.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Stream for Pipe<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut held = self.held();
        match held.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if held.is_closed => Poll::Ready(None),
            None => {
                held.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
