//! One revision's traffic brain: which instance takes this invocation, or wait, refuse, ask for one more?
//!
//! ```text
//!            Arrived ──▶ free slot? ──yes──▶ Run (most recently used instance first)
//!                            │no
//!                            ▼
//!                  room in the queue? ──no──▶ Refuse(QueueFull)
//!                            │yes
//!                            ▼
//!                 waits ── Want(more instances) ──▶ whichever slot is free first: Run
//!                            │deadline passes
//!                            ▼
//!                     Refuse(Deadline)
//! ```

mod guard;
mod pace;
mod queue;

use std::collections::BTreeMap;
use std::time::Duration;

use self::guard::StartGuard;
use self::pace::Pace;
use self::queue::Queue;
use crate::model::{Concurrency, InstanceFailure, InstanceId, InvocationId, Timestamp};
use crate::planted::planted;

/// What a dispatch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// An invocation wants an instance before `deadline`.
    Arrived {
        /// The invocation.
        invocation: InvocationId,
        /// When its caller gives up waiting for a slot.
        deadline: Timestamp,
    },
    /// An invocation ended, however it ended: its slot is free.
    Finished {
        /// The invocation.
        invocation: InvocationId,
    },
    /// The caller of a waiting invocation has gone.
    Cancelled {
        /// The invocation.
        invocation: InvocationId,
    },
    /// An instance takes invocations from here on.
    Ready {
        /// The instance.
        instance: InstanceId,
        /// How long it may idle; none means for ever.
        keep: Option<Duration>,
    },
    /// An instance takes no more invocations; those it has may finish.
    Drain {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance has ended; the driver ends its invocations with [`Input::Finished`] by itself.
    Gone {
        /// The instance.
        instance: InstanceId,
    },
    /// A wanted instance will not come.
    Declined {
        /// Why.
        reason: DeclineReason,
    },
    /// The limits changed.
    Limits(Limits),
    /// [`Dispatch::wake_at`] has come.
    Woke,
}

/// What must be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand the invocation to the instance.
    Run {
        /// The invocation.
        invocation: InvocationId,
        /// The instance, which has a free slot for it.
        instance: InstanceId,
    },
    /// Answer the invocation with an error.
    Refuse {
        /// The invocation.
        invocation: InvocationId,
        /// Why.
        reason: Refusal,
    },
    /// Ask for instances: `starting` in all are wanted beyond those that are ready.
    Want {
        /// How many should be starting; replaces what was wanted before.
        starting: u32,
    },
    /// The instance has no invocation left and gets no more: stop it.
    Retire {
        /// The instance.
        instance: InstanceId,
    },
}

/// Why an invocation is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue holds as many as it may.
    QueueFull,
    /// No slot became free in time.
    Deadline,
    /// No instance is there and none can be started.
    Declined(DeclineReason),
}

/// Why a wanted instance will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// No node has room for it; the text says what is missing.
    NoCapacity(String),
    /// Instances fail to start; the failure is the last one.
    Failing(InstanceFailure),
    /// The revision is going away.
    Retired,
}

/// What bounds one revision's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Invocations one instance serves at once.
    pub concurrency: Concurrency,
    /// The most instances, ready and starting together.
    pub instances_max: u32,
    /// The most invocations that wait.
    pub queue_max: usize,
}

/// The traffic of one revision.
#[derive(Clone, Debug)]
pub struct Dispatch {
    limits: Limits,
    instances: BTreeMap<InstanceId, Slots>,
    /// Instances with a free slot, the most recently used last.
    free: Vec<InstanceId>,
    /// Which instance works on which invocation, and since when.
    running: BTreeMap<InvocationId, (InstanceId, Timestamp)>,
    queue: Queue,
    guard: StartGuard,
    pace: Pace,
    /// When those that wait are worth another look: an instance that was to serve them may not have moved.
    review: Option<Timestamp>,
    /// When some instance may have idled long enough; never later than the first of them.
    expiry: Option<Timestamp>,
}

/// What one instance is doing.
#[derive(Clone, Copy, Debug)]
struct Slots {
    /// Invariant: at most the revision's concurrency.
    in_flight: u16,
    is_draining: bool,
    keep: Option<Duration>,
    /// When it last took an invocation or ended one.
    moved_at: Timestamp,
}

