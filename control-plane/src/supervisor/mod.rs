//! One node's brain: what must this node start, stop, try again?
//!
//! Desired (placements and grant, from the applied state) meets observed (what sandboxes do); the difference becomes effects.
//!
//! ```text
//!   placed or wanted ──Start──▶ starting ──Started──▶ ready ──Retire / unplaced──▶ draining ──Drained──▶ stopping ──Ended──▶ gone
//!                                  │Failed: backoff, decline, report                  │Ended: report
//!                                  ▼                                                  ▼
//!                                gone                                               gone
//! ```

mod backoff;
mod desired;
mod reconcile;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::desired::desired;

use self::backoff::Backoff;
use crate::dispatch::DeclineReason;
use crate::model::{
    Ending, Epoch, InstanceFailure, InstanceId, NodeId, Purpose, Resources, RevisionId, Scaling, Timestamp,
};
use crate::planted::planted;
use crate::state::Command;

/// What the applied state wants of one node; made by [`desired`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The epoch of the node.
    pub epoch: Epoch,
    /// Whether the node was given up: it goes on with what runs, and has to register before anything of that is agreed again.
    pub is_dead: bool,
    /// What it may start by itself.
    pub grant: Resources,
    /// What is agreed to run on it.
    pub placements: BTreeMap<InstanceId, (RevisionId, Purpose)>,
    /// Every revision that may run: live ones and candidates.
    pub revisions: BTreeMap<RevisionId, DesiredRevision>,
}

/// What a supervisor needs to know of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRevision {
    /// What one instance holds.
    pub resources: Resources,
    /// How its function scales.
    pub scaling: Scaling,
    /// Whether it takes traffic or is being proved.
    pub role: Role,
}

/// Why a revision may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes its function's traffic.
    Live,
    /// It is being proved: the leader waits for a report.
    Candidate,
}

/// An instance that outlived the agent that started it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The instance.
    pub instance: InstanceId,
    /// What it runs.
    pub revision: RevisionId,
    /// What it holds, also when nobody wants its revision any more.
    pub resources: Resources,
}

/// What a supervisor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The applied state changed.
    Desired(Desired),
    /// The applied state says that this node is not a member of its cluster any more.
    Removed,
    /// A dispatch wants this many instances of a revision to be starting.
    Wanted {
        /// The revision.
        revision: RevisionId,
        /// How many.
        starting: u32,
    },
    /// A dispatch has no more use for an instance.
    Retired {
        /// The instance.
        instance: InstanceId,
    },
    /// The agent came back and found these instances running.
    Recovered {
        /// The instances.
        instances: Vec<Survivor>,
    },
    /// An instance is ready.
    Started {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance could not be started, or ended before it was ready; nothing of it is left.
    StartFailed {
        /// The instance.
        instance: InstanceId,
        /// Why.
        failure: InstanceFailure,
    },
    /// An instance that had started has ended; nothing of it is left.
    Ended {
        /// The instance.
        instance: InstanceId,
        /// How.
        ending: Ending,
    },
    /// [`Supervisor::wake_at`] has come.
    Woke,
}

/// What must be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start an instance; ends in `Started` or `StartFailed`.
    Start {
        /// The instance.
        instance: InstanceId,
        /// What it runs.
        revision: RevisionId,
        /// Why.
        purpose: Purpose,
    },
    /// Route invocations to the instance: it is ready, and nobody has decided otherwise meanwhile.
    Serve {
        /// The instance.
        instance: InstanceId,
        /// What it runs.
        revision: RevisionId,
    },
    /// Route nothing more to the instance; ends in `Retired` when its last invocation is done.
    Drain {
        /// The instance.
        instance: InstanceId,
        /// What it runs.
        revision: RevisionId,
    },
    /// End the instance's process, politely at first; ends in `Ended`.
    Stop {
        /// The instance.
        instance: InstanceId,
    },
    /// Tell the revision's dispatch that what it wanted will not come.
    Decline {
        /// The revision.
        revision: RevisionId,
        /// Why.
        reason: DeclineReason,
    },
    /// Propose to the log; a refusal needs no answer, the next `Desired` shows what holds.
    Propose(Command),
    /// Tell the leader's controller.
    Report(Report),
}

/// What a node tells the leader about its instances: soft state, never in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The node.
    pub node: NodeId,
    /// What happened.
    pub event: ReportEvent,
}

/// What happened on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportEvent {
    /// An instance became ready: its revision starts.
    Ready {
        /// The instance.
        instance: InstanceId,
        /// What it runs.
        revision: RevisionId,
    },
    /// An instance did not become ready.
    StartFailed {
        /// The instance.
        instance: InstanceId,
        /// What it should have run.
        revision: RevisionId,
        /// Why.
        failure: InstanceFailure,
    },
}

