//! Calls: what callers want, where it goes, and how it ends.

use std::time::Duration;

use control_plane::dispatch::{DeclineReason, Input, Refusal};
use control_plane::model::{FunctionName, InstanceFailure, InstanceId, InvocationId, NodeId, RevisionId, Timestamp};
use control_plane::route::Live;

use crate::hop::{Away, Told};
use crate::journal::{End, Who};
use crate::mark::Mark;
use crate::member::Outgoing;
use crate::node::{Event, Node};
use crate::rng::Span;
use crate::sandbox::{self, Stage};
use crate::traffic::Demand;

/// How often a waiting call follows its function to another revision.
const REROUTES_MAX: u8 = 8;

/// How long a caller waits before it tries again.
const RETRY_AFTER: Span = Span::new(1, 500);

/// What a caller sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errand {
    pub(crate) kind: Kind,
    /// How often the caller has tried already.
    pub(crate) tries: u8,
}

/// What a call does to its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is answered.
    Plain,
    /// It crashes the process, every time.
    Poison,
    /// It eats memory until the kernel kills the process.
    Greedy,
    /// It never ends.
    Hang,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: FunctionName,
    pub(crate) revision: RevisionId,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) errand: Errand,
    since: Timestamp,
    deadline: Timestamp,
    reroutes: u8,
    /// The peer that passed it on, and its number there: it goes no further.
    pub(crate) from: Option<(NodeId, u128)>,
    /// It waited in a line here.
    has_waited: bool,
    /// Who is asked to serve it, once this node does not.
    pub(crate) away: Option<Away>,
}

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    Refused,
}

impl Call {
    /// Returns whether it waits in a line here.
    pub(crate) fn waits(&self) -> bool {
        self.instance.is_none() && self.away.is_none()
    }
}

impl Node {
    pub(crate) fn call_arrived(&mut self, function: &FunctionName, errand: Errand) {
        self.count("calls");
        let id = self.route(function);
        let nowhere = || RevisionId { function: function.clone(), number: control_plane::model::RevisionNumber(0) };
        let call = self.enter(function.clone(), id.clone().unwrap_or_else(nowhere), errand, None);
        let Some(revision) = id else {
            let why = if self.is_up { "no revision of it is live" } else { "nobody listens" };
            return self.end(call, Outcome::Refused, why);
        };
        match self.straight_away(&revision) {
            Some(order) => self.go_away(call, order),
            None => self.give(call, &revision),
        }
        if let Some(entry) = self.traffic.calls.get_mut(&call).filter(|entry| entry.waits()) {
            entry.has_waited = true;
            self.tell(Who::Call(call), || format!("waits for {revision}"));
        }
        if let Some(patience) = self.swarm.patience
            && self.rng.chance(100)
        {
            let wait = self.draw(patience);
            self.after(wait, Event::HangUp(call));
        }
    }

    /// Notes a call that has come, from a caller or from a peer.
    pub(crate) fn enter(
        &mut self,
        function: FunctionName,
        revision: RevisionId,
        errand: Errand,
        from: Option<(NodeId, u128)>,
    ) -> u128 {
        self.traffic.last += 1;
        let (call, now) = (self.traffic.last, self.now);
        let deadline = now + self.swarm.queue_wait;
        let entry = Call {
            function,
            revision,
            instance: None,
            errand,
            since: now,
            deadline,
            reroutes: 0,
            from,
            has_waited: false,
            away: None,
        };
        self.traffic.calls.insert(call, entry);
        call
    }

    /// Returns the revision that takes a function's traffic, as the gateway knows it.
    fn route(&self, function: &FunctionName) -> Option<RevisionId> {
        match &self.traffic.routes.as_ref()?.function(function.as_str())?.live {
            Live::Revision(served) => Some(served.id.clone()),
            Live::Starting | Live::Failed(_) => None,
        }
    }

    /// Gives a call to a revision's line.
    pub(crate) fn give(&mut self, call: u128, revision: &RevisionId) {
        self.check_route(revision);
        let Some(entry) = self.traffic.calls.get_mut(&call) else { return };
        entry.revision = revision.clone();
        let deadline = entry.deadline;
        if self.traffic.lines.get(revision).is_none_or(|line| line.is_retired) {
            return self.call_refused(call, &Refusal::Declined(DeclineReason::Retired));
        }
        self.dispatch(revision, Input::Arrived { invocation: InvocationId(call), deadline });
    }

