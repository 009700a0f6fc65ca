//! The leader's brain: what should change next?
//!
//! It keeps grants topped up, keeps every function's minimum placed, proves candidates before they take traffic, takes back
//! placements of revisions that nobody needs, empties nodes that are drained, and gives up nodes that fall silent. It remembers only what is under way; everything else it reads off the applied
//! state, so that another leader takes over by reading the same.

mod batch;
mod drain;
mod grant;
mod liveness;
mod minimum;
mod under_way;
mod verify;

use std::collections::{BTreeMap, BTreeSet};

pub use self::liveness::{DEAD_AFTER, SUSPECT_AFTER};

use self::liveness::Liveness;
use self::under_way::UnderWay;
use self::verify::Verification;
use crate::model::{Epoch, InstanceId, NodeId, RevisionId, Timestamp};
use crate::placement::Ask;
use crate::state::{Command, Rejection, Reply, State};
use crate::supervisor::ReportEvent;

/// What a controller is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// This node leads, or the applied state changed while it does.
    Applied(&'a State),
    /// A node says that it is there, and what happened on it since it last did.
    Heard(&'a State, Beat),
    /// A proposal was answered.
    Answered(&'a State, Command, Result<Reply, Rejection>),
    /// This node leads no more: forget what is under way.
    Deposed,
    /// [`Controller::wake_at`] has come.
    Woke(&'a State),
}

/// A node says that it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The node, as it has proved to be.
    pub node: NodeId,
    /// The epoch in which it speaks; zero before it has registered.
    pub epoch: Epoch,
    /// What happened on it since its last beat that was taken.
    pub events: Vec<ReportEvent>,
}

/// What must be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Propose to the log; ends in `Answered`, also when the outcome is unknown after a time (then a later `Applied` shows it).
    Propose(Command),
    /// Tell people that an instance fits nowhere, and why; not told again for a while.
    NotPlaced {
        /// What it runs.
        revision: RevisionId,
        /// What keeps it off every node.
        reason: String,
    },
}

/// The leader's brain.
#[derive(Clone, Debug)]
pub struct Controller {
    /// The node it runs on: whoever leads is alive.
    node: NodeId,
    under_way: UnderWay,
    /// Candidates that are being proved.
    verifications: BTreeMap<RevisionId, Verification>,
    /// Instances that reported ready.
    ready: BTreeSet<InstanceId>,
    /// When each node was last heard of.
    liveness: Liveness,
    /// What fitted nowhere, and the index of the state into which it did not fit.
    no_room: BTreeMap<Ask, u64>,
    /// Until when it is not told again that an instance fits nowhere.
    told_no_room: BTreeMap<Ask, Timestamp>,
    /// When a node's grant is topped up at the latest.
    top_up_at: BTreeMap<NodeId, Timestamp>,
    /// When the last input came.
    seen: Timestamp,
    /// When it last looked at everything, which a beat that says nothing is no reason for.
    looked: Timestamp,
}

impl Controller {
    /// Returns the controller of a node; it knows nothing yet.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            under_way: UnderWay::default(),
            verifications: BTreeMap::new(),
            ready: BTreeSet::new(),
            liveness: Liveness::default(),
            no_room: BTreeMap::new(),
            told_no_room: BTreeMap::new(),
            top_up_at: BTreeMap::new(),
            seen: Timestamp::default(),
            looked: Timestamp::default(),
        }
    }

    /// Takes one input at time `now` and returns what must be done about it.
    pub fn on_input(&mut self, now: Timestamp, input: Input<'_>) -> Vec<Effect> {
        self.liveness.mind_the_gap(self.seen, now);
        self.seen = now;
        let state = match input {
            Input::Applied(state) | Input::Woke(state) => state,
            Input::Heard(state, beat) => {
                self.liveness.heard(now, beat.node, beat.epoch);
                // Most say nothing to act on, and silence is noticed when it is looked for.
                if !self.take_events(state, beat) {
                    return Vec::new();
                }
                state
            }
            Input::Answered(state, command, result) => {
                self.under_way.answered(&command);
                match result {
                    Ok(reply) => self.take_refused(now, &command, &reply),
                    Err(_) => self.take_rejection(now, &command),
                }
                state
            }
            Input::Deposed => {
                *self = Self::new(self.node);
                return Vec::new();
            }
        };
        self.looked = now;
        self.under_way.expire(now);
        let mut effects = Vec::new();
        self.forget_gone(state);
        self.give_up_silent(now, state, &mut effects);
        let mut asks = Vec::new();
        self.verify_candidates(now, state, &mut asks, &mut effects);
        self.keep_minimums(now, state, &mut asks, &mut effects);
        self.place_asked(now, state, asks, &mut effects);
        self.unplace_unneeded(now, state, &mut effects);
        self.empty_draining(now, state, &mut effects);
        self.top_up_grants(now, state, &mut effects);
        effects
    }

    /// Returns the earliest time at which [`Input::Woke`] would have an effect.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let verifications = self.verifications.values().flat_map(Verification::due);
        let times = self.top_up_at.values().copied().chain(verifications).chain(self.under_way.wake_at());
        let times = times.chain(self.liveness.wake_at(self.looked));
        // What was due at the last look has had its effect; what came of that is under way.
        times.filter(|at| *at > self.looked).min()
    }

    /// Takes what a node tells of its own instances, in the epoch in which it is; returns whether anything may follow from it.
    ///
    /// A look at everything for each instance that becomes ready would be most of what a leader does: readiness counts only
    /// where a candidate is to be proved or a node to be emptied.
    fn take_events(&mut self, state: &State, Beat { node, epoch, events }: Beat) -> bool {
        if events.is_empty() || state.nodes.get(&node).is_none_or(|known| known.epoch != epoch) {
            return false;
        }
        let mut matters = state.nodes.values().any(|node| node.is_draining && !node.is_dead);
        for event in events {
            let (ReportEvent::Ready { instance, .. } | ReportEvent::StartFailed { instance, .. }) = &event;
            let is_its_own = match state.placements.get(instance) {
                Some(placement) => placement.node == node,
                None => instance.origin == node.0,
            };
            if is_its_own {
                matters |= self.take_event(state, event);
            }
        }
        matters
    }

    /// Takes one of them; returns whether anything may follow from it wherever nothing is emptied.
    fn take_event(&mut self, state: &State, event: ReportEvent) -> bool {
        match event {
            ReportEvent::Ready { instance, revision } => {
                let is_candidate = state
                    .functions
                    .get(&revision.function)
                    .is_some_and(|function| function.candidate == Some(revision.number));
                if is_candidate {
                    self.verifications.entry(revision).or_default().ready(instance);
                }
                self.ready.insert(instance);
                is_candidate
            }
            ReportEvent::StartFailed { instance, revision, failure } => {
                self.ready.remove(&instance);
                if let Some(verification) = self.verifications.get_mut(&revision) {
                    verification.failed(&failure);
                }
                true
            }
        }
    }

    /// A refused promotion or placement would be refused again at once: it rests until its time is over.
    fn take_rejection(&mut self, now: Timestamp, command: &Command) {
        // A grant is refused to a node that has just come back in another epoch, which the next look knows.
        if !matches!(command, Command::Grant { .. }) {
            self.under_way.begin(now, command);
        }
    }

    /// Forgets what the state does not know any more.
    fn forget_gone(&mut self, state: &State) {
        self.verifications.retain(|revision, _| {
            state.functions.get(&revision.function).is_some_and(|function| function.candidate == Some(revision.number))
        });
        // No id is given twice: what is kept too long costs room and nothing else.
        if self.ready.len() > state.placements.len() {
            self.ready.retain(|instance| state.placements.contains_key(instance));
        }
        self.top_up_at.retain(|node, _| state.nodes.contains_key(node));
    }

    /// Takes back placements of revisions that have no reason to exist.
    fn unplace_unneeded(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        let is_wanted = |revision: &RevisionId| {
            state.functions.get(&revision.function).is_some_and(|function| function.wants(revision.number))
        };
        let unwanted = state.placements.revisions().filter(|revision| !is_wanted(revision));
        let unneeded: Vec<InstanceId> =
            unwanted.flat_map(|revision| state.placements.of(revision)).map(|(instance, _)| instance).collect();
        if !unneeded.is_empty() {
            self.propose(now, Command::Unplace { instances: unneeded }, effects);
        }
    }

    /// Proposes a command unless the same is under way.
    fn propose(&mut self, now: Timestamp, command: Command, effects: &mut Vec<Effect>) {
        if self.under_way.begin(now, &command) {
            effects.push(Effect::Propose(command));
        }
    }
}

#[cfg(test)]
mod tests;
