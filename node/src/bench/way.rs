//! Ways to one instance, over one connection each: calls take them in turns, and one may add to another.

use std::time::Instant;

use super::http::{Connection, get};
use super::report::{Role, Row, Section};
use super::sample::Samples;
use super::{Bench, BenchError, io_at};

/// Calls of one turn over one connection; then it is another's turn.
const CALLS: usize = 200;

/// Calls before those that count.
const WARM_UP: usize = 1000;

/// One way to the instance, and what calls took that way.
#[derive(Debug)]
pub(super) struct Way {
    name: &'static str,
    role: Role,
    connection: Connection,
    request: Vec<u8>,
    /// In microseconds.
    samples: Samples,
}

impl Way {
    /// Makes the way of a name that calls a path over a connection.
    pub(super) fn new(name: &'static str, role: Role, connection: Connection, path: &str) -> Self {
        Self { name, role, connection, request: get(path, ""), samples: Samples::default() }
    }

    fn warm_up(&mut self) -> Result<(), BenchError> {
        let failed = io_at("a warm call failed");
        let answer = self.connection.send(&self.request).map_err(&failed)?;
        if answer.status != 200 {
            let reason = format!("{}: status {}", self.name, answer.status);
            return Err(BenchError::Program { program: "a warm call".to_owned(), reason });
        }
        (0..WARM_UP).try_for_each(|_| self.connection.exchange(&self.request)).map_err(&failed)
    }

    fn turn(&mut self) -> Result<(), BenchError> {
        for _ in 0..CALLS {
            let start = Instant::now();
            self.connection.exchange(&self.request).map_err(io_at("a warm call failed"))?;
            self.samples.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(())
    }
}

/// Calls one at a time, each way in turn, and returns a row for each.
pub(super) fn take_turns(bench: &Bench<'_>, mut ways: Vec<Way>, rounds: usize) -> Result<Section, BenchError> {
    ways.iter_mut().try_for_each(Way::warm_up)?;
    for round in 0..rounds {
        bench.go_on()?;
        bench.say(&format!("one connection: {round} of {rounds} rounds"));
        ways.iter_mut().try_for_each(Way::turn)?;
    }
    let rows = ways.iter().map(|way| Row::new(way.name, way.role, &way.samples)).collect();
    Ok(Section::new("one call at a time over one connection", "µs", rows))
}

/// Returns a row of what the way `through` takes longer than the way `directly`, if both were taken.
pub(super) fn added(whole: &Section, name: &str, role: Role, through: &str, directly: &str) -> Option<Row> {
    let (through, directly) = (whole.row(through)?, whole.row(directly)?);
    let difference = |one: Option<f64>, other: Option<f64>| one.zip(other).map(|(one, other)| one - other);
    Some(Row {
        samples: through.samples,
        p50: difference(through.p50, directly.p50),
        p99: difference(through.p99, directly.p99),
        ..Row::missing(name, role, "difference of the percentiles")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_the_difference_of_ways_that_were_taken() {
        let row = |name: &str, values: [f64; 2]| {
            let mut samples = Samples::default();
            values.into_iter().for_each(|value| samples.push(value));
            Row::new(name, Role::Ours, &samples)
        };
        let whole = Section::new("calls", "µs", vec![row("through", [7.0, 9.0]), row("directly", [2.0, 3.0])]);
        let added = |directly: &str| added(&whole, "hearth", Role::Ours, "through", directly);
        let row = added("directly").expect("both were taken");
        assert_eq!((row.samples, row.p50, row.p99), (2, Some(5.0), Some(6.0)));
        assert!(added("elsewhere").is_none());
    }
}
