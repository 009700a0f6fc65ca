//! A lock that is waited for in virtual time. Its guard takes the value out and puts it back, which needs no `unsafe`.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use openraft_rt::OptionalSend;

pub(crate) struct Lock<T>(Mutex<Held<T>>);

struct Held<T> {
    /// Not here while somebody holds the lock.
    value: Option<T>,
    waiting: VecDeque<Waker>,
}

pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    /// Invariant: here until the guard is dropped.
    value: Option<T>,
}

impl<T> Lock<T> {
    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("the value is here until the guard is dropped")
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("the value is here until the guard is dropped")
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        let waiting = {
            let mut held = self.lock.held();
            held.value = self.value.take();
            std::mem::take(&mut held.waiting)
        };
        // All of them: one that has given up must not swallow the turn of the next.
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T: OptionalSend + 'static> openraft_rt::Mutex<T> for Lock<T> {
    type Guard<'a> = Guard<'a, T>;

    fn new(value: T) -> Self {
        Self(Mutex::new(Held { value: Some(value), waiting: VecDeque::new() }))
    }

    fn lock(&self) -> impl Future<Output = Guard<'_, T>> + OptionalSend {
        poll_fn(|context| {
            let mut held = self.held();
            match held.value.take() {
                Some(value) => Poll::Ready(Guard { lock: self, value: Some(value) }),
                None => {
                    held.waiting.push_back(context.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}
