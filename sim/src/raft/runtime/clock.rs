//! Virtual time as openraft asks for it: moments, waits, deadlines.

use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::executor::{self, Event, EventKey, nanos};

/// A moment, in nanoseconds since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for Moment {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl openraft_rt::Instant for Moment {
    fn now() -> Self {
        Self(executor::now())
    }
}

/// A wait until a moment.
pub(crate) struct Sleep {
    until: Moment,
    /// The event that wakes it.
    key: Option<EventKey>,
}

impl Sleep {
    pub(super) fn until(until: Moment) -> Self {
        Self { until, key: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (until, old) = (self.until.0, self.key.take());
        let key = executor::try_with(|core| {
            if let Some(old) = old {
                core.events.remove(&old);
            }
            (core.now < until).then(|| core.enter(until, Event::Wake(context.waker().clone())))
        });
        self.key = key.flatten();
        if self.key.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            // Dropped outside: a waker may be the last to hold a task.
            drop(executor::try_with(|core| core.events.remove(&key)));
        }
    }
}

/// The moment came before the future was done.
#[derive(Debug, thiserror::Error)]
#[error("the time is over")]
pub(crate) struct Elapsed;

/// A future with a deadline.
pub(crate) struct Timeout<F> {
    future: Pin<Box<F>>,
    deadline: Sleep,
}

impl<F> Timeout<F> {
    pub(super) fn new(future: F, deadline: Moment) -> Self {
        Self { future: Box::pin(future), deadline: Sleep::until(deadline) }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(value) = self.future.as_mut().poll(context) {
            return Poll::Ready(Ok(value));
        }
        Pin::new(&mut self.deadline).poll(context).map(|()| Err(Elapsed))
    }
}
