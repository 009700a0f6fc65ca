//! What has been proposed and not answered, so that nothing is proposed twice and nothing is stuck.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{NodeId, Purpose, RevisionId, Timestamp};
use crate::placement::Ask;
use crate::state::{Command, Place};

/// How long a proposal counts as under way when nobody answers.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What a proposal is about; two proposals about the same exclude each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Grants,
    Place(RevisionId, Purpose),
    Batch,
    Settle(RevisionId),
    Death(NodeId),
    Unplace,
}

/// Proposals without an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct UnderWay(BTreeMap<Subject, Timestamp>);

impl UnderWay {
    /// Notes a proposal; returns whether it may be made.
    pub(super) fn begin(&mut self, now: Timestamp, command: &Command) -> bool {
        let Some(subject) = subject(command) else {
            return true;
        };
        if self.has(now, &subject) {
            return false;
        }
        self.0.insert(subject, now + ANSWER_MAX);
        true
    }

    /// Notes that a proposal was answered.
    pub(super) fn answered(&mut self, command: &Command) {
        if let Some(subject) = subject(command) {
            self.0.remove(&subject);
        }
    }

    /// Returns whether a batch of placements is under way.
    pub(super) fn has_batch(&self, now: Timestamp) -> bool {
        self.has(now, &Subject::Batch)
    }

    /// Returns whether grants are under way.
    pub(super) fn has_grants(&self, now: Timestamp) -> bool {
        self.has(now, &Subject::Grants)
    }

    /// Returns whether such an ask was refused a moment ago.
    pub(super) fn rests(&self, now: Timestamp, ask: &Ask) -> bool {
        self.has(now, &Subject::Place(ask.revision.clone(), ask.purpose))
    }

    /// Lets placements of this kind rest for as long as a proposal counts as under way.
    pub(super) fn rest(&mut self, now: Timestamp, place: &Place) {
        self.0.insert(Subject::Place(place.revision.clone(), place.purpose), now + ANSWER_MAX);
    }

    fn has(&self, now: Timestamp, subject: &Subject) -> bool {
        self.0.get(subject).is_some_and(|until| now < *until)
    }

    /// Gives up on proposals whose time has passed.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.0.retain(|_, until| now < *until);
    }

    /// Returns when the first proposal is given up.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.0.values().copied().min()
    }
}

/// Returns what a command of the controller is about; other commands exclude nothing.
fn subject(command: &Command) -> Option<Subject> {
    match command {
        Command::Grant { .. } => Some(Subject::Grants),
        Command::Place(place) => Some(Subject::Place(place.revision.clone(), place.purpose)),
        Command::PlaceMany { .. } => Some(Subject::Batch),
        Command::Promote { revision } | Command::FailRevision { revision, .. } => {
            Some(Subject::Settle(revision.clone()))
        }
        Command::DeclareDead { node, .. } => Some(Subject::Death(*node)),
        Command::Unplace { .. } => Some(Subject::Unplace),
        Command::DeployApp { .. }
        | Command::DeleteApp { .. }
        | Command::DeleteFunction { .. }
        | Command::Scale { .. }
        | Command::Restore(_)
        | Command::Label { .. }
        | Command::PreferVoter { .. }
        | Command::Invite { .. }
        | Command::Admit { .. }
        | Command::RemoveNode { .. }
        | Command::Drain { .. }
        | Command::RegisterNode { .. }
        | Command::Adopt { .. }
        | Command::Release { .. } => None,
    }
}
