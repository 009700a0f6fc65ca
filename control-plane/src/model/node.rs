//! The machines of the cluster.

use std::collections::BTreeMap;

use super::{Epoch, Resources};

/// What a node's agent says about its machine when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// The name people call it by; the host name unless configured.
    pub name: String,
    /// What instances may hold of it in all.
    pub capacity: Resources,
    /// Facts that placement may require: `arch`, `zone` and what the operator sets.
    pub labels: BTreeMap<String, String>,
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What its agent said when it last started.
    pub spec: NodeSpec,
    /// Counts the starts of its agent; fences off what an older one says.
    pub epoch: Epoch,
    /// What it may start by itself without asking.
    ///
    /// Invariant: grant plus what its placements hold never exceeds the capacity.
    pub grant: Resources,
    /// Whether an operator wants nothing to run on it: it gets no grant and no placements, and loses those it has.
    pub is_draining: bool,
    /// Whether it was declared dead and has not registered since.
    ///
    /// Invariant: then it holds no placements and no grant.
    pub is_dead: bool,
}

impl Node {
    /// Returns whether instances may be placed on it.
    pub fn is_eligible(&self) -> bool {
        !self.is_draining && !self.is_dead
    }
}
