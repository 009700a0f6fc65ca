//! [`State`](crate::state::State) as openraft's state machine: one adapter for `node` and for the simulator.
//!
//! Everything here is generic over the runtime `RT`, the disk `D` and the transport `T`, so that the simulator runs the very same
//! code on virtual time with a disk that loses writes and a network that loses messages. What reaches the disk is our own protobuf (`proto/v1/raft.proto`), never a layout of
//! openraft's.
//!
//! ```text
//! propose ─▶ openraft ─▶ LogStore ─ Record ─▶ Disk          (durable)
//!                ├─────▶ Machine ─ State::apply ─▶ Answer    (committed)
//!                └─────▶ Network ─ Transport ─▶ Replica of a peer
//! ```

mod append;
mod disk;
mod learner;
mod log;
mod machine;
mod message;
mod network;
mod parts;
mod proof;
mod propose;
mod replica;
mod settings;
mod transport;
mod wire;

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use openraft::OptionalSend;
use openraft::impls::{BasicNode, BoxedErrorSource, InlineBatch, OneshotResponder, leader_id_adv};
use openraft_rt::AsyncRuntime;

pub use disk::{Disk, Done, Record, RecordKind};
pub use learner::tick_while_voting;
pub use log::{LogStore, RecoverError};
pub use machine::{Machine, SnapshotError, View};
pub use network::{Link, Network};
pub use parts::SNAPSHOT_MAX_BYTES;
pub use proof::watch_leader;
pub use propose::{WriteError, Written, write};
pub use replica::{AnswerError, Core, Replica};
pub use settings::{Timing, settings};
pub use transport::{AppendReplies, Appends, Lane, Peer, Transport, TransportError};

use crate::model::Timestamp;
use crate::state::{Command, Rejection, Reply, Ticket};

/// What a log entry carries: a command and the time at which every replica applies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The leader's clock when it was proposed.
    pub at: Timestamp,
    /// What is to be applied.
    pub command: Command,
    /// What makes it apply once, however often it is proposed.
    pub ticket: Option<Ticket>,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {}: {:?}", self.at, self.command)
    }
}

/// What applying an entry answers; none for entries of Raft's own.
pub type Answer = Option<Result<Reply, Rejection>>;

/// A leader: its term and who it is.
pub type LeaderId = leader_id_adv::LeaderId<u64, u64>;

/// The place of an entry in the log, and the leader who put it there.
pub type LogId = openraft::LogId<LeaderId>;

/// Whom this node voted for, and whether a quorum did.
pub type Vote = openraft::Vote<LeaderId>;

/// Who belongs to the cluster.
pub type Membership = openraft::Membership<u64, BasicNode>;

/// A membership and the entry that made it so.
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, BasicNode>;

/// What an entry carries: a proposal, a membership, or nothing.
pub type Payload = openraft::EntryPayload<Proposal, u64, BasicNode>;

/// An entry of the log.
pub type Entry = openraft::Entry<LeaderId, Payload>;

/// What openraft is told about our types; generic over the runtime and nothing else.
pub struct Types<RT>(PhantomData<fn() -> RT>);

impl<RT: AsyncRuntime> openraft::RaftTypeConfig for Types<RT> {
    type D = Proposal;
    type R = Answer;
    type NodeId = u64;
    type Node = BasicNode;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type AsyncRuntime = RT;
    type ErrorSource = BoxedErrorSource;
}

// Derived implementations would ask the same of `RT`, which is only a name here.

impl<RT> fmt::Debug for Types<RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}

impl<RT> Clone for Types<RT> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<RT> Copy for Types<RT> {}

impl<RT> Default for Types<RT> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<RT> PartialEq for Types<RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<RT> Eq for Types<RT> {}

impl<RT> PartialOrd for Types<RT> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<RT> Ord for Types<RT> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}
