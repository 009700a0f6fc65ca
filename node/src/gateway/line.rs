//! One revision's line of waiting calls, and the instances that serve it.
//!
//! [`Dispatch`] decides; this drives it under a short lock and does what it says: hands a waiting call its instance,
//! refuses it, or passes a demand on. A call that finds a free slot never touches a channel or a task.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_plane::dispatch::{DeclineReason, Dispatch, Effect, Input, Limits, Refusal};
use control_plane::model::{InstanceFailure, InstanceId, InvocationId, RevisionId, Timestamp};
use tokio::sync::{SetOnce, oneshot};

use super::alarm::Alarm;
use super::demand::{Demand, KillReason, Outbox};
use super::lease::Lease;
use super::phases::StartPhases;
use crate::clock::Clock;
use crate::contract::Channel;

/// What every line shares.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) clock: Clock,
    pub(super) alarm: Arc<Alarm>,
    pub(super) outbox: Arc<Outbox>,
}

/// The traffic of one revision.
#[derive(Debug)]
pub(super) struct Line {
    revision: RevisionId,
    number: u64,
    surroundings: Arc<Surroundings>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dispatch: Dispatch,
    limits: Limits,
    waiting: HashMap<InvocationId, oneshot::Sender<Result<Granted, Refusal>>>,
    seats: HashMap<InstanceId, Arc<Seat>>,
    /// The revision is not served any more; what runs may finish.
    is_retired: bool,
    /// When the alarm wakes this line; never later than [`Dispatch::wake_at`].
    armed: Option<Timestamp>,
}

/// An instance that serves a line.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) instance: InstanceId,
    pub(super) channel: Arc<Channel>,
    pub(super) start: StartPhases,
    /// Set once the instance has ended, with its failure where there is one.
    ended: SetOnce<Option<InstanceFailure>>,
    /// Somebody has asked for its death.
    is_killed: AtomicBool,
}

/// A slot of an instance, given to a call.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) seat: Arc<Seat>,
    /// The call waited for this instance to start.
    pub(super) is_cold: bool,
}

impl Seat {
    /// Returns why the instance ended, if that becomes known within `patience`.
    pub(super) async fn failure(&self, patience: Duration) -> Option<InstanceFailure> {
        tokio::time::timeout(patience, self.ended.wait()).await.ok().cloned().flatten()
    }
}

impl Line {
    pub(super) fn new(revision: RevisionId, number: u64, limits: Limits, surroundings: Arc<Surroundings>) -> Self {
        let state = State {
            dispatch: Dispatch::new(limits),
            limits,
            waiting: HashMap::new(),
            seats: HashMap::new(),
            is_retired: false,
            armed: None,
        };
        Self { revision, number, surroundings, state: Mutex::new(state) }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn revision(&self) -> &RevisionId {
        &self.revision
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.surroundings.clock.now()
    }

    /// Waits for a slot.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        invocation: InvocationId,
        deadline: Timestamp,
    ) -> Result<Lease, Refusal> {
        let (granted, received) = {
            let mut state = self.lock();
            if state.is_retired {
                return Err(Refusal::Declined(DeclineReason::Retired));
            }
            let effects = state.dispatch.on_input(self.now(), Input::Arrived { invocation, deadline });
            match effects.first() {
                Some(Effect::Run { instance, .. }) => {
                    let seat =
                        state.seats.get(instance).map(Arc::clone).expect("dispatch knows only seats of its line");
                    return Ok(Lease::new(Arc::clone(self), invocation, Granted { seat, is_cold: false }));
                }
                Some(Effect::Refuse { reason, .. }) => return Err(reason.clone()),
                Some(Effect::Want { .. } | Effect::Retire { .. }) | None => {}
            }
            let granted = oneshot::channel();
            state.waiting.insert(invocation, granted.0);
            self.perform(&mut state, effects, None);
            (Waiting { line: self, invocation: Some(invocation) }, granted.1)
        };
        let answer = received.await;
        granted.end();
        match answer {
            Ok(Ok(seat)) => Ok(Lease::new(Arc::clone(self), invocation, seat)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::Declined(DeclineReason::Retired)),
        }
    }

    /// Does what dispatch says. `fresh` is the instance that has just become ready, if this is about one.
    fn perform(self: &Arc<Self>, state: &mut State, effects: Vec<Effect>, fresh: Option<InstanceId>) {
        for effect in effects {
            match effect {
                Effect::Run { invocation, instance } => {
                    let seat =
                        state.seats.get(&instance).map(Arc::clone).expect("dispatch knows only seats of its line");
                    let waiting =
                        state.waiting.remove(&invocation).expect("whoever leaves the line is taken out of it");
                    // If the call goes away in this very moment, the drop of its place in the line gives the slot back.
                    drop(waiting.send(Ok(Granted { seat, is_cold: fresh == Some(instance) })));
                }
                Effect::Refuse { invocation, reason } => {
                    if let Some(waiting) = state.waiting.remove(&invocation) {
                        drop(waiting.send(Err(reason)));
                    }
                }
                Effect::Want { starting } => {
                    let revision = self.revision.clone();
                    self.surroundings.outbox.send(Demand::Wanted { revision, starting });
                }
                Effect::Retire { instance } => self.surroundings.outbox.send(Demand::Retired { instance }),
            }
        }
        self.arm(state);
    }

