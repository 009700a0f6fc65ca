//! Brings observed to desired.

use super::{
    ADOPTIONS_MAX, Agreement, BATCH, DRAIN_MAX, Effect, Local, PROPOSE_AGAIN, Phase, REPORT_AGAIN, Report, ReportEvent,
    Role, Supervisor,
};
use crate::dispatch::DeclineReason;
use crate::model::{Ending, InstanceId, Purpose, Resources, RevisionId, Timestamp};
use crate::planted::planted;
use crate::state::Command;

impl Supervisor {
    /// Emits what brings this node from what is to what should be.
    pub(super) fn reconcile(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.desired.is_none() || !self.has_recovered {
            return;
        }
        self.drain_unwanted(now, effects);
        self.start_placed(now, effects);
        self.start_wanted(now, effects);
        self.propose(now, effects);
        self.report_again(now, effects);
    }

    /// Drains what the state does not place any more, what runs a revision nobody needs, and stops what drained too long.
    fn drain_unwanted(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(desired) = &self.desired else { return };
        let mut late = Vec::new();
        for (instance, local) in &mut self.instances {
            let is_dead = !desired.revisions.contains_key(&local.revision) && !planted!(DeadRevisionKept);
            let is_unplaced = match local.agreement {
                Agreement::Placed => !desired.placements.contains_key(instance),
                Agreement::Granted(proposed) => proposed > ADOPTIONS_MAX,
            };
            match local.phase {
                // Nothing was routed to it yet: it can go at once.
                Phase::Starting if is_dead || is_unplaced => late.push(*instance),
                Phase::Ready if is_dead || is_unplaced => {
                    (local.phase, local.since) = (Phase::Draining, now);
                    effects.push(Effect::Drain { instance: *instance, revision: local.revision.clone() });
                }
                Phase::Draining if local.since + DRAIN_MAX <= now => late.push(*instance),
                Phase::Starting | Phase::Ready | Phase::Draining | Phase::Stopping => {}
            }
        }
        for instance in late {
            self.stop(now, instance, effects);
        }
    }

    /// Starts what the leader placed here; what an earlier epoch started by itself and is not here any more is lost.
    fn start_placed(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(desired) = self.desired.take() else { return };
        for (instance, (revision, purpose)) in &desired.placements {
            let is_here = self
                .instances
                .get(instance)
                .is_some_and(|local| !(planted!(DoubleStart) && local.phase == Phase::Stopping));
            if is_here || self.ended.contains_key(instance) {
                continue;
            }
            if instance.origin != 0 {
                self.ended.insert(*instance, Ending::Lost);
                continue;
            }
            // A revision that is not needed any more is about to be unplaced.
            let Some(known) = desired.revisions.get(revision) else { continue };
            if self.backoff.get(revision).is_some_and(|backoff| backoff.holds(now).is_some()) {
                continue;
            }
            self.start(now, *instance, revision, *purpose, known.resources, Agreement::Placed, effects);
        }
        self.desired = Some(desired);
    }

    /// Starts what dispatches want, inside the grant.
    fn start_wanted(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let used = self.used_of_grant();
        if self.first_grant_until.is_some_and(|until| until <= now) {
            self.first_grant_until = None;
        }
        let Some(desired) = self.desired.take() else { return };
        let mut room = desired.grant.minus(&used);
        for (revision, count) in std::mem::take(&mut self.wanted) {
            let mut left = count.saturating_sub(self.starting(&revision));
            let mut declined = None;
            while left > 0 {
                let Some(known) = desired.revisions.get(&revision) else {
                    declined = Some(DeclineReason::Retired);
                    break;
                };
                if let Some((_, failure)) = self.backoff.get(&revision).and_then(|backoff| backoff.holds(now)) {
                    declined = Some(DeclineReason::Failing(failure));
                    break;
                }
                if self.count(&revision) >= known.scaling.max() && !planted!(OverMaximum) {
                    break;
                }
                if !known.resources.fits(&room) {
                    // A node that has just come back is about to be granted something.
                    if self.first_grant_until.is_some() {
                        break;
                    }
                    let reason = format!("an instance needs {}; the node has {room} left", known.resources);
                    declined = Some(DeclineReason::NoCapacity(reason));
                    break;
                }
                if !planted!(StartOverGrant) {
                    room = room.minus(&known.resources);
                }
                left -= 1;
                self.sequence = self.sequence.saturating_add(1);
                let instance = InstanceId::granted(self.node, desired.epoch, self.sequence);
                let granted = Agreement::Granted(0);
                self.start(now, instance, &revision, Purpose::Demand, known.resources, granted, effects);
            }
            match declined {
                Some(reason) if self.starting(&revision) == 0 => effects.push(Effect::Decline { revision, reason }),
                // Something comes; what else is wanted is looked at again with the next input.
                Some(_) | None if count > 0 => {
                    self.wanted.insert(revision, count);
                }
                Some(_) | None => {}
            }
        }
        self.desired = Some(desired);
    }

