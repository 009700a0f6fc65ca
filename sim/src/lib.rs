//! The simulator: the four machines that run in production, driven on virtual time by one seed or by a story.
//!
//! Simulated are the node's side of every machine: the log, sandboxes, callers, operators, and what goes wrong. Not simulated
//! are the decisions: `State::apply`, `Controller`, `Supervisor` and `Dispatch` are the very code that `node` runs.
//!
//! One node, and a log that is ideal but for its delay; Raft itself, with disks and networks that fail, is in [`raft`]. The same
//! seed gives the same [`Report::hash`] of everything that happened, in any process on any machine: all randomness comes out of
//! one seed by one named stream per use ([`rng`]), and nothing is computed in floating point.

mod call;
mod check;
pub mod cluster;
mod hop;
mod journal;
mod log;
mod mark;
mod member;
mod nature;
mod node;
pub mod raft;
pub mod rng;
mod sandbox;
pub mod scenario;
mod schedule;
mod session;
pub mod story;
mod swarm;
mod traffic;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use control_plane::model::Timestamp;

pub use self::mark::Mark;

/// The faults that can be planted in the control plane.
#[cfg(feature = "planted")]
pub use control_plane::planted;

/// What happened while one seed was played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of every event and effect, in order.
    pub hash: u64,
    /// What must not happen and did, in words; empty when all is well.
    pub violations: Vec<String>,
    /// What became of calls and instances, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// The rare paths that were reached.
    pub marks: BTreeSet<Mark>,
}

/// A seed that did not hold, with all it takes to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The test that plays it again.
    pub test: &'static str,
    /// The seed.
    pub seed: u64,
    /// What went wrong: violations, or the message of a panic.
    pub problems: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}; again: {}", self.seed, replay(self.test, self.seed))?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// How long callers call and things go wrong.
const BUSY: Duration = Duration::from_secs(120);

/// How long everything gets to come to rest afterwards: longer than the longest keep-alive and backoff.
const REST: Duration = Duration::from_secs(1500);

/// How long a function may take to answer one more call at the very end.
const ANSWER_MAX: Duration = Duration::from_secs(150);

/// When simulations begin.
const START: Timestamp = Timestamp::from_millis(1_000_000);

/// How much virtual time one seed takes.
pub const SPAN: Duration = Duration::from_secs(BUSY.as_secs() + REST.as_secs() + ANSWER_MAX.as_secs());

/// Plays one seed from its first deployment to the last check.
pub fn play(seed: u64) -> Report {
    let mut node = workload::node(seed, START);
    workload::begin(&mut node, seed, START + BUSY);
    node.run_until(START + BUSY);
    node.stop_faults();
    node.run_until(START + BUSY + REST);
    check::at_rest(&mut node);
    workload::one_more_call_each(&mut node);
    node.run_until(START + BUSY + REST + ANSWER_MAX);
    check::at_the_end(&mut node);
    let journal = node.journal;
    Report { hash: journal.hash(), violations: journal.violations, counts: journal.counts, marks: journal.marks }
}

/// Plays one seed; a violation and a panic anywhere are told with the seed and the command that plays it again.
pub fn attempt(seed: u64) -> Result<Report, Broken> {
    let problems = match catch_unwind(AssertUnwindSafe(|| play(seed))) {
        Ok(report) if report.violations.is_empty() => return Ok(report),
        Ok(report) => report.violations,
        Err(panic) => vec![format!("it panicked: {}", message(panic.as_ref()))],
    };
    Err(Broken { test: "seeds", seed, problems })
}

/// Returns the command that plays one seed again.
pub fn replay(test: &str, seed: u64) -> String {
    format!("HEARTH_SEED={seed} cargo test --package sim --test {test}")
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        (None, None) => "something that is no text",
    }
}
