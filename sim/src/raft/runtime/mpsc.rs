//! A bounded queue from many to one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};

use openraft_rt::{Mpsc, MpscReceiver, MpscSender, MpscWeakSender, OptionalSend, SendError, TryRecvError};

pub(crate) struct Queues;

struct Queue<T> {
    items: VecDeque<T>,
    room: usize,
    senders: usize,
    is_closed: bool,
    receiver: Option<Waker>,
    /// Senders that wait for room, in the order in which they came.
    waiting: VecDeque<Waker>,
}

fn lock<T>(queue: &Mutex<Queue<T>>) -> MutexGuard<'_, Queue<T>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

pub(crate) struct Sender<T>(Arc<Mutex<Queue<T>>>);

pub(crate) struct Receiver<T>(Arc<Mutex<Queue<T>>>);

pub(crate) struct WeakSender<T>(Weak<Mutex<Queue<T>>>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut queue = lock(&self.0);
            queue.senders -= 1;
            if queue.senders == 0 { queue.receiver.take() } else { None }
        };
        wake(receiver);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (items, waiting) = {
            let mut queue = lock(&self.0);
            queue.is_closed = true;
            (std::mem::take(&mut queue.items), std::mem::take(&mut queue.waiting))
        };
        drop(items);
        wake(waiting);
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

impl Mpsc for Queues {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(room: usize) -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Mutex::new(Queue {
            items: VecDeque::new(),
            room: room.max(1),
            senders: 1,
            is_closed: false,
            receiver: None,
            waiting: VecDeque::new(),
        }));
        (Sender(Arc::clone(&queue)), Receiver(queue))
    }
}

impl<T: OptionalSend> MpscSender<Queues, T> for Sender<T> {
    fn send(&self, item: T) -> impl Future<Output = Result<(), SendError<T>>> + OptionalSend {
        let mut item = Some(item);
        poll_fn(move |context| {
            let mut queue = lock(&self.0);
            if queue.items.len() >= queue.room && !queue.is_closed {
                queue.waiting.push_back(context.waker().clone());
                return Poll::Pending;
            }
            let item = item.take().expect("a future that is done is not polled again");
            if queue.is_closed {
                return Poll::Ready(Err(SendError(item)));
            }
            queue.items.push_back(item);
            let receiver = queue.receiver.take();
            drop(queue);
            wake(receiver);
            Poll::Ready(Ok(()))
        })
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(Arc::downgrade(&self.0))
    }
}

impl<T> Receiver<T> {
    fn take(&self, waker: Option<&Waker>) -> Result<T, TryRecvError> {
        let mut queue = lock(&self.0);
        match queue.items.pop_front() {
            Some(item) => {
                // All of them: a sender that has given up must not swallow the turn of the next.
                let waiting = std::mem::take(&mut queue.waiting);
                drop(queue);
                wake(waiting);
                Ok(item)
            }
            None if queue.senders == 0 => Err(TryRecvError::Disconnected),
            None => {
                queue.receiver = waker.cloned().or(queue.receiver.take());
                Err(TryRecvError::Empty)
            }
        }
    }
}

impl<T: OptionalSend> MpscReceiver<T> for Receiver<T> {
    fn recv(&mut self) -> impl Future<Output = Option<T>> + OptionalSend {
        poll_fn(|context| match self.take(Some(context.waker())) {
            Ok(item) => Poll::Ready(Some(item)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        })
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.take(None)
    }
}

impl<T: OptionalSend> MpscWeakSender<Queues, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        let shared = self.0.upgrade()?;
        {
            let mut queue = lock(&shared);
            if queue.senders == 0 {
                return None;
            }
            queue.senders += 1;
        }
        Some(Sender(shared))
    }
}
