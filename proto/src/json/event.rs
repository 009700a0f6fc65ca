//! What happened lately.

use serde::{Deserialize, Serialize};

/// Something that happened: `GET /v1/events`, oldest first. A node remembers a bounded number, in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What kind of thing.
    pub kind: EventKind,
    /// The node that tells it, for example `node-1`.
    pub node: String,
    /// The node it is about, where it is about one.
    #[serde(default)]
    pub about: Option<String>,
    /// The function it is about.
    #[serde(default)]
    pub function: Option<String>,
    /// The number of the revision it is about.
    #[serde(default)]
    pub revision: Option<u32>,
    /// The instance it is about.
    #[serde(default)]
    pub instance: Option<String>,
    /// What happened, for people.
    pub message: String,
}

/// What kinds of things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An app was deployed or deleted.
    Deployed,
    /// A revision became live.
    Promoted,
    /// A revision was given up.
    RevisionFailed,
    /// A backup was restored.
    Restored,
    /// How a function scales was changed.
    Scaled,
    /// An instance became ready.
    InstanceReady,
    /// An instance ended as it was asked to.
    InstanceStopped,
    /// An instance failed.
    InstanceFailed,
    /// A node's agent started.
    NodeStarted,
    /// A machine registered that did not belong to the cluster.
    NodeJoined,
    /// A node was taken out of the cluster.
    NodeRemoved,
    /// A node fell silent and was given up.
    NodeDead,
    /// A node that was given up registered again.
    NodeBack,
    /// An operator wants nothing to run on a node.
    NodeDrained,
    /// A node takes work again.
    NodeUndrained,
    /// A node votes that did not.
    VoterAdded,
    /// A node votes no more.
    VoterRemoved,
    /// Another node leads, or none is known to.
    LeaderChanged,
    /// The leader placed instances.
    Placed,
    /// The leader finds no node for an instance.
    NotPlaced,
    /// A kind of a newer node that this client does not know.
    #[serde(other)]
    Other,
}
