//! What the replicas tell the world above them, in the order in which it happened.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_plane::model::NodeId;

use crate::member::News;
use crate::raft::{Crash, Listener};

/// Something that happened below.
#[derive(Debug)]
pub(super) enum Tiding {
    /// A replica runs.
    Started(NodeId),
    /// A process has ended, or a machine has no power any more.
    Crashed(NodeId, Crash),
    /// A process stands still until then, in nanoseconds.
    Paused(NodeId, u64),
    /// A replica has applied more.
    Applied(NodeId),
    /// Something for a node to hear; in one of its lives, or in whichever it is.
    News { to: NodeId, life: Option<u32>, news: News },
    /// Whoever watches over connections looks at them.
    Ping,
    /// A machine is lost for good, with its disk.
    Lost(NodeId),
    /// The operator who replaces lost machines looks after them.
    Tend,
}

/// Tidings that wait; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox(Arc<Mutex<VecDeque<Tiding>>>);

impl Inbox {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Tiding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, tiding: Tiding) {
        self.queue().push_back(tiding);
    }

    pub(super) fn tell(&self, to: NodeId, life: Option<u32>, news: News) {
        self.push(Tiding::News { to, life, news });
    }

    pub(super) fn pop(&self) -> Option<Tiding> {
        self.queue().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }
}

/// Returns a node as the machines name it.
pub(super) fn id(node: u64) -> NodeId {
    NodeId(u32::try_from(node).unwrap_or(u32::MAX))
}

impl Listener for Inbox {
    fn started(&self, node: u64) {
        self.push(Tiding::Started(id(node)));
    }

    fn crashed(&self, node: u64, crash: Crash) {
        self.push(Tiding::Crashed(id(node), crash));
    }

    fn paused(&self, node: u64, until: u64) {
        self.push(Tiding::Paused(id(node), until));
    }

    fn applied(&self, node: u64) {
        self.push(Tiding::Applied(id(node)));
    }
}
