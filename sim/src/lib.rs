//! The simulator: the four machines that run in production, driven on virtual time by one seed.
//!
//! Simulated are the node's side of every machine: the log, sandboxes, callers, operators, and what goes wrong. Not simulated
//! are the decisions: `State::apply`, `Controller`, `Supervisor` and `Dispatch` are the very code that `node` runs.
//!
//! One node, and a log that is ideal but for its delay: Raft itself is not in here yet. The same seed gives the same
//! [`Report::hash`] of everything that happened, in any process on any machine: all randomness comes out of one seed by one
//! named stream per use ([`rng`]), and nothing is computed in floating point.

mod check;
mod node;
pub mod rng;
mod traffic;
mod workload;

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::Timestamp;

use self::node::Node;

/// What happened while one seed was played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of every event and effect, in order.
    pub hash: u64,
    /// What must not happen and did, in words; empty when all is well.
    pub violations: Vec<String>,
    /// What became of calls and instances, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

/// How long callers call and things go wrong.
const BUSY: Duration = Duration::from_secs(120);

/// How long everything gets to come to rest afterwards: longer than the longest keep-alive and backoff.
const REST: Duration = Duration::from_secs(1500);

/// How long a function may take to answer one more call at the very end.
const ANSWER_MAX: Duration = Duration::from_secs(150);

/// When simulations begin.
const START: Timestamp = Timestamp::from_millis(1_000_000);

/// Plays one seed from its first deployment to the last check.
pub fn play(seed: u64) -> Report {
    let mut node = Node::new(seed, START);
    workload::begin(&mut node, seed, START + BUSY);
    node.run_until(START + BUSY);
    node.stop_faults();
    node.run_until(START + BUSY + REST);
    check::at_rest(&mut node);
    workload::one_more_call_each(&mut node);
    node.run_until(START + BUSY + REST + ANSWER_MAX);
    check::at_the_end(&mut node);
    node.into_report()
}
