//! What happened: its hash, its counts, what must not have happened, which rare paths were reached, and the story's lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use control_plane::model::{InstanceId, Timestamp};

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

/// A line of a story.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) who: Who,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct Journal {
    hash: Hash,
    pub(crate) violations: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) marks: BTreeSet<Mark>,
    /// Present while a story is played.
    lines: Option<Vec<Line>>,
}

impl Journal {
    pub(crate) fn new(is_story: bool) -> Self {
        Self {
            hash: Hash(0xcbf2_9ce4_8422_2325),
            violations: Vec::new(),
            counts: BTreeMap::new(),
            marks: BTreeSet::new(),
            lines: is_story.then(Vec::new),
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
