//! The whole stack in the simulator: every node with its replica of the log, its controller, supervisor, sandboxes and gateway.
//!
//! ```text
//! callers, operators ─▶ Node ── what it wants ──▶ World ── proposals, beats, calls for peers ──▶ network ─▶ Node
//!                        ▲                          │
//!                        └── what it hears ◀── inbox ◀── replicas: openraft, disks, nemesis
//! ```
//! Nothing here is a second copy: a [`Node`](crate::node::Node) is the node that is also simulated alone, the replicas are those
//! of the [simulation of Raft](crate::raft). One virtual time drives both. A cluster is founded by one node and takes the others
//! in, as in production, and then things go wrong: [`plan`] says which.

mod ask;
mod check;
mod inbox;
#[cfg(test)]
mod learner;
mod loss;
mod plan;
mod propose;
mod read;
mod voters;
mod wire;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use control_plane::model::NodeId;

pub(crate) use self::world::{Machine, World};
use crate::raft::{Oracle, nemesis, runtime};
use crate::{Broken, message};

/// How long things go wrong.
const BUSY: Duration = Duration::from_secs(15);

/// Within how long after that there is a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(2);

/// How long what was proposed before that may still come: a little longer than proposals are held.
const HELD_MAX: Duration = Duration::from_millis(5_500);

/// Within how long after that every node is back and every minimum is placed.
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);

/// When it is first looked whether everything has come to rest.
const REST_MIN: Duration = Duration::from_secs(12);

/// When everything has: after the longest keep-alive, wait and backoff of so short a time.
const REST_MAX: Duration = Duration::from_secs(30);

/// How long a function may take to answer one more call at the very end.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Rare paths that many seeds together must reach, by the names of their counts.
pub const RARE: [&str; 24] = [
    "asked of a peer",
    "hops",
    "lost with a peer",
    "proposed elsewhere",
    "proposals held",
    "proposals sent again",
    "answered again",
    "reads",
    "changes of members",
    "nodes declared dead",
    "registrations",
    "nodes drained",
    "adoptions",
    "leaders",
    "promotions",
    "starts",
    "crashes",
    "faults",
    "machines lost",
    "machines replaced",
    "refused as too new",
    "labels",
    "nodes upgraded",
    "daemons away",
];

/// What happened to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of every task, message, event and effect, in order.
    pub hash: u64,
    /// What must not happen and did, in words; empty when all is well.
    pub violations: Vec<String>,
    /// How much of what happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// How much time went by in the simulation.
    pub span: Duration,
    /// What happened, line by line; only if that was asked for.
    pub lines: Vec<String>,
}

/// Plays one seed; tells it line by line if `is_told`.
pub fn play(seed: u64, is_told: bool) -> Report {
    runtime::begin(seed);
    let oracle = Oracle::default();
    let (mut world, machines) = plan::world(seed, oracle.clone(), is_told);
    // A panic must not leave nodes behind: they would be dropped while the thread ends.
    let played = catch_unwind(AssertUnwindSafe(|| run(&mut world, seed, &machines)));
    let span = Duration::from_nanos(runtime::now());
    let cleared = catch_unwind(AssertUnwindSafe(|| world.switch_off()));
    let hash = world.hash(runtime::end());
    let mut facts = std::mem::take(&mut *oracle.facts());
    for panic in [played.err(), cleared.err()].into_iter().flatten() {
        facts.journal.blame(&format!("it panicked: {}", message(panic.as_ref())));
    }
    let mut counts = facts.journal.counts;
    for (what, count) in world.everybody().flat_map(|node| &node.journal.counts) {
        *counts.entry(what).or_default() += count;
    }
    let lines = facts.journal.lines.unwrap_or_default();
    Report { hash, violations: facts.journal.violations, counts, span, lines }
}

/// Plays one seed; a violation and a panic anywhere are told with the seed and the command that plays it again.
pub fn attempt(seed: u64) -> Result<Report, Broken> {
    let report = play(seed, false);
    if report.violations.is_empty() {
        Ok(report)
    } else {
        Err(Broken { test: "cluster", seed, problems: report.violations })
    }
}

fn run(world: &mut World, seed: u64, machines: &[Machine]) {
    if !world.form(machines) {
        return;
    }
    let begin = world.now;
    let end = begin + BUSY;
    plan::begin(world, seed, end);
    read::start(&world.replicas, seed, world::since_the_beginning(end));
    nemesis::start(&world.replicas, seed, world::since_the_beginning(end));
    world.run_until(end);
    world.calm();
    world.run_until(end + LEADER_WITHIN);
    world.check_leader(LEADER_WITHIN);
    world.run_until(end + HELD_MAX);
    world.undrain();
    world.run_until(end + RECOVERED_WITHIN);
    world.check_recovered(RECOVERED_WITHIN);
    world.run_until(end + REST_MIN);
    world.check_at_rest(end + REST_MAX);
    world.one_more_call_each();
    world.run_until(world.now + ANSWER_MAX);
    world.check_answered();
}

/// The node that founds a cluster.
const FOUNDER: NodeId = NodeId(1);
