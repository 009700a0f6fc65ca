//! Where the time of a call went.

use std::fmt::Write;
use std::time::Duration;

/// How long each part of an instance's start took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartPhases {
    /// From the demand until it was decided where the instance runs.
    pub place: Duration,
    /// Until its sandbox ran.
    pub sandbox: Duration,
    /// Until it took invocations.
    pub init: Duration,
}

/// Where the time of one call went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Waiting for an instance, beyond what its start explains.
    pub queue: Duration,
    /// The start of the instance, if the call waited for it: then it was a cold start.
    pub start: Option<StartPhases>,
    /// From the hand-over to the instance until its answer was there, or its head where it streams.
    pub run: Duration,
    /// What the way to another node and back added, if one served the call.
    pub hop: Duration,
}

impl Phases {
    /// Notes that a call waited this long, and for the start of an instance if there is one.
    pub(super) fn waited(&mut self, waited: Duration, start: Option<StartPhases>) {
        let explained = start.map_or(Duration::ZERO, |start| start.place + start.sandbox + start.init);
        self.queue += waited.saturating_sub(explained);
        self.start = self.start.or(start);
    }

    /// Returns the sum of all phases but the hop.
    pub(super) fn total(&self) -> Duration {
        let start = self.start.unwrap_or_default();
        self.queue + start.place + start.sandbox + start.init + self.run
    }

    /// Returns the phases as the header `Server-Timing` has them, in milliseconds.
    pub(super) fn server_timing(&self) -> String {
        let start = self.start.unwrap_or_default();
        let phases = [
            ("queue", self.queue),
            ("place", start.place),
            ("sandbox", start.sandbox),
            ("init", start.init),
            ("run", self.run),
            ("hop", self.hop),
        ];
        let mut text = String::with_capacity(112);
        for (name, duration) in phases {
            if name == "hop" && duration.is_zero() {
                continue;
            }
            let separator = if text.is_empty() { "" } else { ", " };
            let millis = duration.as_secs_f64() * 1000.0;
            write!(text, "{separator}{name};dur={millis:.3}").expect("a string takes what is written to it");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_what_the_start_does_not_explain() {
        let start =
            StartPhases { place: Duration::ZERO, sandbox: Duration::from_millis(1), init: Duration::from_millis(5) };
        let mut phases = Phases { run: Duration::from_micros(1500), ..Phases::default() };
        phases.waited(Duration::from_millis(8), Some(start));
        let expected = "queue;dur=2.000, place;dur=0.000, sandbox;dur=1.000, init;dur=5.000, run;dur=1.500";
        assert_eq!(phases.server_timing(), expected);
        phases.hop = Duration::from_micros(150);
        assert_eq!(phases.server_timing(), format!("{expected}, hop;dur=0.150"));
    }
}
