//! Backups: what users have defined, in one file that any node can bring into a new cluster.
//!
//! ```text
//!   HRTHBKUP  format  (header) (definitions) (blob)… (end)
//!   8 bytes   4 bytes  each: kind 1 byte, length 8 bytes, content; numbers are little-endian
//! ```
//! Header and definitions are messages of `proto/v1/backup.proto` and `proto/v1/log.proto`. A blob is the digest of what
//! follows it, 32 bytes, and a part of an image. The end holds the SHA-256 of every byte before its own kind: a file without
//! it was cut off. Nothing of a file is used before all of it has been read and found whole.
//!
//! What belongs to one cluster stays there: nodes, placements, sessions, join tokens and certificates are in no backup. What a
//! function has in its environment is: whoever has the file has that.

mod layout;
mod read;
mod summary;
mod write;

use std::collections::BTreeMap;

use control_plane::model::{Digest, RevisionId, Timestamp};
use control_plane::state::Definitions;

pub use self::layout::unpack;
pub use self::read::{Backup, ReadError, read};
pub use self::summary::summary;
pub use self::write::Writer;

/// The format that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// How large the definitions may be, in bytes: one entry of the log brings them back.
pub const DEFINITIONS_MAX_BYTES: u64 = 48 << 20;

/// How large the header may be, in bytes.
const HEADER_MAX_BYTES: u64 = 16 << 20;

/// What every backup begins with.
const MAGIC: [u8; 8] = *b"HRTHBKUP";

/// What a part of the file holds.
const HEADER: u8 = 1;
const DEFINITIONS: u8 = 2;
const BLOB: u8 = 3;
const END: u8 = 4;

/// What a backup says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// When it was made, by the clock of the node that wrote it.
    pub created_at: Timestamp,
    /// The cluster that it is of.
    pub cluster: String,
    /// The version of the node that wrote it.
    pub version: String,
    /// The index of the state that it holds.
    pub index: u64,
    /// What it holds how many of.
    pub counts: Counts,
    /// How many nodes the cluster had.
    pub nodes: u32,
    /// What its revisions run.
    pub images: BTreeMap<Digest, ImageNote>,
}

/// How much users have defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Apps.
    pub apps: u32,
    /// Functions.
    pub functions: u32,
    /// Revisions of them that are remembered.
    pub revisions: u32,
}

/// What a backup says about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageNote {
    /// The size of its blobs, in bytes; none where the node that wrote the backup lacks them.
    pub size_bytes: Option<u64>,
    /// Whether they are in the backup.
    pub is_included: bool,
}

impl Counts {
    /// Counts what users have defined.
    pub fn of(definitions: &Definitions) -> Self {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            apps: count(definitions.apps.len()),
            functions: count(definitions.functions.len()),
            revisions: count(definitions.functions.values().map(|function| function.revisions.len()).sum()),
        }
    }
}

/// Returns every image that a revision runs, with those revisions.
pub fn images_of(definitions: &Definitions) -> BTreeMap<Digest, Vec<RevisionId>> {
    let mut images: BTreeMap<Digest, Vec<RevisionId>> = BTreeMap::new();
    for (name, function) in &definitions.functions {
        for (number, revision) in &function.revisions {
            let revision_id = RevisionId { function: name.clone(), number: *number };
            images.entry(revision.spec.image).or_default().push(revision_id);
        }
    }
    images
}

#[cfg(test)]
mod tests;
