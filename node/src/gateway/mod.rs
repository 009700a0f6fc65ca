//! Invocations in: HTTP/1.1 and HTTP/2 on one port, and bare events from the operator's side.
//!
//! ```text
//! connection ─▶ server ─▶ call: which function? ─▶ traffic: which instance? ─▶ run: over its channel
//!                                                    └ none here ─▶ peers: who else? ─▶ a peer's gateway
//!                                                    ▲            │
//!                                      agent: ready, gone         └▶ agent: wanted, retired, kill
//! ```
//!
//! [`RouteTable`] and [`Dispatch`](control_plane::dispatch::Dispatch) decide; this room owns sockets and waits. A warm
//! call runs on the task of its connection from head to answer: it takes one short lock when it begins and one when it
//! ends, and wakes nobody but the instance.
//!
//! A client that stops in the middle, whether it sends slowly, reads slowly or goes away, costs a connection and a
//! bounded buffer, never a slot of an instance for longer than the function's own time limit.

mod alarm;
mod body;
mod call;
mod client;
mod demand;
mod failure;
mod forward;
mod invoke;
mod lanes;
mod lease;
mod limits;
mod line;
mod peers;
mod phases;
mod record;
mod run;
mod server;
#[cfg(test)]
mod tests;
mod traffic;

use std::sync::{Arc, PoisonError, RwLock};

use control_plane::model::NodeId;
use control_plane::route::RouteTable;
use control_plane::state::State;

pub use body::ReplyBody;
pub use demand::{Demand, Demands, KillReason};
pub use failure::{CallFailure, ERROR_HEADER};
pub use invoke::InvokeOutcome;
pub use lease::Lease;
pub use limits::Limits;
pub use line::Load;
pub use peers::{Dial, Dialing, PeerIo};
pub use phases::{Phases, StartPhases};
pub use record::{CallOutcome, CallRecord, Observer, Unobserved};
pub use server::Drained;
pub use traffic::{QUEUE_MAX, Traffic};

use self::peers::Peers;
use crate::clock::Clock;

/// Takes invocations and has them answered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gateway {
    core: Arc<Core>,
}

/// What every call needs.
#[derive(Debug)]
struct Core {
    traffic: Traffic,
    clock: Clock,
    limits: Limits,
    observer: Arc<dyn Observer>,
    routes: RwLock<Arc<RouteTable>>,
    /// The way to other nodes, where there may be any.
    peers: Option<Peers>,
}

impl Gateway {
    /// Returns a gateway without routes, whose node has no peers.
    pub fn new(traffic: Traffic, clock: Clock, limits: Limits, observer: Arc<dyn Observer>) -> Self {
        Self { core: Arc::new(Core { traffic, clock, limits, observer, routes: RwLock::default(), peers: None }) }
    }

    /// Returns a gateway without routes, of a node that passes on what it cannot serve: `dial` connects to the others,
    /// which take the calls with [`Gateway::serve_peer`].
    pub fn among_peers(
        traffic: Traffic,
        clock: Clock,
        limits: Limits,
        observer: Arc<dyn Observer>,
        here: NodeId,
        dial: Arc<dyn Dial>,
    ) -> Self {
        let peers = Some(Peers::new(here, dial));
        Self { core: Arc::new(Core { traffic, clock, limits, observer, routes: RwLock::default(), peers }) }
    }

    /// Follows the applied state: its routes, and through [`Traffic`] its revisions.
    ///
    /// A call that waits for an instance of a revision that is not served any more is moved to the one that is.
    pub fn set_state(&self, state: &State) {
        // In this order there is no moment at which the routes name a revision that is not served.
        self.core.traffic.serve(state);
        if let Some(peers) = &self.core.peers {
            peers.set_state(state);
        }
        let routes = Arc::new(RouteTable::new(state));
        *self.core.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
        self.core.traffic.retire(state);
    }
}

impl Core {
    fn routes(&self) -> Arc<RouteTable> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }
}
