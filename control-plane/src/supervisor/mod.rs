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

use std::collections::BTreeMap;

use crate::dispatch::DeclineReason;
use crate::model::{Ending, Epoch, InstanceFailure, InstanceId, NodeId, Purpose, Resources, RevisionId, Scaling};
use crate::state::Command;

/// What the applied state wants of one node; made by [`desired`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The epoch of the node.
    pub epoch: Epoch,
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
}

/// What a supervisor is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The applied state changed.
    Desired(Desired),
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
        /// The instances and what they run.
        instances: Vec<(InstanceId, RevisionId)>,
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