    /// Sets the alarm if dispatch wants to be woken earlier than it rings. One that rings too early costs less than
    /// moving it with every call.
    fn arm(self: &Arc<Self>, state: &mut State) {
        if let Some(at) = state.dispatch.wake_at()
            && state.armed.is_none_or(|armed| at < armed)
        {
            self.surroundings.alarm.set(self, state.armed, at);
            state.armed = Some(at);
        }
    }

    fn input(self: &Arc<Self>, state: &mut State, input: Input) {
        let effects = state.dispatch.on_input(self.now(), input);
        self.perform(state, effects, None);
    }

    /// The alarm rang.
    pub(super) fn wake(self: &Arc<Self>, now: Timestamp) {
        let mut state = self.lock();
        state.armed = None;
        if state.dispatch.wake_at().is_some_and(|at| at <= now) {
            let effects = state.dispatch.on_input(now, Input::Woke);
            self.perform(&mut state, effects, None);
        } else {
            self.arm(&mut state);
        }
    }

    /// Gives a slot back.
    pub(super) fn finish(self: &Arc<Self>, invocation: InvocationId) {
        self.input(&mut self.lock(), Input::Finished { invocation });
    }

    /// Serves the revision, again if it had been retired, within these limits.
    pub(super) fn serve(self: &Arc<Self>, limits: Limits) {
        let mut state = self.lock();
        state.is_retired = false;
        if state.limits != limits {
            state.limits = limits;
            self.input(&mut state, Input::Limits(limits));
        }
    }

    /// Refuses what waits and what will come. Returns whether no instance is left.
    pub(super) fn retire(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        if !state.is_retired {
            state.is_retired = true;
            self.input(&mut state, Input::Declined { reason: DeclineReason::Retired });
        }
        state.seats.is_empty()
    }

    pub(super) fn decline(self: &Arc<Self>, reason: DeclineReason) {
        self.input(&mut self.lock(), Input::Declined { reason });
    }

    pub(super) fn ready(
        self: &Arc<Self>,
        instance: InstanceId,
        channel: Arc<Channel>,
        keep: Option<Duration>,
        start: StartPhases,
    ) {
        let mut state = self.lock();
        let seat =
            Arc::new(Seat { instance, channel, start, ended: SetOnce::new(), is_killed: AtomicBool::new(false) });
        state.seats.insert(instance, seat);
        let effects = state.dispatch.on_input(self.now(), Input::Ready { instance, keep });
        self.perform(&mut state, effects, Some(instance));
    }

    pub(super) fn drain(self: &Arc<Self>, instance: InstanceId) {
        self.input(&mut self.lock(), Input::Drain { instance });
    }

    /// Notes that an instance has ended. Returns whether nothing keeps the line.
    pub(super) fn gone(self: &Arc<Self>, instance: InstanceId, failure: Option<InstanceFailure>) -> bool {
        let mut state = self.lock();
        let seat = state.seats.remove(&instance);
        self.input(&mut state, Input::Gone { instance });
        let is_over = state.is_retired && state.seats.is_empty();
        drop(state);
        if let Some(seat) = seat {
            // Only the first word counts, and there is no second one: the seat has just been taken out.
            drop(seat.ended.set(failure));
            seat.channel.instance_died();
        }
        is_over
    }

    /// Takes an instance out of service that a call found to be dead; its owner will say why.
    pub(super) fn avoid(self: &Arc<Self>, instance: InstanceId) {
        self.input(&mut self.lock(), Input::Gone { instance });
    }

    /// Takes an instance out of service and asks for its death.
    pub(super) fn kill(self: &Arc<Self>, instance: InstanceId, reason: KillReason) {
        let mut state = self.lock();
        let Some(seat) = state.seats.get(&instance) else { return };
        if seat.is_killed.swap(true, Ordering::Relaxed) {
            return;
        }
        self.input(&mut state, Input::Gone { instance });
        self.surroundings.outbox.send(Demand::Kill { instance, reason });
    }

    /// Returns whether the revision is not served any more and nothing of it is left.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.is_retired && state.seats.is_empty()
    }

    /// Returns whether an instance takes calls.
    pub(super) fn takes_calls(&self) -> bool {
        self.lock().dispatch.taking() > 0
    }

    /// Returns how many calls an instance has.
    pub(super) fn in_flight_on(&self, instance: InstanceId) -> u16 {
        self.lock().dispatch.in_flight_on(instance)
    }

    /// Returns how many calls wait, how many run, and how many instances there are.
    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            queued: state.dispatch.queued(),
            in_flight: state.dispatch.in_flight(),
            instances: state.dispatch.ready(),
        }
    }
}

/// What one revision's traffic is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Calls that wait for an instance.
    pub queued: usize,
    /// Calls that have one.
    pub in_flight: usize,
    /// Instances that take calls or finish theirs.
    pub instances: usize,
}

/// A call's place in the line; leaves it when dropped.
struct Waiting<'a> {
    line: &'a Arc<Line>,
    invocation: Option<InvocationId>,
}

impl Waiting<'_> {
    /// The wait is over, and the slot, if there is one, belongs to somebody else.
    fn end(mut self) {
        self.invocation = None;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(invocation) = self.invocation else { return };
        let mut state = self.line.lock();
        if state.waiting.remove(&invocation).is_some() {
            self.line.input(&mut state, Input::Cancelled { invocation });
        } else {
            // The slot was granted, but nobody is there to take it.
            self.line.input(&mut state, Input::Finished { invocation });
        }
    }
}
