//! Measures this machine: each figure beside its peer or its floor, all of them in one interleaved run.
//!
//! ```text
//!   cold     first byte of a sandbox, beside other OCI runtimes and a bare exec; first answer of a function at zero
//!   burst    a hundred and five hundred first calls at once, beside another OCI runtime doing the same
//!   warm     what a call costs beyond calling its function directly; requests a second beside nginx
//!   hop      what the way through a second node adds to a call
//!   commits  writes that three voters have agreed on and kept, beside etcd
//!   reads    reads that see all that was acknowledged before them, beside etcd
//!   plan     placements a second of the planner, beside a bare look at every node
//!   place    from a demand for instances to placements that three voters have agreed on and kept
//!   failover the time without a leader when it is killed, silent, or hands over, beside etcd
//!   death    from the loss of a host until nobody calls it, and until others serve instead
//!   memory   what the daemon, a sandbox nobody uses yet, and an idle instance hold
//! ```
//!
//! Every comparison takes turns, A B C A B C, so that a machine that grows slower or faster does so for all. Cold starts rest
//! before each turn: back to back they find caches and kernel structures warm that a real first call does not. What is
//! measured is what runs in production: the sandboxes of [`crate::sandbox`], and a daemon in a process of its own.

mod annex;
mod burst;
mod client;
mod cold;
mod commits;
mod contest;
mod death;
mod driven;
mod failover;
mod fleet;
mod hop;
mod http;
mod load;
mod memory;
mod nginx;
mod peer;
mod place;
mod plan;
mod process_memory;
mod process_time;
mod program;
mod range;
mod reads;
mod report;
mod sample;
mod subject;
mod trio;
mod voter;
mod warm;
mod way;
mod yard;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub use self::failover::Failover;
pub use self::report::{Goal, Machine, Report, Role, Row, Section, Side};
pub use self::voter::Voter;

/// How long a cold start rests before the next turn.
const REST: Duration = Duration::from_millis(60);

/// How long any single thing may take before a benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Starts from nothing.
    Cold,
    /// Many first calls at once.
    Burst,
    /// Calls of running instances.
    Warm,
    /// Calls through a second node.
    Hop,
    /// Writes to a replicated log.
    Commits,
    /// Reads of a replicated log.
    Reads,
    /// Where instances go.
    Plan,
    /// Where instances go, with the log.
    Place,
    /// Writes to a replicated log whose leader goes.
    Failover(Failover),
    /// Calls whose host goes.
    Death,
    /// What is held in memory.
    Memory,
}

impl Kind {
    /// Returns whether it starts sandboxes, which only root may.
    fn runs_sandboxes(self) -> bool {
        match self {
            Self::Cold | Self::Burst | Self::Warm | Self::Death | Self::Memory => true,
            Self::Hop | Self::Commits | Self::Reads | Self::Plan | Self::Place | Self::Failover(_) => false,
        }
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Containers need root.
    #[error("containers need root")]
    NotRoot,
    /// Somebody asked to stop.
    #[error("stopped before it was done")]
    Stopped,
    /// Something of the machine could not be used.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The sandboxes do not work here.
    #[error("the sandboxes cannot be used")]
    Sandboxes(#[from] crate::sandbox::StartError),
    /// A sandbox did not start.
    #[error("a sandbox did not start")]
    Launch(#[from] crate::sandbox::LaunchError),
    /// Another program did not do what it was started for.
    #[error("{program} failed: {reason}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        reason: String,
    },
    /// Something did not happen in time.
    #[error("{0}: not within {PATIENCE:?}")]
    Timeout(&'static str),
}

/// How to measure.
pub struct Bench<'a> {
    /// How often each thing is measured; each kind has its own number of rounds otherwise.
    pub rounds: Option<usize>,
    /// This program, to start daemons and spawners with.
    pub executable: PathBuf,
    /// Told how far it is.
    pub progress: &'a (dyn Fn(&str) + Sync),
    /// Ends it after the measurement under way; nothing is left behind then either.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench")
            .field("rounds", &self.rounds)
            .field("executable", &self.executable)
            .finish_non_exhaustive()
    }
}

impl Bench<'_> {
    /// Measures. Needs a runtime with threads, and must not run on one of them: it blocks.
    pub async fn run(&self, kind: Kind) -> Result<Report, BenchError> {
        if kind.runs_sandboxes() && !nix::unistd::geteuid().is_root() {
            return Err(BenchError::NotRoot);
        }
        match kind {
            Kind::Cold => cold::run(self).await,
            Kind::Burst => burst::run(self).await,
            Kind::Warm => warm::run(self),
            Kind::Hop => hop::run(self).await,
            Kind::Commits => commits::run(self).await,
            Kind::Reads => reads::run(self).await,
            Kind::Plan => plan::run(self),
            Kind::Place => place::run(self).await,
            Kind::Failover(options) => failover::run(self, options).await,
            Kind::Death => death::run(self).await,
            Kind::Memory => memory::run(self).await,
        }
    }

    fn say(&self, text: &str) {
        (self.progress)(text);
    }

    /// Fails once somebody asked to stop.
    fn go_on(&self) -> Result<(), BenchError> {
        if self.stop.is_cancelled() { Err(BenchError::Stopped) } else { Ok(()) }
    }

    fn report(&self, bench: &'static str, rounds: usize, sections: Vec<Section>) -> Report {
        Report { bench, machine: Machine::here(), rounds, sections }
    }
}

fn io_at(what: &'static str) -> impl Fn(io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

/// Makes a folder that goes with its owner and tells by its name whose it is.
fn folder_in(place: impl AsRef<Path>) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix(&format!("hearth-bench-{}-", std::process::id())).tempdir_in(place)
}

/// Finds a program on the path or where distributions keep those for root.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Waits until something holds.
fn until(what: &'static str, mut condition: impl FnMut() -> bool) -> Result<(), BenchError> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return Err(BenchError::Timeout(what));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