    /// A call has an instance.
    pub(crate) fn call_runs(&mut self, call: u128, instance: InstanceId) {
        let Some(entry) = self.traffic.calls.get_mut(&call) else {
            return self.blame(format!("call {call} runs and is not waiting"));
        };
        if entry.instance.replace(instance).is_some() {
            self.blame(format!("call {call} runs twice"));
        }
        self.tell(Who::Call(call), || format!("runs on {instance}"));
        self.check_run(call, instance);
        let Some(entry) = self.traffic.calls.get(&call) else { return };
        let spec = self.state.revision(&entry.revision).map(|revision| &revision.spec);
        let timeout = spec.map_or(Duration::from_secs(10), |spec| spec.timeout);
        let nature = self.sandboxes.get(&instance).and_then(|sandbox| self.natures.get(&sandbox.image));
        let span = nature.map_or(Span::exactly(10), |nature| nature.call);
        let wait = match entry.errand.kind {
            Kind::Hang => timeout,
            Kind::Plain | Kind::Poison | Kind::Greedy => self.draw(span).min(timeout),
        };
        self.after(wait, Event::Over(call));
    }

    pub(crate) fn call_refused(&mut self, call: u128, reason: &Refusal) {
        let Some(entry) = self.traffic.calls.get_mut(&call) else {
            return self.blame(format!("call {call} is refused and is not waiting"));
        };
        let revision = entry.revision.clone();
        // As the gateway does: a revision that went away is no reason to fail a call.
        if *reason == Refusal::Declined(DeclineReason::Retired) && entry.reroutes < REROUTES_MAX {
            entry.reroutes += 1;
            let function = entry.function.clone();
            if let Some(other) = self.route(&function).filter(|other| *other != revision) {
                self.mark(Mark::CallRerouted);
                self.tell(Who::Call(call), || format!("goes on to {other}"));
                return self.give(call, &other);
            }
        }
        if let Refusal::Declined(DeclineReason::NoCapacity(_)) = reason
            && !self.is_hop(call)
            && let Some(order) = self.peers_after_decline(&revision)
        {
            return self.go_away(call, order);
        }
        let why = match reason {
            Refusal::QueueFull => {
                self.mark(Mark::QueueFull);
                "429, the queue is full".to_owned()
            }
            Refusal::Deadline => {
                self.mark(Mark::QueueDeadline);
                "503, it waited too long".to_owned()
            }
            Refusal::Declined(DeclineReason::NoCapacity(room)) => {
                self.mark(Mark::GrantExhausted);
                format!("503, {room}")
            }
            Refusal::Declined(DeclineReason::Failing(failure)) => {
                let why = format!("502, {failure}");
                // A peer that turns a call away has not tried it; this one has.
                let outcome = if self.is_hop(call) { Outcome::Failed } else { Outcome::Refused };
                return self.end(call, outcome, &why);
            }
            Refusal::Declined(DeclineReason::Retired) => "404, its function is gone".to_owned(),
        };
        self.end(call, Outcome::Refused, &why);
    }

    /// What a call does to its instance is done.
    pub(crate) fn call_over(&mut self, call: u128) {
        // Its instance has died meanwhile.
        let Some(entry) = self.traffic.calls.get(&call) else { return };
        let (kind, Some(instance), revision) = (entry.errand.kind, entry.instance, entry.revision.clone()) else {
            return;
        };
        match kind {
            Kind::Plain => self.end(call, Outcome::Done, "is answered"),
            Kind::Poison => self.sandbox_died(instance, InstanceFailure::Exited(Some(139))),
            Kind::Greedy => {
                self.mark(Mark::MemoryKill);
                self.sandbox_died(instance, InstanceFailure::OutOfMemory);
            }
            Kind::Hang => {
                self.mark(Mark::TimeoutKill);
                self.tell(Who::Instance(instance), || "is killed: its call took too long".to_owned());
                self.kill(&revision, instance);
                self.end(call, Outcome::Failed, "504, the function took too long");
            }
        }
        // A sandbox that was dying already takes the call with it.
        if kind != Kind::Hang && self.traffic.calls.contains_key(&call) {
            self.end(call, Outcome::Failed, "its instance was on its way out");
        }
    }

    fn is_hop(&self, call: u128) -> bool {
        self.traffic.calls.get(&call).is_some_and(|entry| entry.from.is_some())
    }

    fn kill(&mut self, revision: &RevisionId, instance: InstanceId) {
        let Some(seat) = self.traffic.seats.get_mut(&instance) else { return };
        if std::mem::replace(&mut seat.is_killed, true) {
            return;
        }
        self.dispatch(revision, Input::Gone { instance });
        self.demand(Demand::Kill(instance));
    }

