//! What a started task comes to.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The task was dropped before it was done.
#[derive(Debug, thiserror::Error)]
#[error("the task was dropped")]
pub(crate) struct Dropped;

struct Outcome<T> {
    value: Option<T>,
    is_over: bool,
    waker: Option<Waker>,
}

struct Shared<T>(Arc<Mutex<Outcome<T>>>);

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Outcome<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the task is over, done or dropped.
struct Ending<T>(Shared<T>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        let waker = {
            let mut outcome = self.0.lock();
            outcome.is_over = true;
            outcome.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Waits for a task.
pub(crate) struct Join<T>(Shared<T>);

/// Returns the work of a task, and what waits for it.
pub(super) fn pair<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> (impl Future<Output = ()> + Send + 'static, Join<T>) {
    let outcome = Arc::new(Mutex::new(Outcome { value: None, is_over: false, waker: None }));
    let ending = Ending(Shared(Arc::clone(&outcome)));
    let work = async move {
        let value = future.await;
        ending.0.lock().value = Some(value);
    };
    (work, Join(Shared(outcome)))
}

impl<T> Future for Join<T> {
    type Output = Result<T, Dropped>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut outcome = self.0.lock();
        if let Some(value) = outcome.value.take() {
            return Poll::Ready(Ok(value));
        }
        if outcome.is_over {
            return Poll::Ready(Err(Dropped));
        }
        outcome.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
