//! What many seeds of a scenario came to: a distribution and not one number, the worst seed by name, and what was not kept.

use std::fmt::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::play::{Outcome, Recovery};
use super::text::{as_millis, percent, told};
use super::{Expect, Scenario};

/// How a time spreads over seeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Spread {
    /// Half of the seeds are not above it.
    #[serde(rename = "p50-ms", serialize_with = "as_millis")]
    pub p50: Duration,
    /// All but one of twenty.
    #[serde(rename = "p95-ms", serialize_with = "as_millis")]
    pub p95: Duration,
    /// None is above it.
    #[serde(rename = "worst-ms", serialize_with = "as_millis")]
    pub worst: Duration,
    /// The seed of the worst.
    pub worst_seed: u64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = (u64, Duration)>) -> Self {
        let mut sorted: Vec<(Duration, u64)> = figures.map(|(seed, figure)| (figure, seed)).collect();
        sorted.sort_unstable_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
        let rank = |percent: usize| (sorted.len() * percent).div_ceil(100).max(1) - 1;
        let at = |percent| sorted.get(rank(percent)).copied().unwrap_or_default();
        let (worst, worst_seed) = at(100);
        Self { p50: at(50).0, p95: at(95).0, worst, worst_seed }
    }
}

/// One fault over all seeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FaultSummary {
    /// The fault, as the scenario has it.
    pub fault: String,
    /// Until a leader was there.
    pub leader: Spread,
    /// Until every minimum was ready.
    pub placed: Spread,
    /// The most calls of a seed that were not answered.
    pub unanswered_worst: u64,
}

/// An expectation that a seed did not meet, or something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Breach {
    /// The seed.
    pub seed: u64,
    /// What was not kept, and what was there instead.
    pub problem: String,
}

/// What all seeds came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// The layout of this summary.
    pub version: u32,
    /// How the scenario is called.
    pub scenario: String,
    /// How many nodes there are.
    pub nodes: u32,
    /// How many seeds were played.
    pub seeds: u64,
    /// How much time went by in all simulations.
    #[serde(rename = "span-ms", serialize_with = "as_millis")]
    pub span: Duration,
    /// How many calls there were.
    pub calls: u64,
    /// How many of them were answered.
    pub answered: u64,
    /// The share of a seed's calls that were answered, in millionths: the least, and its seed.
    pub availability_worst: (u64, u64),
    /// The median of a seed's answered calls.
    pub p50: Spread,
    /// What all but one of a hundred are below.
    pub p99: Spread,
    /// How many answered calls waited for an instance.
    pub cold: u64,
    /// What all but one of a hundred of those are below.
    pub cold_p99: Spread,
    /// How many changes an operator asked for.
    pub changes: u64,
    /// How many of them were acknowledged.
    pub acknowledged: u64,
    /// How many of those were lost.
    pub lost_acked: u64,
    /// Each fault, in the order in which they begin.
    pub faults: Vec<FaultSummary>,
    /// What was not kept; empty when all is well.
    pub breaches: Vec<Breach>,
}

impl Summary {
    /// Puts together what seeds came to, and holds it against what is expected.
    pub fn new(scenario: &Scenario, outcomes: &[Outcome]) -> Self {
        let sum = |figure: fn(&Outcome) -> u64| outcomes.iter().map(figure).sum();
        let spread = |figure: fn(&Outcome) -> Duration| {
            Spread::of(outcomes.iter().map(|outcome| (outcome.seed, figure(outcome))))
        };
        let least = outcomes.iter().map(|outcome| (outcome.availability(), outcome.seed)).min();
        let most = outcomes.iter().map(|outcome| outcome.recoveries.len()).max().unwrap_or(0);
        Self {
            version: 1,
            scenario: scenario.name.clone(),
            nodes: scenario.nodes(),
            seeds: outcomes.len() as u64,
            span: outcomes.iter().map(|outcome| outcome.span).sum(),
            calls: sum(|outcome| outcome.calls),
            answered: sum(|outcome| outcome.answered),
            availability_worst: least.unwrap_or((1_000_000, 0)),
            p50: spread(|outcome| outcome.p50),
            p99: spread(|outcome| outcome.p99),
            cold: sum(|outcome| outcome.cold),
            cold_p99: spread(|outcome| outcome.cold_p99),
            changes: sum(|outcome| outcome.changes),
            acknowledged: sum(|outcome| outcome.acknowledged),
            lost_acked: sum(|outcome| outcome.lost_acked),
            faults: (0..most).map(|number| fault(outcomes, number)).collect(),
            breaches: outcomes.iter().flat_map(|outcome| breaches(&scenario.expect, outcome)).collect(),
        }
    }
}

