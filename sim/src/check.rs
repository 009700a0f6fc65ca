//! What must hold at every moment, at rest, and at the end.

use std::time::Duration;

use control_plane::dispatch::DeclineReason;
use control_plane::model::{Ending, FunctionName, InstanceFailure, InstanceId, Purpose, Resources, RevisionId};
use control_plane::state::{Command, Function, Rejection, Reply, RevisionStatus, State};

use crate::journal::Who;
use crate::mark::Mark;
use crate::node::Node;
use crate::sandbox::{Sandbox, Stage};

/// The least that a revision's starts wait after one has failed: the shortest backoff, less its jitter.
const BACKOFF_MIN: Duration = Duration::from_millis(75);

/// The longest that they wait, less its jitter.
const BACKOFF_MAX: Duration = Duration::from_millis(22_500);

/// How long an instance of a candidate is ready before nobody may say that the candidate does not start: it says so every two
/// seconds, and one report of two may get lost.
const PROMOTED_WITHIN: Duration = Duration::from_secs(25);

impl Node {
    /// Every call that came in is done, failed, refused or still open.
    pub(crate) fn check_calls(&mut self) {
        let count = |what| self.journal.counted(what);
        let settled = count("done") + count("failed") + count("refused") + self.traffic.open() as u64;
        if count("calls") != settled {
            self.blame(format!("{} calls came, {settled} are accounted for", count("calls")));
        }
    }

    /// What the node started by itself, and the log has not ratified, fits into what it was granted as far as it knows.
    pub(crate) fn check_grant(&mut self) {
        let Some(desired) = &self.desired else { return };
        let own = self.sandboxes.iter().filter(|(instance, _)| !desired.placements.contains_key(instance));
        let held = own
            .filter_map(|(_, sandbox)| self.state.revision(&sandbox.revision))
            .fold(Resources::default(), |sum, revision| sum.plus(&revision.spec.resources));
        let granted = desired.grant;
        if !held.fits(&granted) {
            self.blame(format!("the node started {held} by itself, it was granted {granted}"));
        }
    }

    /// What the node starts by itself leaves the revision within its function's maximum.
    pub(crate) fn check_maximum(&mut self, instance: InstanceId) {
        let Some(revision) = self.sandboxes.get(&instance).map(|sandbox| sandbox.revision.clone()) else { return };
        let known = self.desired.as_ref().and_then(|desired| desired.revisions.get(&revision));
        let Some(max) = known.map(|known| known.scaling.max()) else { return };
        let kept = self.sandboxes.values().filter(|sandbox| sandbox.revision == revision && sandbox.is_kept()).count();
        if kept > usize::try_from(max).unwrap_or(usize::MAX) {
            self.blame(format!("{revision} has {kept} instances, its maximum is {max}"));
        }
    }

    /// A revision whose start has failed is not started again at once.
    pub(crate) fn check_backoff(&mut self, revision: &RevisionId) {
        let Some((last, failures)) = self.failing.get(revision).copied() else { return };
        let waited = self.now.since(last);
        if waited < BACKOFF_MIN {
            self.blame(format!("{revision} starts again {} ms after a failure", waited.as_millis()));
        }
        if waited >= BACKOFF_MAX && failures > 5 {
            self.mark(Mark::BackoffAtMaximum);
        }
    }

    /// An instance that has calls is not stopped; one that is killed is not stopped but killed.
    pub(crate) fn check_stop(&mut self, instance: InstanceId) {
        if !self.sandboxes.contains_key(&instance) {
            self.blame(format!("{instance} is stopped and does not exist"));
        }
        if self.traffic.seats.get(&instance).is_some_and(|seat| seat.in_flight > 0 && !seat.is_killed) {
            self.blame(format!("{instance} is stopped with calls"));
        }
    }

