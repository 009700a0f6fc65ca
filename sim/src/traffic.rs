//! The simulated gateway: one dispatch per revision, calls on their way, and what became of them.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::autoscale::idle_limit;
use control_plane::dispatch::{DeclineReason, Dispatch, Effect, Input, Limits, Refusal};
use control_plane::model::{FunctionName, InstanceId, InvocationId, Purpose, RevisionId, Timestamp};
use control_plane::supervisor;

use crate::node::{Event, Node};
use crate::rng::Span;

/// How long a call waits for an instance.
const QUEUE_WAIT: Duration = Duration::from_secs(60);

/// How many calls of one revision wait.
const QUEUE_MAX: usize = 50;

/// Every revision's dispatch, and the calls.
#[derive(Default)]
pub(crate) struct Traffic {
    lines: BTreeMap<RevisionId, Dispatch>,
    /// Which revision an instance serves, and how many calls it has.
    seats: BTreeMap<InstanceId, Seat>,
    calls: BTreeMap<u128, Call>,
    last: u128,
}

struct Seat {
    revision: RevisionId,
    in_flight: u16,
    is_draining: bool,
}

struct Call {
    function: FunctionName,
    revision: RevisionId,
    instance: Option<InstanceId>,
}

impl Traffic {
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        self.lines.values().filter_map(Dispatch::wake_at).min()
    }

    pub(crate) fn open(&self) -> usize {
        self.calls.len()
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
                    queue_max: QUEUE_MAX,
                };
                wanted.insert(RevisionId { function: name.clone(), number: *number }, limits);
            }
        }
        for (revision, limits) in &wanted {
            if self.traffic.lines.contains_key(revision) {
                self.dispatch(revision, Input::Limits(*limits));
            } else {
                self.traffic.lines.insert(revision.clone(), Dispatch::new(*limits));
            }
        }
        let unwanted: Vec<RevisionId> =
            self.traffic.lines.keys().filter(|revision| !wanted.contains_key(*revision)).cloned().collect();
        for revision in unwanted {
            self.dispatch(&revision, Input::Declined { reason: DeclineReason::Retired });
            let is_over =
                self.traffic.lines.get(&revision).is_some_and(|line| line.ready() == 0 && line.in_flight() == 0);
            if is_over {
                self.traffic.lines.remove(&revision);
            }
        }
    }

    pub(crate) fn call_arrived(&mut self, function: &FunctionName) {
        self.count("calls");
        self.traffic.last += 1;
        let call = self.traffic.last;
        self.route(call, function);
    }

    /// Gives a call to the live revision of its function.
    fn route(&mut self, call: u128, function: &FunctionName) {
        let live = self.state.functions.get(function).and_then(|function| function.live);
        let revision = live.map(|number| RevisionId { function: function.clone(), number });
        let Some(revision) = revision.filter(|revision| self.traffic.lines.contains_key(revision)) else {
            self.traffic.calls.remove(&call);
            self.count("refused");
            return;
        };
        let entry = Call { function: function.clone(), revision: revision.clone(), instance: None };
        self.traffic.calls.insert(call, entry);
        let deadline = self.now + QUEUE_WAIT;
        self.dispatch(&revision, Input::Arrived { invocation: InvocationId(call), deadline });
    }

    fn dispatch(&mut self, revision: &RevisionId, input: Input) {
        let now = self.now;
        let Some(line) = self.traffic.lines.get_mut(revision) else { return };
        for effect in line.on_input(now, input) {
            self.note(&effect);
            match effect {
                Effect::Run { invocation, instance } => self.run(invocation.0, instance),
                Effect::Refuse { invocation, reason } => self.refuse(invocation.0, &reason),
                Effect::Want { starting } => {
                    let revision = revision.clone();
                    self.feed_supervisor(supervisor::Input::Wanted { revision, starting });
                }
                Effect::Retire { instance } => {
                    if self.traffic.seats.get(&instance).is_some_and(|seat| seat.in_flight > 0) {
                        self.blame(format!("{instance} is retired with calls"));
                    }
                    self.traffic.seats.remove(&instance);
                    self.feed_supervisor(supervisor::Input::Retired { instance });
                }
            }
        }
    }

    fn run(&mut self, call: u128, instance: InstanceId) {
        let Some(entry) = self.traffic.calls.get_mut(&call) else {
            return self.blame(format!("call {call} runs and is not waiting"));
        };
        entry.instance = Some(instance);
        let concurrency = self.state.revision(&entry.revision).map(|revision| revision.spec.concurrency.get());
        let problem = match self.traffic.seats.get_mut(&instance) {
            None => Some("is not there"),
            Some(seat) if seat.is_draining => Some("drains"),
            Some(seat) => {
                seat.in_flight += 1;
                concurrency.is_some_and(|most| seat.in_flight > most).then_some("has too many calls")
            }
        };
        if let Some(problem) = problem {
            self.blame(format!("call {call} goes to {instance}, which {problem}"));
        }
        let wait = self.draw(Span::new(1, 400));
        self.at(self.now + wait, Event::Done(call));
    }

    fn refuse(&mut self, call: u128, reason: &Refusal) {
        let Some(entry) = self.traffic.calls.get(&call) else {
            return self.blame(format!("call {call} is refused and is not waiting"));
        };
        let (function, revision) = (entry.function.clone(), entry.revision.clone());
        let live = self.state.functions.get(&function).and_then(|function| function.live);
        // As the gateway does: a revision that went away is no reason to fail a call.
        if *reason == Refusal::Declined(DeclineReason::Retired) && live.is_some_and(|live| live != revision.number) {
            return self.route(call, &function);
        }
        self.traffic.calls.remove(&call);
        self.count("refused");
    }

    pub(crate) fn call_done(&mut self, call: u128) {
        // Its instance has died meanwhile.
        let Some(entry) = self.traffic.calls.remove(&call) else { return };
        self.count("done");
        self.free(call, &entry);
    }

    fn free(&mut self, call: u128, entry: &Call) {
        if let Some(seat) = entry.instance.and_then(|instance| self.traffic.seats.get_mut(&instance)) {
            seat.in_flight = seat.in_flight.saturating_sub(1);
        }
        self.dispatch(&entry.revision, Input::Finished { invocation: InvocationId(call) });
    }

    pub(crate) fn instance_ready(&mut self, revision: &RevisionId, instance: InstanceId) {
        if !self.traffic.lines.contains_key(revision) {
            self.feed_supervisor(supervisor::Input::Retired { instance });
            return;
        }
        let seat = Seat { revision: revision.clone(), in_flight: 0, is_draining: false };
        self.traffic.seats.insert(instance, seat);
        let scaling = self.state.functions.get(&revision.function).map(|function| function.scaling);
        let purpose = self.state.placements.get(&instance).map_or(Purpose::Demand, |placement| placement.purpose);
        let keep = scaling.and_then(|scaling| idle_limit(&scaling, purpose));
        self.dispatch(revision, Input::Ready { instance, keep });
    }

    pub(crate) fn drain(&mut self, instance: InstanceId) {
        let Some(seat) = self.traffic.seats.get_mut(&instance) else { return };
        seat.is_draining = true;
        let revision = seat.revision.clone();
        self.dispatch(&revision, Input::Drain { instance });
    }

    pub(crate) fn decline(&mut self, revision: &RevisionId, reason: DeclineReason) {
        self.dispatch(revision, Input::Declined { reason });
    }

    /// An instance is gone: the calls it had fail.
    pub(crate) fn instance_gone(&mut self, instance: InstanceId) {
        let Some(seat) = self.traffic.seats.remove(&instance) else { return };
        self.dispatch(&seat.revision, Input::Gone { instance });
        let lost: Vec<u128> = self
            .traffic
            .calls
            .iter()
            .filter(|(_, call)| call.instance == Some(instance))
            .map(|(call, _)| *call)
            .collect();
        for call in lost {
            if let Some(entry) = self.traffic.calls.remove(&call) {
                self.count("failed");
                self.free(call, &entry);
            }
        }
    }

    /// The daemon is gone and with it every connection.
    pub(crate) fn traffic_lost(&mut self) {
        let open = self.traffic.calls.len() as u64;
        *self.counts.entry("failed").or_default() += open;
        let last = self.traffic.last;
        self.traffic = Traffic { last, ..Traffic::default() };
    }

    pub(crate) fn wake_traffic(&mut self) {
        let now = self.now;
        let due: Vec<RevisionId> = self
            .traffic
            .lines
            .iter()
            .filter(|(_, line)| line.wake_at().is_some_and(|at| at <= now))
            .map(|(revision, _)| revision.clone())
            .collect();
        for revision in due {
            self.dispatch(&revision, Input::Woke);
        }
    }
}
