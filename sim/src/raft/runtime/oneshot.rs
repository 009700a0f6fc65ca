//! A channel for one value.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use openraft_rt::{Oneshot, OneshotSender, OptionalSend};

pub(crate) struct Oneshots;

struct Slot<T> {
    value: Option<T>,
    has_sender: bool,
    has_receiver: bool,
    waker: Option<Waker>,
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Sender<T>(Arc<Mutex<Slot<T>>>);

pub(crate) struct Receiver<T>(Arc<Mutex<Slot<T>>>);

/// The sender was dropped.
#[derive(Debug, thiserror::Error)]
#[error("nobody is left to send")]
pub(crate) struct Closed;

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = lock(&self.0);
            slot.has_sender = false;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let value = {
            let mut slot = lock(&self.0);
            slot.has_receiver = false;
            slot.value.take()
        };
        drop(value);
    }
}

impl Oneshot for Oneshots {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type ReceiverError = Closed;

    fn channel<T: OptionalSend>() -> (Sender<T>, Receiver<T>) {
        let slot = Arc::new(Mutex::new(Slot { value: None, has_sender: true, has_receiver: true, waker: None }));
        (Sender(Arc::clone(&slot)), Receiver(slot))
    }
}

impl<T: OptionalSend> OneshotSender<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        let mut slot = lock(&self.0);
        if !slot.has_receiver {
            return Err(value);
        }
        // The receiver is woken as this goes out of scope.
        slot.value = Some(value);
        Ok(())
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = lock(&self.0);
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Ok(value));
        }
        if !slot.has_sender {
            return Poll::Ready(Err(Closed));
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