    /// A log that stands still is no reason to drain what serves.
    pub(crate) fn check_drain(&mut self, revision: &RevisionId, is_placed: bool, instance: InstanceId) {
        if is_placed || instance.origin == 0 || !self.is_wanted(revision) {
            return;
        }
        self.mark(Mark::AdoptionGivenUp);
        if self.is_log_stalled() {
            self.blame(format!("{instance} of {revision} drains because the log stands still"));
        }
    }

    /// Once the agent has looked at the state, nothing stays that runs what nobody wants.
    pub(crate) fn check_dead_revisions(&mut self) {
        let strays: Vec<(InstanceId, RevisionId)> = self
            .sandboxes
            .iter()
            .filter(|(_, sandbox)| sandbox.is_kept())
            .filter(|(_, sandbox)| !self.is_wanted(&sandbox.revision) || !self.is_true_to_its_revision(sandbox))
            .map(|(instance, sandbox)| (*instance, sandbox.revision.clone()))
            .collect();
        for (instance, revision) in strays {
            self.blame(format!("{instance} of {revision} stays, and nobody wants what it runs"));
        }
    }

    fn is_wanted(&self, revision: &RevisionId) -> bool {
        self.state.functions.get(&revision.function).is_some_and(|function| function.wants(revision.number))
    }

    fn is_true_to_its_revision(&self, sandbox: &Sandbox) -> bool {
        self.state.revision(&sandbox.revision).is_none_or(|revision| revision.spec.image == sandbox.image)
    }

    /// Calls go to revisions that are live, as far as the gateway knows.
    pub(crate) fn check_route(&mut self, revision: &RevisionId) {
        let image = self.state.revision(revision).map(|known| known.spec.image);
        if image.is_some_and(|image| !self.proved.contains(&(revision.clone(), image))) {
            self.blame(format!("a call goes to {revision}, which has not proved that it starts"));
        }
    }

    /// Holds what a command did against what it may do, and tells it.
    pub(crate) fn check_command(&mut self, before: &State, command: &Command, result: &Result<Reply, Rejection>) {
        match result {
            Ok(_) => self.check_accepted(before, command),
            Err(rejection) => self.check_rejected(command, rejection),
        }
    }

    fn check_rejected(&mut self, command: &Command, rejection: &Rejection) {
        match command {
            Command::Promote { .. } => {
                self.mark(Mark::PromotionRefused);
                self.tell(Who::Nobody, || format!("the promotion is refused: {rejection}"));
            }
            Command::DeployApp { .. }
            | Command::DeleteApp { .. }
            | Command::DeleteFunction { .. }
            | Command::Restore(_)
            | Command::Scale { .. } => self.tell(Who::Nobody, || format!("the operator is refused: {rejection}")),
            Command::FailRevision { .. }
            | Command::Invite { .. }
            | Command::Admit { .. }
            | Command::RemoveNode { .. }
            | Command::DeclareDead { .. }
            | Command::Drain { .. }
            | Command::Label { .. }
            | Command::PreferVoter { .. }
            | Command::RegisterNode { .. }
            | Command::Grant { .. }
            | Command::Place(_)
            | Command::PlaceMany { .. }
            | Command::Adopt { .. }
            | Command::Release { .. }
            | Command::Unplace { .. } => {}
        }
    }

