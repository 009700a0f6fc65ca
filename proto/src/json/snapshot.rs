//! Backups of what users have defined.

use serde::{Deserialize, Serialize};

/// What a backup holds, as `hearth snapshot inspect` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The format of the file.
    pub format: u32,
    /// The version of the node that wrote it.
    pub version: String,
    /// The cluster that it is of: 32 hexadecimal digits.
    pub cluster: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// The index of the state that it holds.
    pub index: u64,
    /// How many nodes the cluster had; none of them comes back.
    pub nodes: u32,
    /// How many apps there are.
    pub apps: u32,
    /// How many functions there are.
    pub functions: u32,
    /// How many revisions of them are remembered.
    pub revisions: u32,
    /// What the revisions run.
    pub images: Vec<SnapshotImage>,
}

/// An image that a revision in a backup runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotImage {
    /// The digest of its manifest.
    pub image: String,
    /// The size of its blobs; null where the node that wrote the backup lacked them.
    pub size_bytes: Option<u64>,
    /// Whether they are in the backup.
    pub included: bool,
    /// The revisions that run it, as `function@number`.
    pub used_by: Vec<String>,
}

/// A backup was restored: `PUT /v1/snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The index of the cluster's state after it.
    pub index: u64,
    /// How many apps came back.
    pub apps: u32,
    /// How many functions came back.
    pub functions: u32,
    /// How many revisions came back.
    pub revisions: u32,
    /// Images that the node lacks which answers: unless a peer has them, the revisions that run them do not start.
    pub missing: Vec<MissingImage>,
}

/// An image that restored revisions run and that the node lacks which answers; a peer may have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingImage {
    /// The digest of its manifest.
    pub image: String,
    /// The revisions that run it, as `function@number`.
    pub used_by: Vec<String>,
}