impl Dispatch {
    /// Returns a dispatch without instances.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            instances: BTreeMap::new(),
            free: Vec::new(),
            running: BTreeMap::new(),
            queue: Queue::default(),
            guard: StartGuard::default(),
            pace: Pace::default(),
            review: None,
            expiry: None,
        }
    }

    /// Takes one input at time `now` and returns what must be done about it.
    pub fn on_input(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Arrived { invocation, deadline } => self.arrive(now, invocation, deadline, &mut effects),
            Input::Finished { invocation } => self.finish(now, invocation, &mut effects),
            Input::Cancelled { invocation } => {
                if self.queue.remove(invocation) {
                    self.want(now, &mut effects);
                }
            }
            Input::Ready { instance, keep } => {
                let slots = Slots { in_flight: 0, is_draining: false, keep, moved_at: now };
                if self.instances.insert(instance, slots).is_none() {
                    self.free.push(instance);
                }
                self.pace.started(now);
                self.expect_expiry(now, keep);
                self.serve_queue(now, &mut effects);
                self.want(now, &mut effects);
            }
            Input::Drain { instance } => {
                if !planted!(CallToDraining) {
                    self.free.retain(|other| *other != instance);
                }
                if let Some(slots) = self.instances.get_mut(&instance) {
                    slots.is_draining = true;
                    if slots.in_flight == 0 {
                        self.instances.remove(&instance);
                        effects.push(Effect::Retire { instance });
                    }
                }
                self.want(now, &mut effects);
            }
            Input::Gone { instance } => {
                if !planted!(CallToGone) {
                    self.free.retain(|other| *other != instance);
                    self.instances.remove(&instance);
                }
                self.want(now, &mut effects);
            }
            Input::Declined { reason } => self.decline(now, &reason, &mut effects),
            Input::Limits(limits) => {
                self.limits = limits;
                self.serve_queue(now, &mut effects);
                self.want(now, &mut effects);
            }
            Input::Woke => {
                for invocation in self.queue.expired(now) {
                    if planted!(DeadlineForgotten) {
                        continue;
                    }
                    effects.push(Effect::Refuse { invocation, reason: Refusal::Deadline });
                }
                self.expire(now, &mut effects);
                self.want(now, &mut effects);
            }
        }
        effects
    }

    /// Returns the earliest time at which [`Input::Woke`] would have an effect.
    pub fn wake_at(&self) -> Option<Timestamp> {
        [self.queue.first_deadline(), self.expiry, self.guard.wake_at(), self.review].into_iter().flatten().min()
    }

    /// Returns how many invocations wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Returns how many invocations run.
    pub fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// Returns how many invocations an instance works on.
    pub fn in_flight_on(&self, instance: InstanceId) -> u16 {
        self.instances.get(&instance).map_or(0, |slots| slots.in_flight)
    }

    /// Returns how many instances take invocations or finish theirs.
    pub fn ready(&self) -> usize {
        self.instances.len()
    }

    /// Returns how many instances take invocations.
    pub fn taking(&self) -> usize {
        self.instances.values().filter(|slots| !slots.is_draining).count()
    }

    /// Returns how many instances are asked for beyond those that are ready.
    pub fn wanted(&self) -> u32 {
        self.pace.wanted()
    }

    fn arrive(&mut self, now: Timestamp, invocation: InvocationId, deadline: Timestamp, effects: &mut Vec<Effect>) {
        if deadline <= now {
            effects.push(Effect::Refuse { invocation, reason: Refusal::Deadline });
        } else if let Some(instance) = self.take_slot(now) {
            self.running.insert(invocation, (instance, now));
            effects.push(Effect::Run { invocation, instance });
        } else if self.queue.len() >= self.limits.queue_max && !planted!(UnboundedQueue) {
            effects.push(Effect::Refuse { invocation, reason: Refusal::QueueFull });
        } else {
            self.queue.push(invocation, deadline);
            self.want(now, effects);
        }
    }

    fn finish(&mut self, now: Timestamp, invocation: InvocationId, effects: &mut Vec<Effect>) {
        let Some((instance, since)) = self.running.remove(&invocation) else {
            return;
        };
        self.pace.call_ended(since, now);
        // An instance that has gone needs no slot back.
        let Some(slots) = self.instances.get_mut(&instance) else {
            return;
        };
        let was_full = slots.in_flight >= self.limits.concurrency.get();
        slots.in_flight = slots.in_flight.saturating_sub(1);
        slots.moved_at = now;
        let (is_idle, is_draining, keep) = (slots.in_flight == 0, slots.is_draining, slots.keep);
        if is_draining {
            if is_idle {
                self.instances.remove(&instance);
                effects.push(Effect::Retire { instance });
            }
            return;
        }
        if was_full && !self.free.contains(&instance) {
            self.free.push(instance);
        }
        if is_idle {
            self.expect_expiry(now, keep);
        }
        self.serve_queue(now, effects);
    }

    /// Gives waiting invocations the slots there are.
    fn serve_queue(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut is_served = false;
        while !self.queue.is_empty()
            && let Some(instance) = self.take_slot(now)
        {
            let Some(invocation) = self.queue.pop() else { break };
            self.running.insert(invocation, (instance, now));
            effects.push(Effect::Run { invocation, instance });
            is_served = true;
        }
        if is_served {
            self.want(now, effects);
        }
    }

    /// Takes a slot of the most recently used instance that has one.
    fn take_slot(&mut self, now: Timestamp) -> Option<InstanceId> {
        let instance = *self.free.last()?;
        let concurrency = self.limits.concurrency.get().saturating_add(u16::from(planted!(TooManyCalls)));
        match self.instances.get_mut(&instance) {
            Some(slots) if slots.in_flight < concurrency => {
                slots.in_flight += 1;
                if !planted!(BusyRetired) {
                    slots.moved_at = now;
                }
                if slots.in_flight >= concurrency {
                    self.free.pop();
                }
                Some(instance)
            }
            // The concurrency was lowered since it was listed: it is listed again when a slot becomes free.
            Some(_) | None => {
                self.free.pop();
                self.take_slot(now)
            }
        }
    }

    /// Asks for as many instances as the queue needs, if that differs from what was asked before.
    fn want(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let taking = u32::try_from(self.taking()).unwrap_or(u32::MAX);
        let worthwhile = self.worthwhile(now);
        let needed = worthwhile.min(self.limits.instances_max.saturating_sub(taking));
        let wanted = self.pace.wanted();
        let allowed = self.guard.allow(now, taking, wanted, needed);
        if allowed != wanted {
            self.pace.want(now, allowed);
            effects.push(Effect::Want { starting: allowed });
        }
    }

    /// Returns how many starts are worth it for those that wait, and notes when to look again.
    fn worthwhile(&mut self, now: Timestamp) -> u32 {
        self.review = None;
        if self.queue.is_empty() {
            return 0;
        }
        let rounds = self.pace.rounds();
        if rounds == 0 {
            return pace::worthwhile(self.queue.len(), 0, rounds, self.limits.concurrency);
        }
        // One that has not moved for as long as a start takes may be busy for long: nobody waits for it.
        let patience = self.pace.start();
        let (mut working, mut stuck) = (0, 0);
        for slots in self.instances.values().filter(|slots| !slots.is_draining) {
            let end = slots.moved_at + patience;
            if end > now {
                working += 1;
                self.review = Some(self.review.map_or(end, |review| review.min(end)));
            } else {
                stuck += 1;
            }
        }
        // Where nothing moves any more, calls have become long, whatever those were that have ended.
        let rounds = if working == 0 && stuck > 0 { 0 } else { rounds };
        pace::worthwhile(self.queue.len(), working, rounds, self.limits.concurrency)
    }

    fn decline(&mut self, now: Timestamp, reason: &DeclineReason, effects: &mut Vec<Effect>) {
        self.pace.want(now, 0);
        let is_hopeless = self.instances.values().all(|slots| slots.is_draining) || *reason == DeclineReason::Retired;
        if is_hopeless {
            if planted!(LostCall) {
                self.queue.pop();
            }
            while let Some(invocation) = self.queue.pop() {
                effects.push(Effect::Refuse { invocation, reason: Refusal::Declined(reason.clone()) });
            }
        }
        self.guard.rest(now, !self.queue.is_empty());
    }

    fn expect_expiry(&mut self, now: Timestamp, keep: Option<Duration>) {
        if let Some(keep) = keep {
            let at = now + keep;
            self.expiry = Some(self.expiry.map_or(at, |known| known.min(at)));
        }
    }

    /// Retires what has idled for its whole keep-alive.
    fn expire(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.expiry.is_none_or(|at| at > now) {
            return;
        }
        let mut next = None;
        let mut expired = Vec::new();
        for (instance, slots) in &self.instances {
            let is_idle = slots.in_flight == 0 || (planted!(BusyRetired) && slots.in_flight == 1);
            let Some(keep) = slots.keep.filter(|_| is_idle && !slots.is_draining) else {
                continue;
            };
            let at = slots.moved_at + keep;
            if at <= now {
                expired.push(*instance);
            } else {
                next = Some(next.map_or(at, |known: Timestamp| known.min(at)));
            }
        }
        for instance in expired {
            self.instances.remove(&instance);
            self.free.retain(|other| *other != instance);
            effects.push(Effect::Retire { instance });
        }
        self.expiry = next;
    }
}

#[cfg(test)]
mod tests;