fn fault(outcomes: &[Outcome], number: usize) -> FaultSummary {
    let felt = || outcomes.iter().filter_map(|outcome| Some((outcome.seed, outcome.recoveries.get(number)?)));
    let spread = |figure: fn(&Recovery) -> Duration| Spread::of(felt().map(|(seed, felt)| (seed, figure(felt))));
    FaultSummary {
        fault: felt().next().map(|(_, felt)| felt.fault.clone()).unwrap_or_default(),
        leader: spread(|felt| felt.leader),
        placed: spread(|felt| felt.placed),
        unanswered_worst: felt().map(|(_, felt)| felt.unanswered).max().unwrap_or(0),
    }
}

impl Outcome {
    /// Returns the share of calls that were answered, in millionths.
    pub fn availability(&self) -> u64 {
        self.answered.saturating_mul(1_000_000).checked_div(self.calls).unwrap_or(1_000_000)
    }
}

fn breaches(expect: &Expect, outcome: &Outcome) -> Vec<Breach> {
    let mut problems: Vec<String> = outcome.violations.clone();
    if expect.lost_acked.is_some_and(|most| outcome.lost_acked > most) {
        problems.push(format!("{} acknowledged changes were lost", outcome.lost_acked));
    }
    let availability = outcome.availability();
    if let Some(bound) = expect.availability.filter(|bound| !bound.holds(&availability)) {
        problems.push(format!("availability was {}, expected {bound}", percent(availability)));
    }
    for (what, bound, figure) in [("p99", expect.p99, outcome.p99), ("cold-p99", expect.cold_p99, outcome.cold_p99)] {
        if let Some(bound) = bound.filter(|bound| !bound.holds(&figure)) {
            problems.push(format!("{what} was {}, expected {bound}", told(figure)));
        }
    }
    for felt in &outcome.recoveries {
        if let Some(bound) = expect.recovery.filter(|bound| !bound.holds(&felt.total())) {
            problems.push(format!("recovery from {} took {}, expected {bound}", felt.fault, told(felt.total())));
        }
    }
    problems.into_iter().map(|problem| Breach { seed: outcome.seed, problem }).collect()
}

/// How many breaches are listed; the others are counted.
const BREACHES_LISTED: usize = 10;

impl fmt::Display for Summary {
    /// Writes the summary for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, nodes, seeds, .. } = self;
        writeln!(f, "{scenario}: {nodes} nodes, {seeds} seeds, {} of simulated time", told(self.span))?;
        writeln!(f)?;
        let unanswered = self.calls.saturating_sub(self.answered);
        let (worst, seed) = self.availability_worst;
        writeln!(
            f,
            "calls      {} ({unanswered} not answered; worst seed {seed}: {} answered)",
            self.calls,
            percent(worst)
        )?;
        if self.changes > 0 {
            let (changes, acknowledged, lost) = (self.changes, self.acknowledged, self.lost_acked);
            writeln!(f, "changes    {changes} ({acknowledged} acknowledged, {lost} of them lost)")?;
        }
        writeln!(f)?;
        let mut rows = vec![["".to_owned(), "p50".to_owned(), "p95".to_owned(), "worst".to_owned(), "seed".to_owned()]];
        let mut row = |name: String, spread: &Spread| {
            let seed = spread.worst_seed.to_string();
            rows.push([name, told(spread.p50), told(spread.p95), told(spread.worst), seed]);
        };
        row("median call".to_owned(), &self.p50);
        row("p99 of calls".to_owned(), &self.p99);
        if self.cold > 0 {
            row("p99 of cold calls".to_owned(), &self.cold_p99);
        }
        for fault in &self.faults {
            row(format!("{}: leader", fault.fault), &fault.leader);
            row(format!("{}: minimums", fault.fault), &fault.placed);
        }
        f.write_str(&table(&rows))?;
        if !self.breaches.is_empty() {
            writeln!(f)?;
            for Breach { seed, problem } in self.breaches.iter().take(BREACHES_LISTED) {
                writeln!(f, "seed {seed}: {problem}")?;
            }
            if let Some(more) = self.breaches.len().checked_sub(BREACHES_LISTED).filter(|more| *more > 0) {
                writeln!(f, "and {more} more")?;
            }
        }
        Ok(())
    }
}

/// Writes rows with their columns below each other: the first to the left, figures to the right.
fn table(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let first = widths[0];
        write!(text, "{:<first$}", row[0]).expect("a string takes any text");
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(text, "  {cell:>width$}").expect("a string takes any text");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_its_worst_seed() {
        let figures = (1..=20).map(|seed| (seed, Duration::from_millis(seed * 10)));
        let spread = Spread::of(figures);
        let millis = |millis| Duration::from_millis(millis);
        let expected = Spread { p50: millis(100), p95: millis(190), worst: millis(200), worst_seed: 20 };
        assert_eq!(spread, expected);
        assert_eq!(Spread::of(std::iter::empty()).worst, Duration::ZERO);
    }
}
