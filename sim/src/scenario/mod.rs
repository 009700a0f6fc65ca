//! Scenarios: a cluster, its load and its faults as a text, and what they must not lead to.
//!
//! ```text
//! file.rs ─▶ Scenario ─▶ play.rs: the whole stack, seed by seed ─▶ Outcome ─▶ report.rs: over all seeds, against expectations
//! ```
//! Nothing here reads a file or a clock: whoever calls has the text, and tells how long it took.

mod fault;
mod file;
mod harm;
mod play;
mod report;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::model::{Bytes, Concurrency, FunctionName, MilliCpu, Scaling};

pub use self::fault::{Fault, Kind, Target};
pub(crate) use self::play::surroundings;
pub use self::play::{Outcome, Recovery, play};
pub use self::report::{Breach, Spread, Summary};
pub use self::text::{Bound, Comparison};

/// The most nodes of a scenario.
pub const NODES_MAX: u32 = 100;

/// The most faults of a scenario.
pub const FAULTS_MAX: usize = 100;

/// The most calls a second, over all functions.
pub const RATE_MAX: u32 = 10_000;

/// The longest load.
pub const LOAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a text is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct ScenarioError {
    /// What is wrong; where the text cannot be read, with the place in it.
    pub problem: String,
    /// What to do about it.
    pub hint: String,
}

impl ScenarioError {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }
}

/// A cluster, its load, what goes wrong, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// How it is called.
    pub name: String,
    /// How many nodes stand in each zone.
    pub zones: BTreeMap<String, u32>,
    /// What instances may hold of each node.
    pub capacity: (MilliCpu, Bytes),
    /// How long a message takes within a zone.
    pub latency: Duration,
    /// How much longer it takes to another zone.
    pub latency_between: Duration,
    /// The functions.
    pub functions: Vec<FunctionLoad>,
    /// How long there is load.
    pub length: Duration,
    /// How long an operator waits between two changes, if there is one.
    pub change_every: Option<Duration>,
    /// What goes wrong, in the order of the file.
    pub faults: Vec<Fault>,
    /// What is expected.
    pub expect: Expect,
}

/// A function and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionLoad {
    /// Its name.
    pub name: FunctionName,
    /// What an instance holds.
    pub memory: Bytes,
    /// Calls that an instance serves at once.
    pub concurrency: Concurrency,
    /// How it scales.
    pub scaling: Scaling,
    /// How long an instance takes to become ready.
    pub start: (Duration, Duration),
    /// How long a call takes.
    pub call: (Duration, Duration),
    /// How long a call may take.
    pub timeout: Duration,
    /// Calls a second.
    pub rate: u32,
}

/// What must hold for every seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// How many acknowledged changes may be lost.
    pub lost_acked: Option<u64>,
    /// The share of calls that are answered, in millionths.
    pub availability: Option<Bound<u64>>,
    /// How long all but one call of a hundred take.
    pub p99: Option<Bound<Duration>>,
    /// The same of calls that waited for an instance.
    pub cold_p99: Option<Bound<Duration>>,
    /// How long a fault is felt: until a leader is there, and every minimum is ready on nodes that are.
    pub recovery: Option<Bound<Duration>>,
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        file::parse(text)
    }

    /// Returns how many nodes there are.
    pub fn nodes(&self) -> u32 {
        self.zones.values().sum()
    }
}
