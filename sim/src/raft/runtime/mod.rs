//! openraft's runtime on virtual time: the same seed gives the same order of everything.
//!
//! ```text
//! executor ── polls one ready task, picked at random; without any, goes on to the next event
//!    ├── tasks    where they lie
//!    ├── clock    waits and deadlines are events
//!    ├── join     what a task comes to
//!    └── mpsc, oneshot, watch, mutex: wake in one order, unlike those of tokio
//! ```

mod clock;
mod executor;
mod join;
mod mpsc;
mod mutex;
mod oneshot;
mod tasks;
mod watch;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant, OptionalSend};

pub(crate) use self::clock::Moment;
pub(crate) use self::executor::{
    Group, WORLD, after, begin, end, group, kill, note, now, pause, resume, run_until, spawn_in,
};
pub(crate) use self::join::Join;

use self::clock::{Elapsed, Sleep, Timeout};
use self::join::Dropped;
use crate::rng::Rng;

/// The runtime; all of it lives in the thread.
#[derive(Debug)]
pub(crate) struct Virtual;

/// Random numbers in the form that openraft asks for, out of a stream of the seed's.
pub(crate) struct Draws(Rng);

impl rand::TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::try_from(self.0.bits() >> 32).unwrap_or(0))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.bits())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.bits().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Notes that it was woken.
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl AsyncRuntime for Virtual {
    type JoinError = Dropped;
    type JoinHandle<T: OptionalSend + 'static> = Join<T>;
    type Sleep = Sleep;
    type Instant = Moment;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = Draws;
    type Mpsc = mpsc::Queues;
    type Watch = watch::Watches;
    type Oneshot = oneshot::Oneshots;
    type Mutex<T: OptionalSend + 'static> = mutex::Lock<T>;

    fn spawn<T>(future: T) -> Join<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn_in(executor::current(), future)
    }

    fn sleep(duration: Duration) -> Sleep {
        Sleep::until(Moment::now() + duration)
    }

    fn sleep_until(deadline: Moment) -> Sleep {
        Sleep::until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Timeout<F> {
        Timeout::new(future, Moment::now() + duration)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Moment, future: F) -> Timeout<F> {
        Timeout::new(future, deadline)
    }

    fn is_panic(_: &Dropped) -> bool {
        // A panic is not caught on the way to whoever plays the seed.
        false
    }

    fn thread_rng() -> Draws {
        let seed = executor::try_with(|core| core.draws.bits()).unwrap_or(0);
        Draws(Rng::stream(seed, "draws"))
    }

    fn new(_threads: usize) -> Self {
        begin(0);
        Self
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut future = pin!(future);
        loop {
            if flag.0.swap(false, Ordering::Relaxed)
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return value;
            }
            let goes_on = run_until(Duration::MAX, || flag.0.load(Ordering::Relaxed));
            assert!(goes_on || flag.0.load(Ordering::Relaxed), "the future waits for nothing that could happen");
        }
    }

    /// Runs `f` at once: a thread would come back at a time of its own.
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        std::future::ready(Ok(f()))
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::testing::Suite;

    use super::*;

    #[test]
    fn it_does_what_openraft_asks_of_a_runtime() {
        Suite::<Virtual>::test_all();
        end();
    }

    #[test]
    fn the_order_of_ready_tasks_depends_on_the_seed_alone() {
        let order = |seed| {
            begin(seed);
            let (tx, rx) = std::sync::mpsc::channel();
            for task in 0..20 {
                let tx = tx.clone();
                spawn_in(WORLD, async move { tx.send(task).expect("the receiver lives") });
            }
            run_until(Duration::from_secs(1), || false);
            end();
            drop(tx);
            rx.into_iter().collect::<Vec<i32>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>(), "every task ran once");
    }

    #[test]
    fn what_is_killed_or_paused_does_not_run() {
        begin(1);
        let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
        let task = |name: &'static str, group| {
            let ran = Arc::clone(&ran);
            spawn_in(group, async move {
                Virtual::sleep_until(Moment::now() + Duration::from_millis(5)).await;
                ran.lock().expect("nobody panics").push((name, now()));
            });
        };
        let (killed, paused) = (group(), group());
        task("killed", killed);
        task("paused", paused);
        task("free", WORLD);
        after(Duration::from_millis(1), move || {
            kill(killed);
            pause(paused);
        });
        after(Duration::from_millis(9), move || resume(paused));
        run_until(Duration::from_secs(1), || false);
        task("late", killed);
        run_until(Duration::from_secs(2), || false);
        end();
        let ran = ran.lock().expect("nobody panics").clone();
        assert_eq!(ran, [("free", 5_000_000), ("paused", 9_000_000)]);
    }
}
