//! What a user deploys: functions, what their revisions run, and how they scale.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use super::{Constraints, Digest, FunctionName, Resources, Trigger};

/// The most invocations one instance may serve at once.
pub const CONCURRENCY_MAX: u16 = 1000;

/// The most instances one function may ask for.
pub const INSTANCES_MAX: u32 = 10_000;

/// The contract between an instance and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// `handler(event, context)` in Python, behind Hearth's bootstrap.
    Python3,
    /// `handler(event, context)` in Node.js, behind Hearth's bootstrap.
    Nodejs,
    /// An executable that polls the AWS Lambda Runtime API.
    Provided,
    /// A process that serves HTTP/1.1 on `$PORT`.
    Http,
    /// An OCI image whose entrypoint serves HTTP/1.1 on `$PORT` or polls the Lambda Runtime API.
    Image,
}

impl Runtime {
    /// Every runtime, in the order in which they are documented.
    pub const ALL: [Self; 5] = [Self::Python3, Self::Nodejs, Self::Provided, Self::Http, Self::Image];

    /// Returns the name that manifests use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Python3 => "python3",
            Self::Nodejs => "nodejs",
            Self::Provided => "provided",
            Self::Http => "http",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, UnknownRuntime> {
        Self::ALL.into_iter().find(|runtime| runtime.as_str() == text).ok_or_else(|| UnknownRuntime(text.to_owned()))
    }
}

/// A runtime that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no runtime {0:?}: it is one of python3, nodejs, provided, http, image")]
pub struct UnknownRuntime(String);

/// What a sandbox may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// Only its own loopback interface.
    #[default]
    None,
    /// What lies beyond its node, but neither the node itself nor other sandboxes.
    Egress,
}

/// How many invocations one instance serves at once: 1 to [`CONCURRENCY_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Concurrency(NonZeroU16);

impl Concurrency {
    /// One invocation at a time.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// Returns the concurrency if it is within 1 to [`CONCURRENCY_MAX`].
    pub fn new(count: u16) -> Option<Self> {
        if count > CONCURRENCY_MAX { None } else { NonZeroU16::new(count).map(Self) }
    }

    /// Returns the number of invocations.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// How many instances a function may have, and how long idle ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    min: u32,
    max: u32,
    idle_max: Duration,
}

/// Why scaling limits contradict themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScalingError {
    /// More instances are required than allowed.
    #[error("min {min} is above max {max}")]
    MinAboveMax {
        /// The fewest instances.
        min: u32,
        /// The most instances.
        max: u32,
    },
    /// No instance is allowed at all, or more than [`INSTANCES_MAX`].
    #[error("max {max} is outside 1 to {INSTANCES_MAX}")]
    MaxOutOfRange {
        /// The most instances.
        max: u32,
    },
}

impl Scaling {
    /// Scales from zero to 20 and keeps idle instances for at most an hour.
    pub const DEFAULT: Self = Self { min: 0, max: 20, idle_max: Duration::from_secs(3600) };

    /// Returns the limits if `min <= max` and `1 <= max <= INSTANCES_MAX`.
    pub fn new(min: u32, max: u32, idle_max: Duration) -> Result<Self, ScalingError> {
        if max == 0 || max > INSTANCES_MAX {
            return Err(ScalingError::MaxOutOfRange { max });
        }
        if min > max {
            return Err(ScalingError::MinAboveMax { min, max });
        }
        Ok(Self { min, max, idle_max })
    }

    /// Returns how many instances are always kept.
    pub const fn min(&self) -> u32 {
        self.min
    }

    /// Returns the most instances there may be.
    pub const fn max(&self) -> u32 {
        self.max
    }

    /// Returns the upper bound on how long an idle instance stays.
    pub const fn idle_max(&self) -> Duration {
        self.idle_max
    }
}

/// What changes about how a function scales; what is not said stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScalingChange {
    /// How many instances are always kept.
    pub min: Option<u32>,
    /// The most instances there may be.
    pub max: Option<u32>,
    /// The upper bound on how long an idle instance stays.
    pub idle_max: Option<Duration>,
}

impl ScalingChange {
    /// Returns the limits after it.
    pub fn of(&self, before: &Scaling) -> Result<Scaling, ScalingError> {
        let (min, max) = (self.min.unwrap_or(before.min), self.max.unwrap_or(before.max));
        Scaling::new(min, max, self.idle_max.unwrap_or(before.idle_max))
    }

    /// Returns the limits after it whatever they were before, if it names all of them and they can be.
    pub fn whole(&self) -> Option<Scaling> {
        Scaling::new(self.min?, self.max?, self.idle_max?).ok()
    }
}

impl From<Scaling> for ScalingChange {
    fn from(scaling: Scaling) -> Self {
        Self { min: Some(scaling.min), max: Some(scaling.max), idle_max: Some(scaling.idle_max) }
    }
}

/// What every instance of one revision runs; immutable once deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionSpec {
    /// The contract its instances keep.
    pub runtime: Runtime,
    /// The OCI image, by the digest of its manifest.
    pub image: Digest,
    /// The argument vector; empty means the image's own entrypoint and command.
    pub command: Vec<String>,
    /// `module.function` for the runtimes that have one.
    pub handler: Option<String>,
    /// Environment of the process, beside what the contract defines.
    pub environment: BTreeMap<String, String>,
    /// What one instance holds of its node.
    pub resources: Resources,
    /// How long an invocation may take, and how long an instance may take to become ready.
    pub timeout: Duration,
    /// Invocations one instance serves at once.
    pub concurrency: Concurrency,
    /// What the sandbox may reach.
    pub network: Network,
    /// The user id inside the sandbox; none means whom the image names, or else an ordinary one.
    pub user: Option<u32>,
    /// Where its instances may run.
    pub placement: Constraints,
}

/// One function as a manifest asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionSpec {
    /// Its name, unique in the cluster.
    pub name: FunctionName,
    /// What its instances run; a difference to the newest revision makes another revision.
    pub revision: RevisionSpec,
    /// How it scales; changed in place.
    pub scaling: Scaling,
    /// What invokes it beside its name; changed in place.
    pub triggers: Vec<Trigger>,
}
