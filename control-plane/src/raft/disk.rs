//! The only disk that Raft sees: an ordered log of records, and snapshots.

use std::io;

/// Told once what it waits for is durable, or why it is not; called on a thread of the disk's.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A place that keeps what it says it kept, even if the power fails right after.
///
/// Completion by callback suits a thread that syncs many appends at once as well as an event on virtual time.
/// After the first error a disk takes nothing any more: what a failed sync left behind is unknown.
pub trait Disk: Clone + Send + Sync + 'static {
    /// Appends records and calls `done` once they, and everything appended before them, are durable.
    ///
    /// Records of one call may survive a crash in part, but never a later one without all earlier ones.
    fn append(&self, records: Vec<Record>, done: Done);

    /// Appends a record that needs no syncing of its own: it is durable no later than the next [`Disk::append`].
    fn append_lazily(&self, record: Record);

    /// Durably keeps a snapshot that covers the log up to `index`, and calls `done`.
    fn put_snapshot(&self, index: u64, bytes: Vec<u8>, done: Done);

    /// Returns the newest whole snapshot.
    fn snapshot(&self) -> io::Result<Option<Vec<u8>>>;
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: RecordKind,
    /// Which entry it is about; zero for votes and commits.
    pub index: u64,
    /// Its content; what it means depends on the kind.
    pub payload: Vec<u8>,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// The vote of this node; the last one counts.
    Vote,
    /// The entry at this index.
    Entry,
    /// The entry at this index and all after it are taken back.
    Truncate,
    /// The entry at this index and all before it are covered by a snapshot.
    Purge,
    /// What is known to be committed; the last one counts.
    Committed,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Vote, Self::Entry, Self::Truncate, Self::Purge, Self::Committed];

    /// Returns the number that stands for it on disk.
    pub const fn code(self) -> u8 {
        match self {
            Self::Vote => 1,
            Self::Entry => 2,
            Self::Truncate => 3,
            Self::Purge => 4,
            Self::Committed => 5,
        }
    }

    /// Returns the kind that a number on disk stands for, if this version knows it.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}