    /// Proposes adoptions and releases, each in one command.
    fn propose(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(desired) = &self.desired else { return };
        let is_unadopted =
            |local: &Local| matches!(local.agreement, Agreement::Granted(_)) && local.phase == Phase::Ready;
        let has_work = !self.ended.is_empty() || self.instances.values().any(is_unadopted);
        // Nobody takes what a node says that was given up.
        if !has_work || desired.is_dead {
            self.propose_at = None;
            return;
        }
        let at = *self.propose_at.get_or_insert(now + BATCH);
        if now < at {
            return;
        }
        let (node, epoch) = (self.node, desired.epoch);
        let mut adopted = Vec::new();
        for (instance, local) in &mut self.instances {
            if let Agreement::Granted(proposed) = &mut local.agreement
                && local.phase == Phase::Ready
            {
                *proposed = proposed.saturating_add(u8::from(self.has_moved));
                adopted.push((*instance, local.revision.clone()));
            }
        }
        if !adopted.is_empty() {
            effects.push(Effect::Propose(Command::Adopt { node, epoch, instances: adopted }));
        }
        if !self.ended.is_empty() {
            let instances = self.ended.iter().map(|(instance, ending)| (*instance, ending.clone())).collect();
            effects.push(Effect::Propose(Command::Release { node, epoch, instances }));
        }
        self.has_moved = false;
        self.propose_at = Some(now + PROPOSE_AGAIN);
    }

    /// Tells the leader again which instances of candidates are ready: a report may be lost, and another leader knows none.
    fn report_again(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(desired) = &self.desired else { return };
        let is_proving =
            |local: &Local| desired.revisions.get(&local.revision).is_some_and(|known| known.role == Role::Candidate);
        let mut ready = self
            .instances
            .iter()
            .filter(|(_, local)| local.phase == Phase::Ready && is_proving(local))
            .map(|(instance, local)| ReportEvent::Ready { instance: *instance, revision: local.revision.clone() })
            .peekable();
        if ready.peek().is_none() {
            self.report_at = None;
        } else if *self.report_at.get_or_insert(now + REPORT_AGAIN) <= now {
            effects.extend(ready.map(|event| Effect::Report(Report { node: self.node, event })));
            self.report_at = Some(now + REPORT_AGAIN);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is another fact of the instance that begins here")]
    fn start(
        &mut self,
        now: Timestamp,
        instance: InstanceId,
        revision: &RevisionId,
        purpose: Purpose,
        resources: Resources,
        agreement: Agreement,
        effects: &mut Vec<Effect>,
    ) {
        let local = Local { revision: revision.clone(), resources, phase: Phase::Starting, since: now, agreement };
        self.instances.insert(instance, local);
        effects.push(Effect::Start { instance, revision: revision.clone(), purpose });
    }

    /// Returns what instances hold that no placement accounts for.
    fn used_of_grant(&self) -> Resources {
        let placements = self.desired.as_ref().map(|desired| &desired.placements);
        self.instances
            .iter()
            .filter(|(instance, _)| placements.is_none_or(|placements| !placements.contains_key(instance)))
            .fold(Resources::default(), |sum, (_, local)| sum.plus(&local.resources))
    }

    fn starting(&self, revision: &RevisionId) -> u32 {
        let starting = |local: &&Local| local.revision == *revision && local.phase == Phase::Starting;
        u32::try_from(self.instances.values().filter(starting).count()).unwrap_or(u32::MAX)
    }

    fn count(&self, revision: &RevisionId) -> u32 {
        let alive =
            |local: &&Local| local.revision == *revision && matches!(local.phase, Phase::Starting | Phase::Ready);
        u32::try_from(self.instances.values().filter(alive).count()).unwrap_or(u32::MAX)
    }

    /// Returns when placed instances that wait for their revision's backoff may start.
    pub(super) fn waiting_for_backoff(&self) -> impl Iterator<Item = Timestamp> {
        let desired = self.desired.iter();
        let placements = desired.flat_map(|desired| {
            desired.placements.iter().filter(|(_, (revision, _))| desired.revisions.contains_key(revision))
        });
        placements
            .filter(|(instance, _)| !self.instances.contains_key(instance) && !self.ended.contains_key(instance))
            .filter_map(|(_, (revision, _))| self.backoff.get(revision)?.until())
    }
}
