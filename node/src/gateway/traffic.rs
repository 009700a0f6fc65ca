//! The traffic of every revision: the door between calls, which want instances, and the agent, which has them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use control_plane::dispatch::{DeclineReason, Limits, Refusal};
use control_plane::model::{InstanceFailure, InstanceId, InvocationId, RevisionId, Timestamp};
use control_plane::state::State;
use tokio::task::JoinHandle;

use super::alarm::Alarm;
use super::demand::{Demands, Outbox};
use super::lease::Lease;
use super::line::{Line, Load, Surroundings};
use super::phases::StartPhases;
use crate::clock::Clock;
use crate::contract::Channel;

/// The most calls of one revision that wait for an instance; what comes beyond is refused with 429.
pub const QUEUE_MAX: usize = 1000;

/// Every revision's line of calls and its instances. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Traffic {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    surroundings: Arc<Surroundings>,
    queue_max: usize,
    lines: RwLock<HashMap<RevisionId, Arc<Line>>>,
    /// Which line each instance serves.
    instances: Mutex<HashMap<InstanceId, Arc<Line>>>,
    lines_made: AtomicU64,
    timer: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.timer.abort();
        self.surroundings.outbox.close();
    }
}

impl Traffic {
    /// Returns traffic without revisions, and what it will ask for. At most `queue_max` calls of a revision wait; see
    /// [`QUEUE_MAX`]. Must be called within a Tokio runtime: one task keeps the time for all revisions.
    pub fn new(clock: Clock, queue_max: usize) -> (Self, Demands) {
        let alarm = Arc::new(Alarm::default());
        let outbox = Arc::new(Outbox::default());
        let timer = tokio::spawn(Arc::clone(&alarm).run(clock.clone()));
        let surroundings = Arc::new(Surroundings { clock, alarm, outbox: Arc::clone(&outbox) });
        let inner = Inner {
            surroundings,
            queue_max,
            lines: RwLock::default(),
            instances: Mutex::default(),
            lines_made: AtomicU64::new(0),
            timer,
        };
        (Self { inner: Arc::new(inner) }, Demands::new(outbox))
    }

    /// Follows the applied state: serves the revisions that should exist within their limits, and refuses the calls of
    /// those that should not.
    pub fn set_revisions(&self, state: &State) {
        self.serve(state);
        self.retire(state);
    }

    /// Serves what the state wants.
    pub(super) fn serve(&self, state: &State) {
        for (revision, limits) in self.wanted(state) {
            self.line_or_new(&revision, limits).serve(limits);
        }
    }

    /// Refuses what the state does not want.
    pub(super) fn retire(&self, state: &State) {
        let wanted = self.wanted(state);
        let mut lines = self.inner.lines.write().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|revision, line| wanted.contains_key(revision) || !line.retire());
    }

    fn wanted(&self, state: &State) -> BTreeMap<RevisionId, Limits> {
        let mut wanted = BTreeMap::new();
        for (name, function) in &state.functions {
            for (number, revision) in function.revisions.iter().filter(|(number, _)| function.wants(**number)) {
                let id = RevisionId { function: name.clone(), number: *number };
                let limits = Limits {
                    concurrency: revision.spec.concurrency,
                    instances_max: function.scaling.max(),
                    queue_max: self.inner.queue_max,
                };
                wanted.insert(id, limits);
            }
        }
        wanted
    }

    fn line_or_new(&self, revision: &RevisionId, limits: Limits) -> Arc<Line> {
        if let Some(line) = self.line(revision) {
            return line;
        }
        let number = self.inner.lines_made.fetch_add(1, Ordering::Relaxed);
        let surroundings = Arc::clone(&self.inner.surroundings);
        let line = Arc::new(Line::new(revision.clone(), number, limits, surroundings));
        let mut lines = self.inner.lines.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(revision.clone()).or_insert(line))
    }

    fn line(&self, revision: &RevisionId) -> Option<Arc<Line>> {
        self.inner.lines.read().unwrap_or_else(PoisonError::into_inner).get(revision).map(Arc::clone)
    }

    fn instances(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Line>>> {
        self.inner.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends calls of a revision to an instance from here on. It may idle for `keep`, none means for ever; `start` says
    /// how long its start took.
    ///
    /// An instance of a revision that is not served is retired at once.
    pub fn instance_ready(
        &self,
        revision: &RevisionId,
        instance: InstanceId,
        channel: Arc<Channel>,
        keep: Option<Duration>,
        start: StartPhases,
    ) {
        let Some(line) = self.line(revision) else {
            self.inner.surroundings.outbox.send(super::demand::Demand::Retired { instance });
            return;
        };
        self.instances().insert(instance, Arc::clone(&line));
        line.ready(instance, channel, keep, start);
    }

    /// Sends no more calls to an instance; it is retired once those it has are over.
    pub fn instance_drain(&self, instance: InstanceId) {
        let line = self.instances().get(&instance).map(Arc::clone);
        if let Some(line) = line {
            line.drain(instance);
        }
    }

    /// Notes that an instance has ended; calls that it had end with its failure.
    pub fn instance_gone(&self, instance: InstanceId, failure: Option<InstanceFailure>) {
        let line = self.instances().remove(&instance);
        let Some(line) = line else { return };
        if line.gone(instance, failure) {
            let mut lines = self.inner.lines.write().unwrap_or_else(PoisonError::into_inner);
            // A revision that came back in the meantime keeps its line.
            if lines.get(line.revision()).is_some_and(|known| Arc::ptr_eq(known, &line) && line.is_over()) {
                lines.remove(line.revision());
            }
        }
    }

    /// Notes that a wanted instance will not come.
    pub fn declined(&self, revision: &RevisionId, reason: DeclineReason) {
        if let Some(line) = self.line(revision) {
            line.decline(reason);
        }
    }

    /// Waits until `deadline` for a slot of an instance. Dropping the future leaves the line.
    pub async fn acquire(
        &self,
        revision: &RevisionId,
        invocation: InvocationId,
        deadline: Timestamp,
    ) -> Result<Lease, Refusal> {
        match self.line(revision) {
            Some(line) => line.acquire(invocation, deadline).await,
            None => Err(Refusal::Declined(DeclineReason::Retired)),
        }
    }

    /// Returns whether an instance of a revision takes calls here.
    pub(super) fn takes_calls(&self, revision: &RevisionId) -> bool {
        self.line(revision).is_some_and(|line| line.takes_calls())
    }

    /// Returns how many calls an instance has right now.
    pub fn in_flight_on(&self, instance: InstanceId) -> u16 {
        let line = self.instances().get(&instance).map(Arc::clone);
        line.map_or(0, |line| line.in_flight_on(instance))
    }

    /// Returns what the traffic of a revision is doing, if it is served.
    pub fn load(&self, revision: &RevisionId) -> Option<Load> {
        self.line(revision).map(|line| line.load())
    }
}