/// How long a draining instance may take before it is stopped whatever it does: longer than any invocation may run.
pub const DRAIN_MAX: Duration = Duration::from_secs(960);

/// How long what is to be proposed waits for more of its kind.
const BATCH: Duration = Duration::from_millis(20);

/// How long a proposal has to show in the applied state before it is made again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(2);

/// How long the leader has to act on a ready instance of a candidate before it is told again.
const REPORT_AGAIN: Duration = Duration::from_secs(2);

/// How often an adoption is proposed to a log that moves before the instance is given up.
const ADOPTIONS_MAX: u8 = 5;

/// How long after an epoch began its first grant may take before what is wanted is declined.
const FIRST_GRANT_MAX: Duration = Duration::from_secs(2);

/// One node's brain.
#[derive(Clone, Debug)]
pub struct Supervisor {
    node: NodeId,
    desired: Option<Desired>,
    instances: BTreeMap<InstanceId, Local>,
    /// Instances that ended while the state still places them, until it does no more.
    ended: BTreeMap<InstanceId, Ending>,
    /// How many instances of a revision should be starting.
    wanted: BTreeMap<RevisionId, u32>,
    backoff: BTreeMap<RevisionId, Backoff>,
    /// The last sequence used in this epoch.
    sequence: u32,
    /// Until when what is wanted waits for the first grant of this epoch; nothing once there was one.
    first_grant_until: Option<Timestamp>,
    /// When adoptions and releases are proposed next.
    propose_at: Option<Timestamp>,
    /// Whether the state has changed since the last proposal; while it does not, the log stands still and refuses nobody.
    has_moved: bool,
    /// When the leader is told again which instances of candidates are ready.
    report_at: Option<Timestamp>,
    /// Whether the agent has said what it found running.
    has_recovered: bool,
}

/// An instance on this node.
#[derive(Clone, Debug)]
struct Local {
    revision: RevisionId,
    /// What it holds.
    resources: Resources,
    phase: Phase,
    /// When it entered its phase.
    since: Timestamp,
    agreement: Agreement,
}

/// How far an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Draining,
    Stopping,
}

/// Whether the state knows an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// It was started inside the grant; this often its adoption was proposed.
    Granted(u8),
    /// The state places it, or did.
    Placed,
}

