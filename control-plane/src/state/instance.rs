//! What the commands about placements do.

use super::{PLACE_MAX, Place, Placement, Rejection, Reply, State};
use crate::model::{Ending, Epoch, InstanceId, NodeId, Purpose, Resources, RevisionId, Timestamp};
use crate::planted::planted;

impl State {
    pub(super) fn place(&mut self, at: Timestamp, place: Place) -> Result<Reply, Rejection> {
        let instance = self.place_one(at, place)?;
        self.index += 1;
        Ok(Reply::Placed { instance })
    }

    pub(super) fn place_many(&mut self, at: Timestamp, places: Vec<Place>) -> Result<Reply, Rejection> {
        if places.len() > PLACE_MAX {
            return Err(Rejection::Limit { what: "instances that one command places".to_owned(), limit: PLACE_MAX });
        }
        let placed: Vec<_> = places.into_iter().map(|place| self.place_one(at, place)).collect();
        self.index += u64::from(placed.iter().any(Result::is_ok));
        Ok(Reply::PlacedMany { placed })
    }

    fn place_one(&mut self, at: Timestamp, place: Place) -> Result<InstanceId, Rejection> {
        let Place { revision, node, purpose } = place;
        let function = self.functions.get(&revision.function);
        let function = function.ok_or_else(|| Rejection::NoFunction(revision.function.clone()))?;
        let known = function.revisions.get(&revision.number).filter(|_| function.wants(revision.number));
        let spec = &known.ok_or_else(|| Rejection::NoRevision(revision.clone()))?.spec;
        let resources = spec.resources;
        let machine = self.nodes.get_mut(&node).ok_or(Rejection::NoNode(node))?;
        // It may have come back with other labels since this was planned.
        if let Some((key, value)) = spec.placement.missing(machine.labels()) {
            return Err(Rejection::NoLabel { node, key: key.to_owned(), value: value.to_owned() });
        }
        let held = self.placements.held(node);
        let room = if machine.is_dead { Resources::default() } else { machine.spec.capacity.minus(&held) };
        if machine.is_dead || !resources.fits(&room) {
            return Err(Rejection::NoRoom { node, needed: resources, room });
        }
        // What is placed comes out of the grant where nothing else is left. The node may have started something inside it
        // that is not ratified yet; then its adoption is refused and it stops that.
        if !planted!(PlacedBesideGrant) {
            machine.grant = machine.grant.smaller(&room.minus(&resources));
        }
        self.placed_last = self.placed_last.saturating_add(1);
        let instance = InstanceId::placed(self.placed_last);
        self.placements.insert(instance, Placement { revision, node, resources, purpose, since: at });
        Ok(instance)
    }

    pub(super) fn adopt(
        &mut self,
        at: Timestamp,
        node: NodeId,
        epoch: Epoch,
        instances: &[(InstanceId, RevisionId)],
    ) -> Result<Reply, Rejection> {
        let mut adopted = Vec::new();
        let mut needed = Resources::default();
        for (instance, revision) in instances {
            // Ids of another origin are another's to hand out: the same one would name two instances.
            if instance.origin != node.0 {
                return Err(Rejection::ForeignInstance { node, instance: *instance });
            }
            match self.placements.get(instance) {
                // Said twice: nothing to do.
                Some(known) if known.node == node && known.revision == *revision => continue,
                Some(_) => return Err(Rejection::InstanceExists(*instance)),
                None if adopted.iter().any(|(listed, _)| listed == instance) => {
                    return Err(Rejection::InstanceExists(*instance));
                }
                None => {}
            }
            let known = self.revision(revision).ok_or_else(|| Rejection::NoRevision(revision.clone()))?;
            let resources = known.spec.resources;
            needed = needed.plus(&resources);
            let placement =
                Placement { revision: revision.clone(), node, resources, purpose: Purpose::Demand, since: at };
            adopted.push((*instance, placement));
        }
        let held = self.placements.held(node);
        let machine = self.node_in(node, epoch)?;
        let room = if machine.is_dead { Resources::default() } else { machine.spec.capacity.minus(&held) };
        if (machine.is_dead && !adopted.is_empty()) || !needed.fits(&room) {
            return Err(Rejection::NoRoom { node, needed, room });
        }
        machine.grant = machine.grant.minus(&needed).smaller(&room.minus(&needed));
        if adopted.is_empty() {
            return Ok(Reply::Done { index: self.index });
        }
        self.placements.extend(adopted);
        Ok(self.done())
    }

    pub(super) fn release(
        &mut self,
        node: NodeId,
        epoch: Epoch,
        instances: &[(InstanceId, Ending)],
    ) -> Result<Reply, Rejection> {
        self.node_in(node, epoch)?;
        let before = self.placements.len();
        for (instance, _) in instances {
            if self.placements.get(instance).is_some_and(|placement| placement.node == node) {
                self.placements.remove(*instance);
            }
        }
        if self.placements.len() == before {
            return Ok(Reply::Done { index: self.index });
        }
        Ok(self.done())
    }

    pub(super) fn unplace(&mut self, instances: &[InstanceId]) -> Result<Reply, Rejection> {
        let before = self.placements.len();
        for instance in instances {
            self.placements.remove(*instance);
        }
        if self.placements.len() == before {
            return Ok(Reply::Done { index: self.index });
        }
        Ok(self.done())
    }
}
