//! Calls that another node serves: at most one hop, over pooled HTTP/2 connections.
//!
//! ```text
//! call ─▶ instance here? ─yes─▶ line
//!             │no
//!             ▼
//!      declined a moment ago, or only peers have it? ─no─▶ line ─no capacity─┐
//!             │yes                                                           │
//!             ▼                                                              ▼
//!      peers in the order of [`Elsewhere`] ◀──────────────────────────────────┘
//!             │ refused before it began, or unreachable: the next one
//!             ▼
//!      answered, failed, or lost: that is the answer
//! ```
//!
//! A call that came from a peer is served here or refused; it never goes on. Nothing here asks the leader or a quorum:
//! what this node knows of the others is what it has applied.

mod pool;
mod replay;
mod send;
mod serve;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use control_plane::model::{NodeId, RevisionId};
use control_plane::route::Elsewhere;
use control_plane::state::State;
use tokio::time::Instant;

use self::pool::Pool;
pub use self::pool::{Dial, Dialing, PeerIo};
pub(super) use self::replay::Replay;
pub(super) use self::wire::HOP;
use super::Core;
use super::failure::CallFailure;
use super::lease::Lease;
use super::run::Call;

/// How many calls one connection of a peer has open at once; further ones wait where they came in.
const STREAMS_MAX: u32 = 1000;

/// How many bytes of one stream's body may be on their way between two nodes, and of all streams of a connection: callers
/// that do not read their answers must not hold up the others.
const WINDOWS: [u32; 2] = [128 << 10, STREAMS_MAX * (128 << 10)];

/// How many bytes wait per stream for a node that reads slowly.
const SEND_BUFFER_MAX: usize = 256 << 10;

/// How often a connection between nodes is asked whether the other one is there, and how long the answer may take.
const PING: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(3)];

/// How long this node believes that it has no room for a revision, and asks peers straight away.
const DECLINE_KEPT: Duration = Duration::from_secs(1);

/// The way to other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    here: NodeId,
    pool: Pool,
    known: RwLock<Elsewhere>,
    /// When a revision was last declined for want of room.
    declined: Mutex<HashMap<RevisionId, Instant>>,
    /// Counts the calls that went elsewhere, which spreads them.
    turn: AtomicU64,
}

/// Where a call is served.
#[derive(Debug)]
pub(super) enum Seat {
    Here(Lease),
    /// By one of these, the first that takes it.
    Away(Vec<NodeId>),
}

impl Peers {
    pub(super) fn new(here: NodeId, dial: Arc<dyn Dial>) -> Self {
        Self {
            here,
            pool: Pool::new(dial),
            known: RwLock::default(),
            declined: Mutex::default(),
            turn: AtomicU64::new(0),
        }
    }

    /// Follows the applied state.
    pub(super) fn set_state(&self, state: &State) {
        let known = Elsewhere::new(state, self.here);
        self.pool.keep(|node| known.is_peer(node));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        let now = Instant::now();
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        declined.retain(|_, at| now.duration_since(*at) < DECLINE_KEPT);
    }

    fn known(&self) -> Elsewhere {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_decline(&self, revision: &RevisionId) {
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        declined.insert(revision.clone(), Instant::now());
    }

    fn was_declined(&self, revision: &RevisionId) -> bool {
        let declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        declined.get(revision).is_some_and(|at| at.elapsed() < DECLINE_KEPT)
    }

    fn order(&self, known: &Elsewhere, revision: &RevisionId) -> Option<Vec<NodeId>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (is_shunned, is_suspected) = (|node| self.pool.is_shunned(node), |node| self.pool.is_suspected(node));
        let order = known.order(revision, turn, is_shunned, is_suspected);
        (!order.is_empty()).then_some(order)
    }
}

impl Core {
    /// Returns the way to other nodes for a call that may take it.
    fn peers_for(&self, call: &Call<'_>) -> Option<(&Peers, Elsewhere)> {
        let peers = self.peers.as_ref().filter(|_| call.from.is_none())?;
        let known = peers.known();
        known.has_peers().then_some((peers, known))
    }

    /// Returns whether a node was a member once and is none any more.
    fn is_removed(&self, node: NodeId) -> bool {
        self.peers.as_ref().is_some_and(|peers| peers.known().is_removed(node))
    }

    /// Returns whether a call may end up at a peer.
    pub(super) fn may_go_away(&self, call: &Call<'_>) -> bool {
        self.peers_for(call).is_some()
    }

    /// Returns who is to serve a call that this node need not even try to serve.
    pub(super) fn straight_away(&self, call: &Call<'_>) -> Option<Vec<NodeId>> {
        let (peers, known) = self.peers_for(call)?;
        let revision = &call.served.id;
        if self.traffic.takes_calls(revision) {
            return None;
        }
        let is_full = peers.was_declined(revision) || known.is_only_elsewhere(revision);
        if is_full { peers.order(&known, revision) } else { None }
    }

    /// Waits for a slot of an instance here, or finds out that the call had better go to a peer.
    pub(super) async fn seat(&self, call: &mut Call<'_>) -> Result<Seat, CallFailure> {
        if let Some(order) = self.straight_away(call) {
            return Ok(Seat::Away(order));
        }
        let failure = match self.lease(call).await {
            Ok(lease) => return Ok(Seat::Here(lease)),
            Err(failure) => failure,
        };
        let Some((peers, known)) = self.peers_for(call) else { return Err(failure) };
        // What does not start here may serve where it did.
        let is_failing = matches!(failure, CallFailure::Function(_) | CallFailure::Instance(_));
        let is_full = matches!(failure, CallFailure::NoCapacity { .. });
        let may_go = is_full || (is_failing && known.has_instances(&call.served.id));
        if !may_go {
            return Err(failure);
        }
        peers.note_decline(&call.served.id);
        peers.order(&known, &call.served.id).map(Seat::Away).ok_or(failure)
    }
}