    fn check_accepted(&mut self, before: &State, command: &Command) {
        match command {
            Command::DeployApp { functions, .. } => {
                for spec in functions {
                    self.check_deployed(before, &spec.name);
                }
            }
            Command::DeleteApp { app } => self.tell(Who::Nobody, || format!("app {app} is deleted")),
            Command::Restore(_) => self.tell(Who::Nobody, || "a backup is restored".to_owned()),
            Command::DeleteFunction { function } => self.tell(Who::Nobody, || format!("{function} is deleted")),
            Command::Promote { revision } => self.check_promoted(before, revision),
            Command::FailRevision { revision, reason } => self.check_failed(before, revision, reason),
            Command::Scale { function, .. } => {
                let Some(scaling) = self.state.functions.get(function).map(|known| known.scaling) else { return };
                self.tell(Who::Nobody, || format!("{function} scales from {} to {}", scaling.min(), scaling.max()));
            }
            Command::RegisterNode { node, .. } => {
                self.tell(Who::Nobody, || format!("{node} registers"));
            }
            Command::Place(_) | Command::PlaceMany { .. } => {}
            // One node, which leads: nobody joins, leaves, or is given up.
            Command::Invite { .. }
            | Command::Admit { .. }
            | Command::RemoveNode { .. }
            | Command::DeclareDead { .. }
            | Command::Drain { .. }
            | Command::Label { .. }
            | Command::PreferVoter { .. } => {}
            Command::Unplace { instances } => {
                let is_minimum = |instance: &InstanceId| {
                    before.placements.get(instance).is_some_and(|placement| {
                        placement.purpose == Purpose::Minimum && self.is_wanted(&placement.revision)
                    })
                };
                if instances.iter().any(is_minimum) {
                    self.mark(Mark::MinimumLowered);
                }
            }
            Command::Grant { grants } => {
                for grant in grants {
                    // Of several, those that were refused left the node as it was.
                    let granted = |state: &State| state.nodes.get(&grant.node).map(|node| node.grant);
                    if granted(before) != granted(&self.state) {
                        self.check_epoch(before, grant.node, grant.epoch);
                    }
                }
            }
            Command::Adopt { node, epoch, instances } => {
                self.check_epoch(before, *node, *epoch);
                for (instance, _) in instances {
                    if !before.placements.contains_key(instance) && self.state.placements.contains_key(instance) {
                        self.tell(Who::Instance(*instance), || "is adopted".to_owned());
                    }
                }
            }
            Command::Release { node, epoch, instances } => {
                self.check_epoch(before, *node, *epoch);
                for (instance, ending) in instances {
                    let purpose = before.placements.get(instance).map(|placement| placement.purpose);
                    if purpose == Some(Purpose::Minimum) && *ending != Ending::Stopped {
                        self.mark(Mark::MinimumReplaced);
                    }
                }
            }
        }
    }

    /// Only the newest epoch of a node is obeyed.
    fn check_epoch(&mut self, before: &State, node: control_plane::model::NodeId, epoch: control_plane::model::Epoch) {
        if before.nodes.get(&node).is_none_or(|known| known.epoch != epoch) {
            self.blame(format!("a command of {node} in epoch {} was accepted", epoch.0));
        }
    }

    fn check_deployed(&mut self, before: &State, name: &FunctionName) {
        let earlier = before.functions.get(name);
        let Some(function) = self.state.functions.get(name) else { return };
        let candidate = function.candidate;
        if let (Some(old), Some(new)) = (earlier.and_then(|earlier| earlier.candidate), candidate)
            && old != new
        {
            self.mark(Mark::CandidateSuperseded);
        }
        if earlier.is_none() && self.sandboxes.values().any(|sandbox| sandbox.revision.function == *name) {
            self.mark(Mark::NameTakenAgain);
        }
        match candidate {
            Some(number) => {
                self.withdrawn.remove(name);
                self.tell(Who::Nobody, || format!("{name}@{number} is a candidate"));
            }
            None => {
                self.withdrawn.insert(name.clone());
            }
        }
    }

    /// A revision takes traffic only after one of its instances was ready.
    fn check_promoted(&mut self, before: &State, id: &RevisionId) {
        let Some(earlier) = before.functions.get(&id.function) else { return };
        let image = self.state.revision(id).map(|revision| revision.spec.image);
        if image.is_some_and(|image| !self.proved.contains(&(id.clone(), image))) {
            self.blame(format!("{id} became live and none of its instances was ready"));
        }
        if earlier.candidate == Some(id.number) {
            self.mark(Mark::CandidatePromoted);
        } else if earlier.live.is_some_and(|live| live > id.number) {
            self.mark(Mark::RolledBack);
        }
        // Whoever promotes what is proved already is an operator, who means it.
        if earlier.revisions.get(&id.number).is_some_and(|revision| revision.status == RevisionStatus::Proved) {
            self.withdrawn.insert(id.function.clone());
        }
        self.tell(Who::Nobody, || format!("{id} is live"));
    }

