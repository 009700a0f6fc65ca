//! Instances as their node sees them.

use serde::{Deserialize, Serialize};

/// An instance: `GET /v1/instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id, for example `instance-1-4-7`.
    pub id: String,
    /// The function it runs.
    pub function: String,
    /// The number of the revision it runs.
    pub revision: u32,
    /// The node it is on, for example `node-1`.
    pub node: String,
    /// How far it came.
    pub phase: InstancePhase,
    /// Why it exists.
    pub purpose: Purpose,
    /// When it was started, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Invocations it serves right now.
    pub in_flight: u32,
    /// Memory it uses, where its node has measured that.
    pub memory_bytes: Option<u64>,
}

/// How far an instance came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancePhase {
    /// Agreed upon or under way, and not ready.
    Starting,
    /// It takes invocations.
    Ready,
    /// It finishes what it accepted and takes no more.
    Draining,
    /// It was asked to end.
    Stopping,
}

/// Why an instance exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A call asked for it.
    Demand,
    /// It proves that a revision starts.
    Verify,
    /// It is one of the function's minimum.
    Minimum,
}
