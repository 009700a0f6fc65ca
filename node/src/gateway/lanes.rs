//! Threads that serve connections: one for each processor, with a reactor of its own.
//!
//! A connection stays on one thread from its first byte to its last, and so do the connections to instances that its calls
//! open. On a runtime of several threads, each event wakes one thread that hands the work to another: for a call that takes
//! thirty microseconds, that is half as much again.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The threads of one gateway; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Lane {
    handle: Handle,
    /// Connections that it serves.
    load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Lanes {
    /// Starts a thread for each processor.
    pub(super) fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let stop = CancellationToken::new();
        let lanes = (0..count).map(|number| Lane::start(number, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { lanes, stop })
    }

    /// Serves a connection on the thread that has the fewest.
    pub(super) fn spawn(&self, connections: &mut JoinSet<()>, work: impl Future<Output = ()> + Send + 'static) {
        let lane = self.lanes.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed));
        let lane = lane.expect("there is a thread for each processor, and there are processors");
        lane.load.fetch_add(1, Ordering::Relaxed);
        let served = Served(Arc::clone(&lane.load));
        let work = async move {
            work.await;
            drop(served);
        };
        connections.spawn_on(work, &lane.handle);
    }
}

/// A connection that is served; its drop says that it is not any more, however that came.
struct Served(Arc<AtomicUsize>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let work = move || runtime.block_on(stop.cancelled());
        let thread = std::thread::Builder::new().name(format!("gateway-{number}")).spawn(work)?;
        Ok(Self { handle, load: Arc::default(), thread: Some(thread) })
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop.cancel();
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a thread of the gateway ended by a panic");
            }
        }
    }
}