    /// A revision that starts is not said to fail.
    fn check_failed(&mut self, before: &State, id: &RevisionId, reason: &str) {
        if before.functions.get(&id.function).is_none_or(|function| function.candidate != Some(id.number)) {
            return;
        }
        self.mark(Mark::CandidateFailed);
        if reason.contains("could not be placed") {
            self.mark(Mark::CandidateWithoutRoom);
        }
        self.tell(Who::Nobody, || format!("{id} failed: {reason}"));
        let serves = |sandbox: &&Sandbox| {
            sandbox.revision == *id
                && sandbox.is_kept()
                && sandbox.ready_since.is_some_and(|since| since + PROMOTED_WITHIN <= self.now)
                && sandbox.stage == Stage::Ready
        };
        if self.sandboxes.values().any(|sandbox| serves(&sandbox)) {
            self.blame(format!("{id} failed ({reason}), though an instance of it is ready"));
        }
    }

    /// Notes why instances do not come.
    pub(crate) fn check_declined(&mut self, reason: &DeclineReason) {
        if let DeclineReason::Failing(InstanceFailure::Exited(Some(139)) | InstanceFailure::OutOfMemory) = reason {
            self.mark(Mark::CrashLoop);
        }
    }
}

/// When nobody has called for long enough: everything is settled, nothing is leaked, and what is placed runs.
pub(crate) fn at_rest(node: &mut Node) {
    if node.traffic.open() > 0 {
        node.blame(format!("{} calls are still open", node.traffic.open()));
    }
    let state = std::sync::Arc::clone(&node.state);
    for (instance, sandbox) in node.sandboxes.clone() {
        match state.placements.get(&instance) {
            None => node.blame(format!("{instance} of {} is leaked", sandbox.revision)),
            Some(placement) if placement.purpose != Purpose::Minimum => {
                node.blame(format!("{instance} of {} idles for ever", sandbox.revision));
            }
            Some(_) => {}
        }
    }
    for (instance, placement) in &state.placements {
        if !node.sandboxes.contains_key(instance) {
            node.blame(format!("{instance} of {} is placed and does not run", placement.revision));
        }
    }
    for (name, function) in &state.functions {
        function_at_rest(node, name, function);
    }
    for (id, machine) in &state.nodes {
        let free = machine.spec.capacity.minus(&state.placements.held(*id));
        if machine.grant != free {
            node.blame(format!("{id} is granted {}, {free} is free", machine.grant));
        }
    }
}

fn function_at_rest(node: &mut Node, name: &FunctionName, function: &Function) {
    if let Some(candidate) = function.candidate {
        node.blame(format!("revision {candidate} of {name} is still a candidate"));
    }
    let newest = function.revisions.iter().next_back();
    if let Some((number, revision)) = newest
        && revision.status == RevisionStatus::Pending
        && !node.withdrawn.contains(name)
    {
        node.blame(format!("revision {number} of {name} was deployed and is forgotten"));
    }
    let kept = node.sandboxes.values().filter(|sandbox| sandbox.revision.function == *name).count();
    let min = usize::try_from(function.scaling.min()).unwrap_or(usize::MAX);
    if function.live.is_some() && kept != min {
        node.blame(format!("{name} has {kept} instances, its minimum is {min}"));
    }
}

/// Every function that has a live revision has answered one more call.
pub(crate) fn at_the_end(node: &mut Node) {
    let live = node.state.functions.values().filter(|function| function.live.is_some()).count() as u64;
    let answered = node.journal.counted("done") - node.journal.counted("done before");
    if answered != live {
        node.blame(format!("{answered} of {live} functions answered at the end"));
    }
}
