//! Raft's log and vote: in memory for reading, on a [`Disk`] for keeping.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};

use super::{Disk, Entry, LogId, Record, RecordKind, Types, Vote, wire};
use crate::codec::DecodeError;
use crate::planted::planted;

/// The most bytes of entries that one message to a peer carries, unless a single entry is larger.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why the records of a disk are no log.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// A record has a content that this version cannot read.
    #[error("the {kind:?} record about entry {index} cannot be read")]
    Record {
        /// Its kind.
        kind: RecordKind,
        /// Its index.
        index: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// Entries are missing between two that are there.
    #[error("entry {found} follows, entry {expected} was expected")]
    Hole {
        /// The entry that should have come.
        expected: u64,
        /// The entry that came.
        found: u64,
    },
}

/// What the log holds from after the last purge on.
#[derive(Default)]
struct Inner {
    /// Entries and their size on disk, in bytes; without holes.
    entries: BTreeMap<u64, (Entry, usize)>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl Inner {
    fn recover(&mut self, record: &Record) -> Result<(), RecoverError> {
        let refuse = |source| RecoverError::Record { kind: record.kind, index: record.index, source };
        match record.kind {
            RecordKind::Vote => self.vote = Some(wire::decode_vote(&record.payload).map_err(refuse)?),
            RecordKind::Committed => self.committed = wire::decode_log_id(&record.payload).map_err(refuse)?,
            RecordKind::Truncate => self.truncate(record.index),
            RecordKind::Purge => {
                let id = wire::decode_log_id(&record.payload).map_err(refuse)?;
                self.purge(id.ok_or_else(|| refuse(DecodeError::Missing("log_id")))?);
            }
            RecordKind::Entry => {
                let entry = wire::decode_entry(&record.payload).map_err(refuse)?;
                // Segments are deleted whole: the oldest one may begin with entries that are purged already.
                let expected = match self.entries.last_key_value() {
                    Some((last, _)) => last + 1,
                    None => entry.log_id.index,
                };
                if entry.log_id.index > expected || entry.log_id.index != record.index {
                    return Err(RecoverError::Hole { expected, found: entry.log_id.index });
                }
                self.truncate(entry.log_id.index);
                self.entries.insert(entry.log_id.index, (entry, record.payload.len()));
            }
        }
        Ok(())
    }

    fn truncate(&mut self, first: u64) {
        self.entries.split_off(&first);
    }

    fn purge(&mut self, last: LogId) {
        self.entries = self.entries.split_off(&(last.index.saturating_add(1)));
        self.purged = Some(last);
    }
}

/// Raft's log store; clones share one log.
pub struct LogStore<D> {
    inner: Arc<Mutex<Inner>>,
    disk: D,
}

impl<D: Clone> Clone for LogStore<D> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), disk: self.disk.clone() }
    }
}

impl<D> fmt::Debug for LogStore<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("LogStore").field("entries", &inner.entries.len()).field("purged", &inner.purged).finish()
    }
}

impl<D> LogStore<D> {
    /// Reads the records that a disk has kept, in the order in which they were appended.
    pub fn open(disk: D, records: impl IntoIterator<Item = Record>) -> Result<Self, RecoverError> {
        let mut inner = Inner::default();
        for record in records {
            inner.recover(&record)?;
        }
        // Entries up to the purge may have come back with the oldest segment.
        if let Some(purged) = inner.purged {
            inner.purge(purged);
        }
        let expected = inner.purged.map_or(0, |id| id.index + 1);
        if let Some((found, _)) = inner.entries.first_key_value()
            && *found > expected
        {
            return Err(RecoverError::Hole { expected, found: *found });
        }
        Ok(Self { inner: Arc::new(Mutex::new(inner)), disk })
    }

    /// Returns the last entry that only a snapshot covers.
    pub fn purged(&self) -> Option<LogId> {
        self.lock().purged
    }

