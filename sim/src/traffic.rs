//! The simulated gateway: one line of calls per revision, driven as `node` drives it, and what it asks of the agent.

use std::collections::{BTreeMap, BTreeSet};

use control_plane::autoscale::idle_limit;
use control_plane::dispatch::{DeclineReason, Dispatch, Effect, Input, Limits};
use control_plane::model::{InstanceId, Purpose, RevisionId, Timestamp};
use control_plane::route::RouteTable;
use control_plane::supervisor;

use crate::call::Call;
use crate::journal::Who;
use crate::mark::Mark;
use crate::node::{Event, Footing, Node};
use crate::sandbox::Told;

/// Instances that a revision may ask for without being slowed, as the burst guard has it.
const FREE_STARTS: u32 = 16;

/// Every revision's line, and the calls.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) routes: Option<RouteTable>,
    pub(crate) lines: BTreeMap<RevisionId, Line>,
    /// Which revision an instance serves, and how many calls it has.
    pub(crate) seats: BTreeMap<InstanceId, Seat>,
    pub(crate) calls: BTreeMap<u128, Call>,
    pub(crate) last: u128,
    /// How many of the calls peers have passed on.
    pub(crate) hops: usize,
}

/// The traffic of one revision.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) dispatch: Dispatch,
    limits: Limits,
    /// The revision is not served any more; what runs may finish.
    pub(crate) is_retired: bool,
}

/// An instance that serves a line.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) revision: RevisionId,
    pub(crate) in_flight: u16,
    /// Dispatch has no more use for it.
    pub(crate) is_retired: bool,
    /// Somebody has asked for its death.
    pub(crate) is_killed: bool,
}

/// What traffic asks of the agent.
#[derive(Clone, Debug)]
pub(crate) enum Demand {
    Wanted(RevisionId, u32),
    Retired(InstanceId),
    Kill(InstanceId),
}

impl Traffic {
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        self.lines.values().filter_map(|line| line.dispatch.wake_at()).min()
    }

    /// Returns how many calls of callers are open here.
    pub(crate) fn open(&self) -> usize {
        self.calls.len() - self.hops
    }

    fn has_seats(&self, revision: &RevisionId) -> bool {
        self.seats.values().any(|seat| seat.revision == *revision)
    }
}

impl Node {
    /// Serves what the applied state wants, and moves the calls of what it does not want.
    pub(crate) fn follow_state(&mut self) {
        let mut wanted = BTreeMap::new();
        for (name, function) in &self.state.functions {
            for (number, revision) in function.revisions.iter().filter(|(number, _)| function.wants(**number)) {
                let limits = Limits {
                    concurrency: revision.spec.concurrency,
                    instances_max: function.scaling.max(),
                    queue_max: self.swarm.queue_max,
                };
                wanted.insert(RevisionId { function: name.clone(), number: *number }, limits);
            }
        }
        for (revision, limits) in &wanted {
            match self.traffic.lines.get_mut(revision) {
                Some(line) => {
                    line.is_retired = false;
                    if line.limits != *limits {
                        line.limits = *limits;
                        self.dispatch(revision, Input::Limits(*limits));
                    }
                }
                None => {
                    let line = Line { dispatch: Dispatch::new(*limits), limits: *limits, is_retired: false };
                    self.traffic.lines.insert(revision.clone(), line);
                }
            }
        }
        self.traffic.routes = Some(RouteTable::new(&self.state));
        if let Footing::Member(member) = &mut self.footing {
            member.elsewhere = member.seen.elsewhere(self.id);
        }
        let wanted: BTreeSet<RevisionId> = wanted.into_keys().collect();
        let lines = self.traffic.lines.keys();
        let unwanted: Vec<RevisionId> = lines.filter(|revision| !wanted.contains(*revision)).cloned().collect();
        for revision in unwanted {
            self.retire_line(&revision);
        }
    }

    fn retire_line(&mut self, revision: &RevisionId) {
        let Some(line) = self.traffic.lines.get_mut(revision) else { return };
        if !line.is_retired {
            line.is_retired = true;
            if !self.state.functions.contains_key(&revision.function) {
                let (queued, running) = (line.dispatch.queued(), line.dispatch.in_flight());
                if queued > 0 {
                    self.mark(Mark::DeletedWhileCallsWait);
                }
                if running > 0 {
                    self.mark(Mark::DeletedWhileCallsRun);
                }
            }
            self.dispatch(revision, Input::Declined { reason: DeclineReason::Retired });
        }
        self.drop_line_if_over(revision);
    }

    fn drop_line_if_over(&mut self, revision: &RevisionId) {
        if self.traffic.lines.get(revision).is_some_and(|line| line.is_retired) && !self.traffic.has_seats(revision) {
            self.traffic.lines.remove(revision);
        }
    }

