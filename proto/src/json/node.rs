//! Nodes, and what a node says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{NodeStatus, Resources};

/// A node: `GET /v1/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id, for example `node-1`.
    pub id: String,
    /// The name people call it by.
    pub name: String,
    /// Whether it takes work.
    pub status: NodeStatus,
    /// It leads the cluster.
    pub is_leader: bool,
    /// Counts the starts of its agent.
    pub epoch: u32,
    /// What instances may hold of it in all.
    pub capacity: Resources,
    /// What its instances hold.
    pub held: Resources,
    /// What it may start by itself without asking the leader.
    pub grant: Resources,
    /// Facts that placement may require.
    pub labels: BTreeMap<String, String>,
    /// Those of them that operators have set: they stand above what the node's own configuration says.
    pub labels_set: BTreeMap<String, String>,
    /// What it can read from the log.
    #[serde(default)]
    pub feature_level: u32,
    /// How many instances are placed on it.
    pub instances: u32,
}

/// A change is agreed upon and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The index of the cluster's state after it.
    pub index: u64,
}

/// What answers: `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version of the binary.
    pub version: String,
    /// The node's id, for example `node-1`.
    pub node: String,
    /// The name people call the node by.
    pub name: String,
    /// The process id of the agent.
    pub pid: u32,
    /// Where the gateway listens, as `address:port`.
    pub gateway: String,
    /// Where this API listens beside its socket, as `address:port`.
    pub api: String,
}

/// Whether the node serves: `GET /readyz`, with status 200 or 503.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// It serves.
    pub ready: bool,
    /// What it waits for, while it does not.
    pub reasons: Vec<String>,
}
