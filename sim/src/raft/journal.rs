//! What happened to a cluster: counts, marks, violations, and its story for whoever replays a seed.

use std::collections::{BTreeMap, BTreeSet};

use super::mark::Mark;
use super::runtime;

/// How many violations are kept; what comes after the first few rarely says more.
const VIOLATIONS_MAX: usize = 10;

#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) marks: BTreeSet<Mark>,
    pub(crate) violations: Vec<String>,
    /// Present while somebody listens.
    pub(crate) lines: Option<Vec<String>>,
}

fn seconds() -> String {
    let now = runtime::now();
    format!("{}.{:06}", now / 1_000_000_000, now / 1_000 % 1_000_000)
}

impl Journal {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.marks.insert(mark);
    }

    pub(crate) fn blame(&mut self, violation: &str) {
        self.tell(|| format!("VIOLATION: {violation}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(format!("{}: {violation}", seconds()));
        }
    }

    pub(crate) fn tell(&mut self, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{} {}", seconds(), text()));
        }
    }
}
