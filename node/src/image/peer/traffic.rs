//! How many bytes of blobs went to peers and came from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the store was opened; clones share them.
#[derive(Clone, Debug, Default)]
pub struct PeerTraffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    fetched: AtomicU64,
    served: AtomicU64,
}

impl PeerTraffic {
    /// Returns the bytes that came from peers, also those that were thrown away.
    pub fn fetched_bytes(&self) -> u64 {
        self.0.fetched.load(Ordering::Relaxed)
    }

    /// Returns the bytes that were given to peers.
    pub fn served_bytes(&self) -> u64 {
        self.0.served.load(Ordering::Relaxed)
    }

    pub(super) fn fetched(&self, count: u64) {
        self.0.fetched.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn served(&self, count: usize) {
        self.0.served.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