    /// Returns whether nothing was ever written to it.
    pub fn is_pristine(&self) -> bool {
        let inner = self.lock();
        inner.entries.is_empty() && inner.vote.is_none() && inner.purged.is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the log")
    }
}

impl<D: Disk> LogStore<D> {
    /// Appends one record and waits until it is durable.
    async fn keep<RT: AsyncRuntime>(&self, record: Record) -> io::Result<()> {
        let (tx, rx) = RT::Oneshot::channel::<io::Result<()>>();
        let done = Box::new(move |result| {
            // Whoever waited may have been dropped at shutdown.
            let _ = tx.send(result);
        });
        self.disk.append(vec![record], done);
        rx.await.map_err(|_| io::Error::other("the disk has stopped"))?
    }
}

impl<RT: AsyncRuntime, D: Disk> RaftLogReader<Types<RT>> for LogStore<D> {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        if is_empty(&range) {
            return Ok(Vec::new());
        }
        Ok(self.lock().entries.range(range).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.lock().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut room = MESSAGE_BYTES_MAX;
        let mut taken = Vec::new();
        if start < end {
            for (entry, bytes) in self.lock().entries.range(start..end).map(|(_, stored)| stored) {
                if *bytes > room && !taken.is_empty() {
                    break;
                }
                room = room.saturating_sub(*bytes);
                taken.push(entry.clone());
            }
        }
        Ok(taken)
    }
}

/// Returns whether a range holds no index; `BTreeMap::range` panics on some of those.
fn is_empty(range: &impl RangeBounds<u64>) -> bool {
    let start = match range.start_bound() {
        Bound::Included(start) => Some(*start),
        Bound::Excluded(start) => start.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    match (start, range.end_bound()) {
        (None, _) => true,
        (Some(start), Bound::Included(end)) => start > *end,
        (Some(start), Bound::Excluded(end)) => start >= *end,
        (Some(_), Bound::Unbounded) => false,
    }
}

impl<RT: AsyncRuntime, D: Disk> RaftLogStorage<Types<RT>> for LogStore<D> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types<RT>>> {
        let inner = self.lock();
        let last = inner.entries.last_key_value().map(|(_, (entry, _))| entry.log_id).or(inner.purged);
        Ok(LogState { last_purged_log_id: inner.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let record = Record { kind: RecordKind::Vote, index: 0, payload: wire::encode_vote(vote) };
        if !planted!(VoteForgotten) {
            self.keep::<RT>(record).await?;
        }
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.lock().committed = committed;
        // It only spares a restart some waiting, so it rides along with the next write that is synced.
        let payload = wire::encode_log_id(committed);
        self.disk.append_lazily(Record { kind: RecordKind::Committed, index: 0, payload });
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let inner = self.lock();
        if planted!(CommittedGuessed) {
            return Ok(inner.entries.last_key_value().map(|(_, (entry, _))| entry.log_id).or(inner.purged));
        }
        Ok(inner.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<RT>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        let mut stored = Vec::new();
        for entry in entries {
            let payload = wire::encode_entry(&entry);
            stored.push((entry.index(), (entry, payload.len())));
            records.push(Record { kind: RecordKind::Entry, index: stored[stored.len() - 1].0, payload });
        }
        // Readers may see entries before they are durable; openraft counts them only once the callback comes.
        self.lock().entries.extend(stored);
        if planted!(AcknowledgedUnsynced) {
            self.disk.append(records, Box::new(drop));
            callback.io_completed(Ok(()));
        } else {
            self.disk.append(records, Box::new(move |result| callback.io_completed(result)));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let first = last.map_or(0, |id| id.index + 1);
        self.lock().truncate(first);
        self.keep::<RT>(Record { kind: RecordKind::Truncate, index: first, payload: Vec::new() }).await
    }

    async fn purge(&mut self, last: LogId) -> io::Result<()> {
        let payload = wire::encode_log_id(Some(last));
        self.keep::<RT>(Record { kind: RecordKind::Purge, index: last.index, payload }).await?;
        self.lock().purge(last);
        Ok(())
    }
}
