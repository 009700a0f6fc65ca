//! Proves candidates before they take traffic.
//!
//! A candidate gets one instance, and as many more as the live revision has at that moment, up to a bound, so that the
//! switch does not begin with a burst of cold starts. When they are ready it becomes live; when its code fails to start,
//! or the machine fails to start it several times, it is marked failed and the live revision stays.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Controller, Effect};
use crate::model::{InstanceFailure, InstanceId, Purpose, RevisionId, Timestamp};
use crate::placement::Ask;
use crate::planted::planted;
use crate::state::{Command, Function, State};

/// The most instances of a candidate that are made ready before it takes over.
const WARM_MAX: usize = 4;

/// How long the first ready instance waits for the others.
const WARM_WAIT: Duration = Duration::from_millis(500);

/// How often instances may fail to start for reasons that need not be the function's own.
const ATTEMPTS_MAX: u32 = 3;

/// How long a candidate may take to become ready in all.
const VERIFY_MAX: Duration = Duration::from_secs(120);

/// How far the proof of one candidate is.
#[derive(Clone, Debug, Default)]
pub(super) struct Verification {
    began: Option<Timestamp>,
    first_ready: Option<Timestamp>,
    ready: BTreeSet<InstanceId>,
    failures: u32,
    /// Why it cannot succeed any more.
    verdict: Option<String>,
    /// Why no instance of it could be placed when that was last tried.
    pub(super) no_fit: Option<String>,
}

impl Verification {
    pub(super) fn ready(&mut self, instance: InstanceId) {
        self.ready.insert(instance);
    }

    pub(super) fn failed(&mut self, failure: &InstanceFailure) {
        self.failures += 1;
        let is_final = match failure {
            InstanceFailure::Init(_) | InstanceFailure::OutOfMemory => true,
            InstanceFailure::Sandbox(_) | InstanceFailure::InitTimeout | InstanceFailure::Exited(_) => {
                self.failures >= ATTEMPTS_MAX
            }
        };
        if is_final {
            self.verdict = Some(failure.to_string());
        }
    }

    /// Returns the times at which something about it becomes due.
    pub(super) fn due(&self) -> impl Iterator<Item = Timestamp> {
        let bound = self.began.map(|began| began + VERIFY_MAX);
        let warm = self.first_ready.map(|ready| ready + WARM_WAIT);
        [bound, warm].into_iter().flatten()
    }
}

impl Controller {
    /// Takes each candidate one step further.
    pub(super) fn verify_candidates(
        &mut self,
        now: Timestamp,
        state: &State,
        asks: &mut Vec<Ask>,
        effects: &mut Vec<Effect>,
    ) {
        for (name, function) in &state.functions {
            if let Some(number) = function.candidate {
                let id = RevisionId { function: name.clone(), number };
                asks.extend(self.verify(now, state, function, id, effects));
            }
        }
    }

    /// Takes a candidate one step further; returns the instances it still needs.
    fn verify(
        &mut self,
        now: Timestamp,
        state: &State,
        function: &Function,
        id: RevisionId,
        effects: &mut Vec<Effect>,
    ) -> Vec<Ask> {
        let placed = state.placements.count_of(&id);
        let live = function.live.map(|number| RevisionId { function: id.function.clone(), number });
        let warm = live.map_or(1, |live| state.placements.count_of(&live).clamp(1, WARM_MAX));
        let verification = self.verifications.entry(id.clone()).or_default();
        let began = *verification.began.get_or_insert(now);
        // Another leader may have placed what is ready by now; those that ended in between do not count.
        let ready = verification.ready.iter().filter(|instance| state.placements.contains_key(instance)).count();
        if ready > 0 {
            verification.first_ready.get_or_insert(now);
        }
        let has_waited = verification.first_ready.is_some_and(|first| first + WARM_WAIT <= now);
        if ready >= warm || (planted!(PromotedUnready) && placed >= warm) || (ready > 0 && has_waited) {
            self.propose(now, Command::Promote { revision: id }, effects);
        } else if let Some(reason) = verification.verdict.clone().filter(|_| ready == 0) {
            self.propose(now, Command::FailRevision { revision: id, reason }, effects);
        } else if began + VERIFY_MAX <= now {
            let reason = match &verification.no_fit {
                Some(no_fit) => format!("it could not be placed: {no_fit}"),
                None => format!("no instance was ready within {} s", VERIFY_MAX.as_secs()),
            };
            self.propose(now, Command::FailRevision { revision: id, reason }, effects);
        } else {
            let ask = Ask { revision: id, purpose: Purpose::Verify };
            return vec![ask; warm.saturating_sub(placed)];
        }
        Vec::new()
    }
}