    /// Gives a line's dispatch an input and does what it says.
    pub(crate) fn dispatch(&mut self, revision: &RevisionId, input: Input) {
        let now = self.now;
        let Some(line) = self.traffic.lines.get_mut(revision) else { return };
        for effect in line.dispatch.on_input(now, input) {
            self.journal.note(now, &effect);
            match effect {
                Effect::Run { invocation, instance } => self.call_runs(invocation.0, instance),
                Effect::Refuse { invocation, reason } => self.call_refused(invocation.0, &reason),
                Effect::Want { starting } => {
                    self.check_guard(revision, starting);
                    self.demand(Demand::Wanted(revision.clone(), starting));
                }
                Effect::Retire { instance } => {
                    if let Some(seat) = self.traffic.seats.get_mut(&instance) {
                        seat.is_retired = true;
                        if seat.in_flight > 0 {
                            self.blame(format!("{instance} is retired with calls"));
                        }
                    }
                    if self.sandboxes.get(&instance).is_some_and(|sandbox| sandbox.told == Told::Drain) {
                        self.mark(Mark::DrainFinished);
                    } else {
                        self.tell(Who::Instance(instance), || "has idled long enough".to_owned());
                    }
                    self.demand(Demand::Retired(instance));
                }
            }
        }
        self.check_queue(revision);
    }

    fn check_guard(&mut self, revision: &RevisionId, starting: u32) {
        let Some(line) = self.traffic.lines.get(revision) else { return };
        let waiting = u32::try_from(line.dispatch.queued()).unwrap_or(u32::MAX);
        let needed = waiting.div_ceil(u32::from(line.limits.concurrency.get()));
        let ready = u32::try_from(line.dispatch.ready()).unwrap_or(u32::MAX);
        if starting >= FREE_STARTS && starting < needed.min(line.limits.instances_max.saturating_sub(ready)) {
            self.mark(Mark::BurstGuardHeld);
        }
    }

    /// A line's queue is bounded.
    fn check_queue(&mut self, revision: &RevisionId) {
        let queued = self.traffic.lines.get(revision).map_or(0, |line| line.dispatch.queued());
        if queued > self.swarm.queue_max {
            self.blame(format!("{queued} calls wait for {revision}, {} may", self.swarm.queue_max));
        }
    }

    /// Sends a demand to the agent.
    pub(crate) fn demand(&mut self, demand: Demand) {
        let wait = self.draw(self.swarm.hand_over);
        self.after(wait, Event::Demand(self.life, demand));
    }

    pub(crate) fn take_demand(&mut self, demand: Demand) {
        match demand {
            Demand::Wanted(revision, starting) => {
                self.feed_supervisor(supervisor::Input::Wanted { revision, starting });
            }
            Demand::Retired(instance) => self.feed_supervisor(supervisor::Input::Retired { instance }),
            Demand::Kill(instance) => {
                if let Some(life) = self.sandboxes.get(&instance).map(|sandbox| sandbox.life) {
                    let wait = self.draw(self.swarm.order);
                    self.after(wait, Event::Ordered(instance, life));
                }
            }
        }
    }

    pub(crate) fn instance_ready(&mut self, revision: &RevisionId, instance: InstanceId) {
        if !self.traffic.lines.contains_key(revision) {
            return self.demand(Demand::Retired(instance));
        }
        let seat = Seat { revision: revision.clone(), in_flight: 0, is_retired: false, is_killed: false };
        self.traffic.seats.insert(instance, seat);
        let scaling = self.state.functions.get(&revision.function).map(|function| function.scaling);
        let purpose = self.state.placements.get(&instance).map_or(Purpose::Demand, |placement| placement.purpose);
        let keep = scaling.and_then(|scaling| idle_limit(&scaling, purpose));
        self.dispatch(revision, Input::Ready { instance, keep });
    }

    pub(crate) fn drain(&mut self, instance: InstanceId) {
        if let Some(sandbox) = self.sandboxes.get_mut(&instance) {
            sandbox.told = Told::Drain;
            let (revision, is_placed) = (sandbox.revision.clone(), self.state.placements.contains_key(&instance));
            self.check_drain(&revision, is_placed, instance);
        }
        self.tell(Who::Instance(instance), || "drains".to_owned());
        let Some(seat) = self.traffic.seats.get(&instance) else { return };
        let revision = seat.revision.clone();
        self.dispatch(&revision, Input::Drain { instance });
    }

    pub(crate) fn decline(&mut self, revision: &RevisionId, reason: DeclineReason) {
        self.check_declined(&reason);
        self.dispatch(revision, Input::Declined { reason });
    }

    /// An instance is gone: the calls it had fail.
    pub(crate) fn instance_gone(&mut self, instance: InstanceId, why: &str) {
        let Some(seat) = self.traffic.seats.remove(&instance) else { return };
        self.dispatch(&seat.revision, Input::Gone { instance });
        self.calls_lost(instance, why);
        self.drop_line_if_over(&seat.revision);
    }

    /// The daemon is gone and with it every connection.
    pub(crate) fn traffic_lost(&mut self) {
        let open = self.traffic.open() as u64;
        *self.journal.counts.entry("failed").or_default() += open;
        let last = self.traffic.last;
        let lost = std::mem::replace(&mut self.traffic, Traffic { last, ..Traffic::default() });
        for call in lost.calls.into_keys() {
            self.tell(Who::Call(call), || "fails: the connection is cut".to_owned());
        }
    }

    pub(crate) fn wake_traffic(&mut self) {
        let now = self.now;
        let is_due = |line: &Line| line.dispatch.wake_at().is_some_and(|at| at <= now);
        let due: Vec<RevisionId> =
            self.traffic.lines.iter().filter(|(_, line)| is_due(line)).map(|(revision, _)| revision.clone()).collect();
        for revision in due {
            self.dispatch(&revision, Input::Woke);
        }
    }
}