impl Supervisor {
    /// Returns the supervisor of a node that has just started.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            desired: None,
            instances: BTreeMap::new(),
            ended: BTreeMap::new(),
            wanted: BTreeMap::new(),
            backoff: BTreeMap::new(),
            sequence: 0,
            first_grant_until: None,
            propose_at: None,
            has_moved: false,
            report_at: None,
            has_recovered: false,
        }
    }

    /// Takes one input at time `now` and returns what must be done about it.
    pub fn on_input(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Desired(desired) => self.take_desired(now, desired),
            Input::Removed => self.take_removed(),
            Input::Wanted { revision, starting } => {
                self.wanted.insert(revision, starting);
            }
            Input::Retired { instance } => {
                if !(planted!(LeakedInstance) && instance.origin != 0) {
                    self.stop(now, instance, &mut effects);
                }
            }
            Input::Recovered { instances } => {
                self.has_recovered = true;
                for Survivor { instance, revision, resources } in instances {
                    let local = Local {
                        revision,
                        resources: if planted!(SurvivorWeightless) { Resources::default() } else { resources },
                        phase: Phase::Starting,
                        since: now,
                        // What the leader placed is the leader's to keep: it is not proposed for adoption.
                        agreement: if instance.origin == 0 { Agreement::Placed } else { Agreement::Granted(0) },
                    };
                    self.instances.insert(instance, local);
                }
            }
            Input::Started { instance } => self.started(now, instance, &mut effects),
            Input::StartFailed { instance, failure } => self.start_failed(now, instance, failure, &mut effects),
            Input::Ended { instance, ending } => self.ended(now, instance, ending),
            Input::Woke => {}
        }
        self.reconcile(now, &mut effects);
        effects
    }

    /// Returns the earliest time at which [`Input::Woke`] would have an effect.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let drains = self.instances.values().filter(|local| local.phase == Phase::Draining);
        let drained = drains.map(|local| local.since + DRAIN_MAX).min();
        let waits = self.waiting_for_backoff().min();
        let granted = self.first_grant_until.filter(|_| !self.wanted.is_empty());
        [self.propose_at, self.report_at, drained, waits, granted].into_iter().flatten().min()
    }

    /// Returns how many instances run or start here.
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    fn take_desired(&mut self, now: Timestamp, desired: Desired) {
        if self.desired.as_ref().is_some_and(|known| known.epoch > desired.epoch) {
            return;
        }
        if planted!(IdsUsedTwice) || self.desired.as_ref().is_none_or(|known| known.epoch < desired.epoch) {
            self.sequence = 0;
            self.first_grant_until = Some(now + FIRST_GRANT_MAX);
        }
        if desired.grant != Resources::default() {
            self.first_grant_until = None;
        }
        self.ended.retain(|instance, _| desired.placements.contains_key(instance));
        self.wanted.retain(|revision, _| desired.revisions.contains_key(revision));
        self.backoff.retain(|revision, _| desired.revisions.contains_key(revision));
        for (instance, local) in &mut self.instances {
            if desired.placements.contains_key(instance) {
                local.agreement = Agreement::Placed;
            } else if desired.is_dead && instance.origin == self.node.0 {
                // Nobody took it back: it is adopted again once the node has registered.
                local.agreement = Agreement::Granted(0);
            }
            if let Some(revision) = desired.revisions.get(&local.revision) {
                local.resources = revision.resources;
            }
        }
        self.has_moved = true;
        self.desired = Some(desired);
    }

    /// Nothing is to run here any more, and nobody is asked about it.
    fn take_removed(&mut self) {
        let Some(desired) = &mut self.desired else { return };
        (desired.is_dead, desired.grant) = (true, Resources::default());
        desired.placements.clear();
        for local in self.instances.values_mut() {
            local.agreement = Agreement::Placed;
        }
        self.has_moved = true;
    }

    fn started(&mut self, now: Timestamp, instance: InstanceId, effects: &mut Vec<Effect>) {
        let Some(local) = self.instances.get_mut(&instance) else {
            return;
        };
        if local.phase != Phase::Starting {
            return;
        }
        (local.phase, local.since) = (Phase::Ready, now);
        let revision = local.revision.clone();
        self.count_down(&revision);
        if let Some(backoff) = self.backoff.get_mut(&revision) {
            backoff.started();
        }
        effects.push(Effect::Serve { instance, revision: revision.clone() });
        let event = ReportEvent::Ready { instance, revision };
        effects.push(Effect::Report(Report { node: self.node, event }));
    }

    fn start_failed(
        &mut self,
        now: Timestamp,
        instance: InstanceId,
        failure: InstanceFailure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(local) = self.instances.remove(&instance) else {
            return;
        };
        if local.agreement == Agreement::Placed {
            self.ended.insert(instance, Ending::Failed(failure.clone()));
        }
        // What was stopped on purpose failed at nothing.
        if local.phase == Phase::Stopping {
            return;
        }
        let backoff = self.backoff.entry(local.revision.clone()).or_default();
        backoff.failed(now, &local.revision, failure.clone());
        let event = ReportEvent::StartFailed { instance, revision: local.revision.clone(), failure: failure.clone() };
        effects.push(Effect::Report(Report { node: self.node, event }));
        let has_others = self
            .instances
            .values()
            .any(|other| other.revision == local.revision && matches!(other.phase, Phase::Starting | Phase::Ready));
        // Beside others it stays wanted: what is wanted is tried again or declined, and whoever waits comes to know.
        if !has_others {
            self.wanted.remove(&local.revision);
            let reason = DeclineReason::Failing(failure);
            effects.push(Effect::Decline { revision: local.revision, reason });
        }
    }

    fn ended(&mut self, now: Timestamp, instance: InstanceId, ending: Ending) {
        let Some(local) = self.instances.remove(&instance) else {
            return;
        };
        if let Ending::Failed(failure) = &ending
            && local.phase == Phase::Ready
        {
            let backoff = self.backoff.entry(local.revision.clone()).or_default();
            backoff.crashed(now, now.since(local.since), &local.revision, failure.clone());
        }
        if local.agreement == Agreement::Placed {
            self.ended.insert(instance, ending);
        }
    }

    /// Ends an instance's process unless that is under way.
    fn stop(&mut self, now: Timestamp, instance: InstanceId, effects: &mut Vec<Effect>) {
        if let Some(local) = self.instances.get_mut(&instance)
            && local.phase != Phase::Stopping
        {
            (local.phase, local.since) = (Phase::Stopping, now);
            effects.push(Effect::Stop { instance });
        }
    }

    /// One wanted instance has come.
    fn count_down(&mut self, revision: &RevisionId) {
        if let Some(wanted) = self.wanted.get_mut(revision) {
            *wanted = wanted.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
