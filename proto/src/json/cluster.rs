//! The cluster: who belongs to it, and what lets machines in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The cluster as the node that answers knows it: `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The node that answers.
    pub node: String,
    /// When the certificate ends that this node shows to others, in milliseconds since 1970; it is renewed before.
    /// None from a version that does not say.
    #[serde(default)]
    pub certificate_ends_at_ms: Option<u64>,
    /// The node that leads, if one is known to.
    pub leader: Option<String>,
    /// The election in which the leader was chosen.
    pub term: u64,
    /// How many voters may be lost before nothing can be decided any more.
    pub voters_to_lose: u32,
    /// What every node that has registered can read from the log: what needs more is refused.
    #[serde(default)]
    pub feature_level: u32,
    /// Everybody who belongs to it, in order of id.
    pub members: Vec<Member>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, for example `node-1`.
    pub id: String,
    /// The name people call it by; empty before it has registered.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Its part in deciding.
    pub role: Role,
    /// Whether it takes work.
    pub status: NodeStatus,
    /// It leads the cluster.
    pub is_leader: bool,
    /// An operator wants it to vote.
    pub is_promoted: bool,
}

/// A node's part in deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It votes.
    Voter,
    /// It follows what is decided.
    Learner,
    /// The others do not send it anything yet.
    Joining,
    /// Of a newer node.
    #[serde(other)]
    Unknown,
}

/// Whether a node takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// It takes work.
    Ready,
    /// An operator wants nothing to run on it.
    Draining,
    /// It was not heard of any more and was given up.
    Dead,
    /// It was let in and has not registered yet.
    Joining,
    /// Of a newer node.
    #[serde(other)]
    Unknown,
}

/// Asks for a join token: `POST /v1/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRequest {
    /// How long it is good for; an hour unless given, a year at most.
    pub ttl_ms: Option<u64>,
    /// How many machines may join with it; any number unless given.
    pub uses: Option<u32>,
}

/// A join token. It is told once: the cluster keeps no more of it than a hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// What a machine shows.
    pub token: String,
    /// When it ends.
    pub expires_ms: u64,
    /// How many machines may join with it; null means any number.
    pub uses: Option<u32>,
    /// Where the node that made it is reached by others.
    pub address: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// Empties a node, or lets it take work again: `PUT /v1/nodes/NODE/drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Whether nothing is to run on it.
    pub draining: bool,
}

/// Sets labels on a node and takes others back: `PUT /v1/nodes/NODE/labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelRequest {
    /// Names with their values; they stand above what the node's own configuration says.
    pub set: BTreeMap<String, String>,
    /// Names of labels that were set before.
    pub unset: Vec<String>,
}

/// The labels of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLabels {
    /// Its id.
    pub id: String,
    /// All that hold.
    pub labels: BTreeMap<String, String>,
    /// Those of them that operators have set.
    pub labels_set: BTreeMap<String, String>,
}

/// Lets another voter lead: `POST /v1/cluster/transfer-leader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferRequest {
    /// Its id or name; any other voter unless given.
    pub to: Option<String>,
}

/// Who leads from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its id.
    pub leader: String,
}
