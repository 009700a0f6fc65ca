//! The replicated log in the simulator: openraft itself on virtual time, over a disk and a network that fail.
//!
//! ```text
//! client ─▶ openraft ─▶ LogStore ─▶ disk      loses what was not synced, tears what was being written
//!    │         ├──────▶ Machine ─▶ State
//!    │         └──────▶ Network ─▶ network    loses, delays, repeats; cuts, splits, half-open streams
//!    ▼
//! history ─▶ one order explains all of it      check: an oracle beside every disk, leader and applied entry
//! ```
//! Production code is everything between the client and disk and network: `control-plane/src/raft/` and openraft, with the settings
//! of production. One seed decides the rest: the order of tasks, waits, faults, and what clients do.

mod check;
mod client;
mod cluster;
mod disk;
mod history;
mod journal;
mod mark;
pub(crate) mod nemesis;
mod network;
pub(crate) mod runtime;
mod swarm;
#[cfg(test)]
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

pub use self::mark::Mark;

pub(crate) use self::check::Oracle;
pub(crate) use self::cluster::{Cluster, Core, Crash, Listener, address, time_at, true_time};
pub(crate) use self::network::Host;
pub(crate) use self::swarm::{Micros, Swarm};

use crate::rng::Rng;
use crate::{Broken, message};

/// Returns whether a fault is planted for the running seed.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($fault:ident) => {
        control_plane::planted::is_planted(control_plane::planted::Fault::$fault)
    };
}

/// Returns whether a fault is planted: there are none without the feature.
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

pub(crate) use planted;

/// How long things go wrong.
const BUSY: Duration = Duration::from_secs(20);

/// Within how long after that there is a leader.
const LEADER_WITHIN: Duration = Duration::from_secs(2);

/// Within how long after that every node has applied everything.
const CONVERGED_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What happened to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of every task, event, message and state, in order.
    pub hash: u64,
    /// What must not happen and did, in words; empty when all is well.
    pub violations: Vec<String>,
    /// How much of what happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// The rare paths that were reached.
    pub marks: BTreeSet<Mark>,
    /// How much time went by in the simulation.
    pub span: Duration,
    /// What happened, line by line; only if that was asked for.
    pub lines: Vec<String>,
}

/// Plays one seed; tells it line by line if `is_told`.
pub fn play(seed: u64, is_told: bool) -> Report {
    let swarm = Swarm::draw(&mut Rng::stream(seed, "raft swarm"));
    runtime::begin(seed);
    let oracle = Oracle::default();
    if is_told {
        oracle.facts().journal.lines = Some(vec![format!("{swarm:?}")]);
    }
    let cluster = Cluster::new(seed, swarm, oracle.clone(), Arc::new(()));
    // A panic must not leave nodes behind: they would be dropped while the thread ends.
    let played = catch_unwind(AssertUnwindSafe(|| run(&cluster, seed)));
    let span = Duration::from_nanos(runtime::now());
    let cleared = catch_unwind(AssertUnwindSafe(|| cluster.end()));
    let hash = runtime::end();
    let mut facts = std::mem::take(&mut *oracle.facts());
    for panic in [played.err(), cleared.err()].into_iter().flatten() {
        facts.journal.violations.push(format!("it panicked: {}", message(panic.as_ref())));
    }
    let journal = facts.journal;
    Report {
        hash,
        violations: journal.violations,
        counts: journal.counts,
        marks: journal.marks,
        span,
        lines: journal.lines.unwrap_or_default(),
    }
}

/// Plays one seed; a violation and a panic anywhere are told with the seed and the command that plays it again.
pub fn attempt(seed: u64) -> Result<Report, Broken> {
    let report = play(seed, false);
    if report.violations.is_empty() {
        Ok(report)
    } else {
        Err(Broken { test: "raft", seed, problems: report.violations })
    }
}

fn run(cluster: &Cluster, seed: u64) {
    cluster.nodes().into_iter().for_each(|node| cluster.boot(node));
    let still_writes = BUSY + LEADER_WITHIN;
    (1..=cluster.swarm().clients).for_each(|number| client::start(cluster, seed, number, still_writes));
    nemesis::start(cluster, seed, BUSY);
    runtime::run_until(BUSY, || false);
    cluster.calm();
    runtime::run_until(BUSY + LEADER_WITHIN, || false);
    if cluster.agreed_leader().is_none() {
        cluster.oracle().blame(&format!("no leader {LEADER_WITHIN:?} after faults stopped"));
    }
    let mut until = BUSY + LEADER_WITHIN;
    while !has_converged(cluster) {
        if until >= BUSY + CONVERGED_WITHIN {
            let applied = cluster.nodes().into_iter().map(|node| (node, applied(cluster, node)));
            let (applied, last) = (applied.collect::<Vec<_>>(), cluster.oracle().last());
            cluster.oracle().blame(&format!("not converged: of {last:?}, nodes have applied {applied:?}"));
            break;
        }
        until += LOOK_EVERY;
        runtime::run_until(until, || false);
    }
    judge(cluster);
}

fn applied(cluster: &Cluster, node: u64) -> Option<u64> {
    let _runs = cluster.core(node)?;
    cluster.view(node)?.last_applied().map(|last| last.index)
}

/// Returns whether every node runs and has applied everything that any has.
pub(crate) fn has_converged(cluster: &Cluster) -> bool {
    let last = cluster.oracle().last();
    last.is_some() && cluster.nodes().into_iter().all(|node| applied(cluster, node) == last)
}

/// Looks at what clients were told.
fn judge(cluster: &Cluster) {
    let mut facts = cluster.oracle().facts();
    let violations = facts.history.violations();
    violations.iter().for_each(|violation| facts.journal.blame(violation));
    if facts.history.answered() == 0 {
        facts.journal.blame("no client was ever answered");
    }
    if facts.history.has_unknown_write() {
        facts.journal.mark(Mark::UnknownWriteCommitted);
    }
    if facts.history.has_read_of_another() {
        facts.journal.mark(Mark::ReadOfAnother);
    }
}
