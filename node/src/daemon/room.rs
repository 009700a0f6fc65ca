//! Whether the disk has room for changes.
//!
//! A full disk must not end the node: while there is little room, operators' changes are refused, so that what is left stays for
//! what keeps functions going. It is asked with every change, so the node takes changes again as soon as room is made.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// The room that changes leave on the disk: a segment of the log, a snapshot, and what functions write meanwhile.
const RESERVE_BYTES: u64 = 32 << 20;

/// The disk that a data directory is on.
#[derive(Clone, Debug)]
pub(super) struct Room {
    data_dir: PathBuf,
}

impl Room {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_path_buf() }
    }

    /// Returns whether there is room for a change.
    pub(super) fn is_left(&self) -> bool {
        match statvfs(&self.data_dir) {
            Ok(figures) => figures.blocks_available().saturating_mul(figures.fragment_size()) >= RESERVE_BYTES,
            // A disk that does not answer fails the log itself, which then says so.
            Err(_) => true,
        }
    }
}