    /// The caller hangs up: a waiting call leaves the line, a running one keeps its slot until the function has ended it.
    pub(crate) fn call_cancelled(&mut self, call: u128) {
        let Some(entry) = self.traffic.calls.get(&call).filter(|call| call.waits()) else { return };
        let (revision, is_hop) = (entry.revision.clone(), entry.from.is_some());
        self.mark(Mark::HungUpWaiting);
        self.tell(Who::Call(call), || "hangs up".to_owned());
        self.traffic.calls.remove(&call);
        if is_hop {
            self.traffic.hops -= 1;
        } else {
            self.count("refused");
        }
        self.dispatch(&revision, Input::Cancelled { invocation: InvocationId(call) });
    }

    /// An instance is gone: the calls it had fail.
    pub(crate) fn calls_lost(&mut self, instance: InstanceId, why: &str) {
        let has_it = |call: &Call| call.instance == Some(instance);
        let lost: Vec<u128> =
            self.traffic.calls.iter().filter(|(_, call)| has_it(call)).map(|(call, _)| *call).collect();
        for call in lost {
            self.end(call, Outcome::Failed, &format!("502, {why}"));
        }
    }

    pub(crate) fn end(&mut self, call: u128, outcome: Outcome, why: &str) {
        let Some(entry) = self.traffic.calls.remove(&call) else { return };
        let took = self.now.since(entry.since).as_millis();
        let fate = match outcome {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Refused => "refused",
        };
        match entry.from {
            None => {
                self.count(fate);
                self.note_end(&entry, outcome);
            }
            Some((to, number)) => {
                self.traffic.hops -= 1;
                let told = match outcome {
                    Outcome::Done => Told::Done,
                    Outcome::Failed => Told::Failed(why.to_owned()),
                    Outcome::Refused => Told::Turned,
                };
                self.send(Outgoing::Tell { to, call: number, told });
            }
        }
        self.tell(Who::Call(call), || match outcome {
            Outcome::Done => format!("is answered after {took} ms"),
            Outcome::Failed => format!("fails after {took} ms: {why}"),
            Outcome::Refused => format!("is refused after {took} ms: {why}"),
        });
        if let Some(instance) = entry.instance {
            if let Some(seat) = self.traffic.seats.get_mut(&instance) {
                seat.in_flight = seat.in_flight.saturating_sub(1);
            }
            self.dispatch(&entry.revision, Input::Finished { invocation: InvocationId(call) });
        }
        if outcome != Outcome::Done && entry.from.is_none() && entry.errand.tries < self.swarm.retries {
            let wait = self.draw(RETRY_AFTER);
            let errand = Errand { tries: entry.errand.tries + 1, ..entry.errand };
            self.after(wait, Event::Arrive(entry.function, errand));
        }
    }

    /// Remembers how a call ended, if somebody wants to know.
    fn note_end(&mut self, entry: &Call, outcome: Outcome) {
        let (at, function, has_waited) = (self.now, entry.function.clone(), entry.has_waited);
        let took = self.now.since(entry.since);
        if let Some(ends) = &mut self.journal.ends {
            ends.push(End { at, function, outcome, took, has_waited });
        }
    }

    /// Holds a call against what an instance may be given.
    fn check_run(&mut self, call: u128, instance: InstanceId) {
        let Some(entry) = self.traffic.calls.get(&call) else { return };
        let waited = self.now.since(entry.since);
        let spec = self.state.revision(&entry.revision).map(|revision| &revision.spec);
        let concurrency = spec.map(|spec| spec.concurrency.get());
        // The revision may have been deleted since the line was made; then there is nothing to compare with.
        let image = spec.map(|spec| spec.image);
        let problem = match (self.traffic.seats.get_mut(&instance), self.sandboxes.get(&instance)) {
            (None, _) | (_, None) => Some("is not there"),
            (Some(seat), Some(sandbox)) => {
                seat.in_flight += 1;
                match (sandbox.told, &sandbox.stage) {
                    _ if seat.is_retired => Some("is retired"),
                    _ if seat.is_killed => Some("is killed"),
                    (sandbox::Told::Drain, _) => Some("drains"),
                    (sandbox::Told::Stop, _) => Some("is being stopped"),
                    (sandbox::Told::Nothing, Stage::Starting) => Some("is not ready"),
                    _ if concurrency.is_some_and(|most| seat.in_flight > most) => Some("has too many calls"),
                    _ if image.is_some_and(|image| image != sandbox.image) => Some("runs other code"),
                    (sandbox::Told::Nothing, Stage::Ready | Stage::Dying(_)) => None,
                }
            }
        };
        if let Some(problem) = problem {
            self.blame(format!("call {call} goes to {instance}, which {problem}"));
        }
        if waited > self.swarm.queue_wait {
            self.blame(format!("call {call} waited for {} ms", waited.as_millis()));
        }
    }
}
