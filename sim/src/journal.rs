//! What happened: its hash, its counts, what must not have happened, which rare paths were reached, and the story's lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::time::Duration;

use control_plane::model::{FunctionName, InstanceId, Timestamp};

use crate::call::Outcome;
use crate::mark::Mark;

/// How many violations are kept; what comes after the first few rarely says more.
const VIOLATIONS_MAX: usize = 20;

/// FNV-1a of the text of everything that happens.
#[derive(Debug)]
struct Hash(u64);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// Whom a line of a story is about; lines of one moment that say the same about several are told as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Call(u128),
    Instance(InstanceId),
    Nobody,
}

impl fmt::Display for Who {
    /// Writes it with a space behind, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call) if *call >> 64 == 0 => write!(f, "call {call} "),
            Self::Call(call) => write!(f, "call {}-{} ", call >> 64, call & u128::from(u64::MAX)),
            Self::Instance(instance) => write!(f, "{instance} "),
            Self::Nobody => Ok(()),
        }
    }
}

/// A line of a story.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) who: Who,
    pub(crate) text: String,
}

/// How a call ended for its caller.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) at: Timestamp,
    pub(crate) function: FunctionName,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    /// It waited for an instance.
    pub(crate) has_waited: bool,
}

#[derive(Debug)]
pub(crate) struct Journal {
    hash: Hash,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) marks: BTreeSet<Mark>,
    /// Present while a story is played.
    lines: Option<Vec<Line>>,
    /// How each call ended; present while somebody wants to know.
    pub(crate) ends: Option<Vec<End>>,
    /// The index of the state after each change that was acknowledged to an operator.
    pub(crate) acknowledged: Vec<u64>,
}

impl Journal {
    pub(crate) fn new(is_story: bool) -> Self {
        Self {
            hash: Hash(0xcbf2_9ce4_8422_2325),
            violations: Vec::new(),
            counts: BTreeMap::new(),
            marks: BTreeSet::new(),
            lines: is_story.then(Vec::new),
            ends: None,
            acknowledged: Vec::new(),
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.0
    }

    /// Mixes what happens into the hash.
    pub(crate) fn note(&mut self, at: Timestamp, what: &dyn fmt::Debug) {
        write!(self.hash, "{at} {what:?}").expect("a hash takes any text");
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn counted(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn blame(&mut self, at: Timestamp, violation: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("{at}: {violation}"));
        }
    }

    pub(crate) fn tell(&mut self, at: Timestamp, who: Who, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, who, text: text() });
        }
    }

    /// Takes the lines told since the last time.
    pub(crate) fn take_lines(&mut self) -> Vec<Line> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
