//! A value that many watch; they are woken in the order in which they began to watch.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::watch::{RecvError, SendError};
use openraft_rt::{OptionalSend, OptionalSync, Watch, WatchReceiver, WatchSender};

pub(crate) struct Watches;

struct Shared<T> {
    value: RwLock<T>,
    watchers: Mutex<Watchers>,
}

struct Watchers {
    version: u64,
    senders: usize,
    receivers: usize,
    /// Who waits, by the number of the receiver.
    wakers: BTreeMap<u64, Waker>,
    last: u64,
}

impl<T> Shared<T> {
    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        let wakers = {
            let mut watchers = self.watchers();
            watchers.version += 1;
            mem::take(&mut watchers.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    fn modify(&self, f: impl FnOnce(&mut T) -> bool) -> bool {
        // There is one thread: a value that is borrowed at this point would stay so for ever.
        let is_modified = f(&mut self.value.try_write().expect("nobody holds the value while it is sent"));
        if is_modified {
            self.changed();
        }
        is_modified
    }
}

pub(crate) struct Sender<T>(Arc<Shared<T>>);

pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
    number: u64,
}

pub(crate) struct Borrowed<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Borrowed<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.watchers().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let wakers = {
            let mut watchers = self.0.watchers();
            watchers.senders -= 1;
            if watchers.senders == 0 { mem::take(&mut watchers.wakers) } else { BTreeMap::new() }
        };
        wakers.into_values().for_each(Waker::wake);
    }
}

impl<T> Receiver<T> {
    fn another(shared: &Arc<Shared<T>>, seen: Option<u64>) -> Self {
        let mut watchers = shared.watchers();
        watchers.receivers += 1;
        watchers.last += 1;
        let (number, seen) = (watchers.last, seen.unwrap_or(watchers.version));
        drop(watchers);
        Self { shared: Arc::clone(shared), seen, number }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self::another(&self.shared, Some(self.seen))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let waker = {
            let mut watchers = self.shared.watchers();
            watchers.receivers -= 1;
            watchers.wakers.remove(&self.number)
        };
        drop(waker);
    }
}

impl Watch for Watches {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Borrowed<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(value: T) -> (Sender<T>, Receiver<T>) {
        let watchers = Watchers { version: 0, senders: 1, receivers: 0, wakers: BTreeMap::new(), last: 0 };
        let shared = Arc::new(Shared { value: RwLock::new(value), watchers: Mutex::new(watchers) });
        let receiver = Receiver::another(&shared, None);
        (Sender(shared), receiver)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<Watches, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.watchers().receivers == 0 {
            return Err(SendError(value));
        }
        self.0.modify(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        self.0.modify(modify)
    }

    fn borrow_watched(&self) -> Borrowed<'_, T> {
        Borrowed(self.0.read())
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver::another(&self.0, None)
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<Watches, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|context| {
            let mut watchers = self.shared.watchers();
            if watchers.version != self.seen {
                self.seen = watchers.version;
                return Poll::Ready(Ok(()));
            }
            if watchers.senders == 0 {
                return Poll::Ready(Err(RecvError(())));
            }
            watchers.wakers.insert(self.number, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn borrow_watched(&self) -> Borrowed<'_, T> {
        Borrowed(self.shared.read())
    }

    fn borrow_and_update(&mut self) -> Borrowed<'_, T> {
        self.seen = self.shared.watchers().version;
        Borrowed(self.shared.read())
    }
}
