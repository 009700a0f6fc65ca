//! What a benchmark prints: rows of figures, each beside its peers and floors.

use std::collections::BTreeMap;

use serde::Serialize;

use super::sample::Samples;

/// What one command measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which command, for example `cold`.
    pub bench: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// How often each thing was measured.
    pub rounds: usize,
    /// What was compared with what.
    pub sections: Vec<Section>,
}

/// The machine a report is about.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Whether this program was compiled with optimization; figures of one that was not say little.
    pub is_optimized: bool,
}

/// Figures that belong together: taken in one interleaved run.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// What is compared.
    pub title: String,
    /// The unit of all its figures.
    pub unit: &'static str,
    /// One row for each thing measured; ours comes first.
    pub rows: Vec<Row>,
    /// What the figures are to be, and whether they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<Goal>,
}

/// What a figure is to be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Which figure.
    pub what: String,
    /// What it was here.
    pub value: f64,
    /// What it is to be.
    pub bound: f64,
    /// On which side of the bound it is to be.
    pub side: Side,
    /// Whether it is.
    pub is_met: bool,
}

/// Which side of a bound is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The bound or more.
    AtLeast,
    /// The bound or less.
    AtMost,
}

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// This program.
    Ours,
    /// Another program that does the same.
    Peer,
    /// What the kernel or the function needs by itself: nobody can be faster.
    Floor,
}

/// One thing that was measured, or the reason why not.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What.
    pub name: String,
    /// Ours, a peer's or a floor.
    pub role: Role,
    /// How many measurements there are.
    pub samples: usize,
    /// The least of them.
    pub min: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// Its median over that of the row it is compared with, which is the first of its section.
    pub ratio: Option<f64>,
    /// Medians of the parts it consists of, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, f64>,
    /// Why there are no figures, or what one has to know about them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    pub(super) fn new(name: impl Into<String>, role: Role, samples: &Samples) -> Self {
        Self {
            name: name.into(),
            role,
            samples: samples.count(),
            min: samples.min(),
            p50: samples.median(),
            p99: samples.percentile(99),
            ratio: None,
            parts: BTreeMap::new(),
            note: None,
        }
    }

    /// A row without figures.
    pub(super) fn missing(name: impl Into<String>, role: Role, why: impl Into<String>) -> Self {
        Self { note: Some(why.into()), ..Self::new(name, role, &Samples::default()) }
    }

    /// A row of what others have published of another program, which nobody measured here.
    pub(super) fn published(name: impl Into<String>, value: f64, by_whom: impl Into<String>) -> Self {
        Self { p50: Some(value), ..Self::missing(name, Role::Peer, by_whom) }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

impl Section {
    /// Puts rows together; each is compared with the first.
    pub(super) fn new(title: impl Into<String>, unit: &'static str, mut rows: Vec<Row>) -> Self {
        let first = rows.first().and_then(|row| row.p50);
        for row in rows.iter_mut().skip(1) {
            row.ratio = row.p50.zip(first).filter(|(_, first)| *first > 0.0).map(|(own, first)| own / first);
        }
        Self { title: title.into(), unit, rows, goals: Vec::new() }
    }

    /// Sets a goal for a figure; where there is no figure there is no goal either.
    pub(super) fn goal(mut self, what: &str, value: Option<f64>, side: Side, bound: f64) -> Self {
        if let Some(value) = value {
            let is_met = match side {
                Side::AtLeast => value >= bound,
                Side::AtMost => value <= bound,
            };
            self.goals.push(Goal { what: what.to_owned(), value, bound, side, is_met });
        }
        self
    }

    /// Returns a row by its name.
    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// Returns the median of a row.
    pub(super) fn median(&self, name: &str) -> Option<f64> {
        self.row(name)?.p50
    }

    /// Returns how many times the median of the first row goes into that of another.
    pub(super) fn ratio(&self, name: &str) -> Option<f64> {
        self.row(name)?.ratio
    }
}

impl Machine {
    /// Looks at this machine.
    pub(super) fn here() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kibibytes = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or_default();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes << 10,
            kernel: kernel.trim().to_owned(),
            is_optimized: !cfg!(debug_assertions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_with_the_first_and_missing_peers_with_nothing() {
        let measured = |value: f64| {
            let mut samples = Samples::default();
            samples.push(value);
            samples
        };
        let section = Section::new(
            "first byte",
            "ms",
            vec![
                Row::new("hearth", Role::Ours, &measured(2.0)),
                Row::new("crun", Role::Peer, &measured(30.0)),
                Row::missing("runc", Role::Peer, "not installed"),
            ],
        );
        let ratios: Vec<Option<f64>> = section.rows.iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [None, Some(15.0), None]);
        assert_eq!(section.rows[2].p50, None);
        let section = section.goal("against crun", Some(15.0), Side::AtLeast, 10.0);
        let section = section.goal("ours", Some(2.0), Side::AtMost, 1.0).goal("missing", None, Side::AtMost, 1.0);
        assert_eq!(section.goals.iter().map(|goal| goal.is_met).collect::<Vec<_>>(), [true, false]);
    }
}
