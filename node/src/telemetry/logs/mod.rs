//! What functions wrote, kept after their instances are gone.
//!
//! Lines are appended to segment files with a checksum each, one folder per function. The oldest segments go when a function
//! has more than its share, or when they are too old. A crash may tear the end off the newest segment; that is erased. Lines are
//! not synced one by one: the power failing loses those of the last seconds, nothing older.
//!
//! Nothing here holds up a function: lines that come faster than they can be written, or while the disk is full, are given up
//! and counted (`hearth_function_log_lines_lost_total`).

mod follow;
mod index;
mod read;
mod record;
mod segment;
mod shelf;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use control_plane::model::{FunctionName, InstanceId, RevisionNumber};
use proto::json;
use tokio::sync::oneshot;

pub use follow::{FOLLOW_WAITING_MAX, Follow, Followed};
pub use read::{PAGE_MAX_BYTES, Page, Query, ReadError};

use crate::clock::Clock;
use crate::contract::{LogLine, LogSource, Stream};
use crate::telemetry::Metrics;
use follow::Followers;
use index::Index;
use record::Record;
use writer::{Order, Writer};

/// How many lines may wait to be written.
pub const LINES_WAITING_MAX: usize = 16 * 1024;

/// How many bytes of lines may wait to be written.
pub const LINES_WAITING_MAX_BYTES: usize = 16 << 20;

/// How long reading waits for what was written before it.
const BARRIER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Into how many segments a function's share is divided: what goes at once when it is over.
const SEGMENTS_PER_FUNCTION: u64 = 8;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most of one function, in bytes; exceeded by one batch of lines at most.
    pub function_max_bytes: u64,
    /// How long.
    pub age_max: Duration,
}

/// Whose lines they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The function.
    pub function: FunctionName,
    /// Its revision.
    pub revision: RevisionNumber,
    /// The instance.
    pub instance: InstanceId,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The index cannot be opened.
    #[error("cannot open the index of function logs")]
    Index(#[source] sled::Error),
    /// The thread that writes cannot be started.
    #[error("cannot start the thread that writes function logs")]
    Thread(#[source] io::Error),
}

/// The store; cheap to clone, and all clones are one.
#[derive(Clone, Debug)]
pub struct LogStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    index: Index,
    metrics: Arc<Metrics>,
    followers: Followers,
    queued_bytes: Arc<AtomicUsize>,
    orders: SyncSender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LogStore {
    /// Opens the store in `folder`; the index in `db` is filled again where it does not know what is there.
    pub fn open(
        folder: PathBuf,
        db: &sled::Db,
        limits: Limits,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let index = Index::open(db).map_err(OpenError::Index)?;
        let (orders, receiver) = sync_channel(LINES_WAITING_MAX);
        let followers = Followers::default();
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            folder: folder.clone(),
            limits,
            clock,
            index: index.clone(),
            metrics: Arc::clone(&metrics),
            followers: followers.clone(),
            queued_bytes: Arc::clone(&queued_bytes),
            shelves: BTreeMap::new(),
            told: None,
        };
        let thread = std::thread::Builder::new()
            .name("function-logs".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(OpenError::Thread)?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { shared: Arc::new(Shared { folder, index, metrics, followers, queued_bytes, orders, thread }) })
    }

    /// Takes a line to be written; never waits. A line that finds the queue full is given up and counted.
    pub fn append(&self, origin: &Origin, line: LogLine) {
        let record = Record {
            sequence: 0,
            at_us: line.at_us,
            revision: origin.revision,
            instance: origin.instance,
            stream: match line.stream {
                Stream::Stdout => json::LogStream::Stdout,
                Stream::Stderr => json::LogStream::Stderr,
            },
            request: line.request_id.map(|id| id.to_string()),
            text: line.text,
            is_mark: line.is_mark,
        };
        let bytes = size_of::<Record>() + record.text.len() + record.request.as_ref().map_or(0, String::len);
        let shared = &self.shared;
        let queued = shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_taken = queued + bytes <= LINES_WAITING_MAX_BYTES
            && shared.orders.try_send(Order::Line(origin.function.clone(), Box::new(record), bytes)).is_ok();
        if !is_taken {
            shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            shared.metrics.function_log_lines_lost.inc();
        }
    }

    /// Takes the lines of an instance until it has no more.
    pub async fn drain(&self, origin: Origin, mut source: LogSource) {
        while let Some(received) = source.recv().await {
            if received.lost_lines > 0 {
                self.shared.metrics.function_log_lines_lost.inc_by(received.lost_lines);
                let text =
                    format!("{} lines were lost here: they came faster than they were read", received.lost_lines);
                let line = &received.line;
                let (at_us, stream) = (line.at_us, line.stream);
                self.append(&origin, LogLine { at_us, stream, request_id: None, text, is_mark: true });
            }
            self.append(&origin, received.line);
        }
    }

    /// Reads lines; those taken before are among them.
    pub async fn read(&self, query: Query) -> Result<Page, ReadError> {
        let (done, is_done) = oneshot::channel();
        match self.shared.orders.try_send(Order::Barrier(done)) {
            Ok(()) => match tokio::time::timeout(BARRIER_WAIT_MAX, is_done).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ReadError::Closed),
                Err(_) => return Err(ReadError::Busy),
            },
            Err(TrySendError::Full(_)) => return Err(ReadError::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(ReadError::Closed),
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || read::read(&shared.folder, &shared.index, &query))
            .await
            .map_err(|_| ReadError::Closed)?
    }

    /// Follows the lines of a function from here on.
    pub fn follow(&self, function: &FunctionName) -> Follow {
        self.shared.followers.follow(function)
    }

    /// Writes what waits, ends every follow, and closes the store. Blocks on the disk.
    pub fn close(&self) {
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // A thread that has ended by itself takes no orders; then there is nothing to wait for either.
        let _ = self.shared.orders.send(Order::Stop);
        if thread.join().is_err() {
            tracing::error!("the thread that writes function logs panicked");
        }
        self.shared.followers.end();
    }
}

/// Writes a record as clients see it.
fn line(function: &FunctionName, record: Record) -> json::LogLine {
    json::LogLine {
        at_us: record.at_us,
        function: function.to_string(),
        revision: record.revision.0,
        instance: record.instance.to_string(),
        stream: record.stream,
        request_id: record.request,
        text: record.text,
        is_mark: record.is_mark,
    }
}

/// Makes a line that tells about lines.
fn mark(
    function: &FunctionName,
    at_us: u64,
    revision: RevisionNumber,
    instance: InstanceId,
    text: String,
) -> json::LogLine {
    json::LogLine {
        at_us,
        function: function.to_string(),
        revision: revision.0,
        instance: instance.to_string(),
        stream: json::LogStream::Stderr,
        request_id: None,
        text,
        is_mark: true,
    }
}
