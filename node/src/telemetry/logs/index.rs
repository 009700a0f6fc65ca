//! Which segments hold which times and requests, in sled; all of it can be found out again by reading the segments.
//!
//! A segment is entered as a whole when it is full. One that is not entered is simply read: the index makes reading faster,
//! and what it does not know costs time and nothing else. An engine that fails is told once and gone without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use control_plane::model::FunctionName;

use super::segment::Facts;

/// A segment: `S function 0 first`, in big-endian → `bytes at_min at_max last`.
const SEGMENT: u8 = b'S';

/// A request: `R function 0 request 0 first` → the offset of its first line.
const REQUEST: u8 = b'R';

#[derive(Clone, Debug)]
pub(super) struct Index {
    tree: sled::Tree,
    has_failed: Arc<AtomicBool>,
}

/// What the index knows of where a request's lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The segment holds none.
    Nowhere,
    /// The first one stands at this offset.
    From(u64),
    /// The segment must be read to know.
    Unknown,
}

impl Index {
    pub(super) fn open(db: &sled::Db) -> Result<Self, sled::Error> {
        Ok(Self { tree: db.open_tree("function-logs")?, has_failed: Arc::default() })
    }

    /// Enters a full segment: its requests before itself, in one step.
    pub(super) fn enter(&self, function: &FunctionName, first: u64, facts: &Facts) {
        let mut batch = sled::Batch::default();
        for (request, offset) in &facts.requests {
            batch.insert(request_key(function, request, first), &offset.to_be_bytes());
        }
        let mut value = Vec::with_capacity(32);
        for number in [facts.bytes, facts.at_min_us, facts.at_max_us, facts.last] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        batch.insert(segment_key(function, first), value);
        self.tell(self.tree.apply_batch(batch));
    }

    /// Forgets a segment and the requests in it.
    pub(super) fn forget(&self, function: &FunctionName, first: u64, requests: impl Iterator<Item = String>) {
        let mut batch = sled::Batch::default();
        batch.remove(segment_key(function, first));
        for request in requests {
            batch.remove(request_key(function, &request, first));
        }
        self.tell(self.tree.apply_batch(batch));
    }

    /// Returns the facts of a segment, without its requests, if it was entered.
    pub(super) fn facts(&self, function: &FunctionName, first: u64) -> Option<Facts> {
        let value = self.tell(self.tree.get(segment_key(function, first)))??;
        let mut numbers = value.chunks_exact(8).map(|chunk| chunk.try_into().map(u64::from_be_bytes));
        let mut next = || numbers.next()?.ok();
        Some(Facts { bytes: next()?, at_min_us: next()?, at_max_us: next()?, last: next()?, ..Facts::default() })
    }

    /// Returns where a segment that was entered holds lines of a request.
    pub(super) fn place(&self, function: &FunctionName, first: u64, request: &str) -> Place {
        match self.tell(self.tree.get(request_key(function, request, first))) {
            None => Place::Unknown,
            Some(None) => Place::Nowhere,
            Some(Some(offset)) => {
                <[u8; 8]>::try_from(&*offset).map_or(Place::Unknown, |offset| Place::From(u64::from_be_bytes(offset)))
            }
        }
    }

    /// Returns what the engine answered; a failure is told the first time.
    fn tell<T>(&self, result: Result<T, sled::Error>) -> Option<T> {
        match result {
            Ok(answer) => Some(answer),
            Err(error) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the index of function logs fails: reading logs is slow until the next start");
                }
                None
            }
        }
    }
}

fn segment_key(function: &FunctionName, first: u64) -> Vec<u8> {
    [&[SEGMENT], function.as_str().as_bytes(), &[0], &first.to_be_bytes()].concat()
}

fn request_key(function: &FunctionName, request: &str, first: u64) -> Vec<u8> {
    [&[REQUEST], function.as_str().as_bytes(), &[0], request.as_bytes(), &[0], &first.to_be_bytes()].concat()
}
