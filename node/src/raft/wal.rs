//! The write-ahead log: one queue and one thread for everything that must keep its order.
//!
//! The thread takes whatever has queued up, writes it as one batch, syncs once and tells everybody: group commit. After any
//! error it takes nothing more, because what a failed sync left behind is unknown, and the daemon ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use control_plane::raft::{Disk, Done, Record, RecordKind};
use tokio::sync::watch;

use super::frame::{HEAD, write};
use super::segment::{self, DamageError, SEGMENT_BYTES};
use super::snapshot::Snapshots;

/// Records that one batch takes at most.
const BATCH_RECORDS_MAX: usize = 4096;

/// The bytes after which a batch takes no more records.
const BATCH_BYTES_GOAL: usize = 4 << 20;

/// How long to wait before trying again what a full disk had no room for.
const FULL_PAUSE: Duration = Duration::from_millis(200);

enum Job {
    Append(Vec<Record>, Option<Done>),
    Stop,
}

/// The log and the snapshots on this machine's disk; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Wal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    jobs: Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
    snapshots: Snapshots,
    failure: watch::Sender<Option<String>>,
    bytes: Arc<AtomicU64>,
    /// Whoever waits for room on the disk gives up.
    is_stopping: Arc<AtomicBool>,
}

impl Wal {
    /// Opens the log in a folder, erases what a power cut tore, and returns every record in order.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<Record>), DamageError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| DamageError::Io { path, source }
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        let snapshots = Snapshots::open(folder.join("snapshots")).map_err(at(folder))?;
        let numbers = segment::list(folder)?;
        let mut records = Vec::new();
        let mut segments = BTreeMap::new();
        let (mut next, mut end, mut is_torn) = (0, 8, false);
        for (place, number) in numbers.iter().enumerate() {
            let content = segment::load(folder, *number, next, place + 1 == numbers.len())?;
            let last = content.records.iter().filter(|record| record.kind == RecordKind::Entry);
            segments.insert(*number, last.map(|record| record.index).max().unwrap_or(0));
            (next, end, is_torn) = (content.next, content.end, content.is_torn);
            records.extend(content.records);
        }
        let current = numbers.last().copied().unwrap_or(1);
        let path = segment::path(folder, current);
        let file = if numbers.is_empty() {
            segments.insert(current, 0);
            segment::create(folder, current, SEGMENT_BYTES).map_err(at(folder))?
        } else {
            File::options().read(true).write(true).open(&path).map_err(at(&path))?
        };
        if is_torn {
            tracing::warn!(file = %path.display(), offset = end, "a torn write at the end of the log is erased");
            segment::erase(&file, end).map_err(at(&path))?;
        }
        let failure = watch::Sender::new(None);
        let bytes = Arc::new(AtomicU64::new(0));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut writer = Writer {
            folder: folder.to_path_buf(),
            file,
            current,
            end,
            next: next.max(1),
            segments,
            kept: BTreeMap::new(),
            failure: failure.clone(),
            bytes: Arc::clone(&bytes),
            buffer: Vec::new(),
            is_stopping: Arc::clone(&is_stopping),
        };
        records.iter().for_each(|record| writer.remember(record));
        writer.count();
        let (jobs, queue) = channel();
        let thread =
            std::thread::Builder::new().name("wal".to_owned()).spawn(move || writer.run(&queue)).map_err(at(folder))?;
        let shared = Shared { jobs, thread: Mutex::new(Some(thread)), snapshots, failure, bytes, is_stopping };
        Ok((Self(Arc::new(shared)), records))
    }

    /// Watches for the error after which nothing is taken any more.
    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.0.failure.subscribe()
    }

    /// Returns how many bytes the segments take.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the thread.
    pub(super) fn stop(&self) {
        self.0.is_stopping.store(true, Ordering::Relaxed);
        // A thread that has ended already needs no word.
        let _ = self.0.jobs.send(Job::Stop);
        let thread = self.0.thread.lock().expect("no holder of this lock panics").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread of the log ended by a panic");
        }
    }
}

impl Disk for Wal {
    fn append(&self, records: Vec<Record>, done: Done) {
        if let Err(error) = self.0.jobs.send(Job::Append(records, Some(done)))
            && let Job::Append(_, Some(done)) = error.0
        {
            done(Err(io::Error::other("the log has stopped")));
        }
    }

    fn append_lazily(&self, record: Record) {
        // A log that has stopped keeps nothing, and says so to whoever asks for durability.
        let _ = self.0.jobs.send(Job::Append(vec![record], None));
    }

    fn put_snapshot(&self, index: u64, bytes: Vec<u8>, done: Done) {
        let (snapshots, is_stopping) = (self.0.snapshots.clone(), Arc::clone(&self.0.is_stopping));
        let spawned = std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || {
            done(once_there_is_room("a snapshot", &is_stopping, || snapshots.put(index, &bytes)));
        });
        if let Err(error) = spawned {
            // `done` went down with the closure, which its waiter takes for an error.
            tracing::error!(%error, "no thread for a snapshot");
        }
    }

    fn snapshot(&self) -> io::Result<Option<Vec<u8>>> {
        self.0.snapshots.newest()
    }
}

/// Does what takes room on the disk, again and again while the disk is full: nothing was written that would have to be undone,
/// and the node goes on as soon as there is room.
fn once_there_is_room<T>(
    what: &'static str,
    is_stopping: &AtomicBool,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    let mut is_told = false;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && !is_stopping.load(Ordering::Relaxed) => {
                if !is_told {
                    tracing::error!(what, "the disk is full: nothing changes until there is room");
                    is_told = true;
                }
                std::thread::sleep(FULL_PAUSE);
            }
            result => {
                if is_told && result.is_ok() {
                    tracing::info!(what, "the disk has room again");
                }
                return result;
            }
        }
    }
}

/// The thread's own state.
struct Writer {
    folder: PathBuf,
    file: File,
    current: u64,
    /// Where in the current segment the next batch goes.
    end: u64,
    /// The number of the next batch.
    next: u64,
    /// Each segment and the highest entry in it.
    segments: BTreeMap<u64, u64>,
    /// The last record of each kind that must survive the segment it stands in.
    kept: BTreeMap<RecordKind, Record>,
    failure: watch::Sender<Option<String>>,
    bytes: Arc<AtomicU64>,
    buffer: Vec<u8>,
    is_stopping: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        let mut failed: Option<String> = None;
        while let Ok(job) = queue.recv() {
            let (mut records, mut dones, mut bytes, mut stops) = (Vec::new(), Vec::new(), 0, false);
            let mut next = Some(job);
            while let Some(job) = next {
                match job {
                    Job::Append(more, done) => {
                        bytes += more.iter().map(|record| record.payload.len() + 13).sum::<usize>();
                        records.extend(more);
                        dones.extend(done);
                    }
                    Job::Stop => {
                        stops = true;
                        break;
                    }
                }
                let is_full = records.len() >= BATCH_RECORDS_MAX || bytes >= BATCH_BYTES_GOAL;
                next = if is_full { None } else { queue.try_recv().ok() };
            }
            if failed.is_none()
                && !records.is_empty()
                && let Err(error) = self.write(&records)
            {
                tracing::error!(%error, "the log cannot be written any more");
                failed = Some(error.to_string());
                self.failure.send_replace(failed.clone());
            }
            for done in dones {
                done(failed.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.clone()))));
            }
            if stops {
                return;
            }
        }
    }

    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        self.buffer.clear();
        write(&mut self.buffer, self.next, records);
        let length = u64::try_from(self.buffer.len()).map_err(io::Error::other)?;
        let room = self.file.metadata()?.len().saturating_sub(self.end);
        if length > room {
            self.rotate(length)?;
            self.buffer.clear();
            write(&mut self.buffer, self.next, records);
        }
        self.file.write_all_at(&self.buffer, self.end)?;
        self.file.sync_data()?;
        self.end += length;
        self.next += 1;
        for record in records {
            self.remember(record);
        }
        if records.iter().any(|record| record.kind == RecordKind::Purge) {
            self.purge();
        }
        Ok(())
    }

    /// Notes what later decides about segments.
    fn remember(&mut self, record: &Record) {
        match record.kind {
            RecordKind::Entry => {
                let last = self.segments.entry(self.current).or_insert(0);
                *last = (*last).max(record.index);
            }
            RecordKind::Vote | RecordKind::Purge | RecordKind::Committed => {
                self.kept.insert(record.kind, record.clone());
            }
            RecordKind::Truncate => {}
        }
    }

    /// Begins the next segment, with the votes and the like that older segments hold.
    fn rotate(&mut self, needed: u64) -> io::Result<()> {
        let carried: Vec<Record> = self.kept.values().cloned().collect();
        let mut bytes = Vec::new();
        if !carried.is_empty() {
            write(&mut bytes, self.next, &carried);
        }
        let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        let (folder, number, bytes_needed) = (&self.folder, self.current + 1, needed + length + 8 + HEAD as u64);
        self.file = once_there_is_room("the next segment of the log", &self.is_stopping, || {
            segment::create(folder, number, bytes_needed)
        })?;
        self.current += 1;
        self.segments.insert(self.current, 0);
        self.end = 8;
        if !carried.is_empty() {
            // Synced with the batch that needed the segment.
            self.file.write_all_at(&bytes, self.end)?;
            self.end += length;
            self.next += 1;
        }
        self.count();
        Ok(())
    }

    /// Deletes the oldest segments as long as a snapshot covers every entry in them.
    fn purge(&mut self) {
        let covered = self.kept.get(&RecordKind::Purge).map_or(0, |record| record.index);
        while let Some((oldest, last)) = self.segments.first_key_value().map(|(oldest, last)| (*oldest, *last))
            && oldest != self.current
            && last <= covered
        {
            let path = segment::path(&self.folder, oldest);
            if let Err(error) = fs::remove_file(&path) {
                // It is only space that is lost.
                tracing::warn!(file = %path.display(), %error, "a covered segment was left behind");
                return;
            }
            self.segments.remove(&oldest);
        }
        self.count();
    }

    fn count(&self) {
        let segments = u64::try_from(self.segments.len()).unwrap_or(u64::MAX);
        self.bytes.store(segments.saturating_mul(SEGMENT_BYTES), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
