//! Every instance that is agreed to run, and whose they are: by node and by revision, kept up with every change.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Deref;

use super::Placement;
use crate::model::{InstanceId, NodeId, Purpose, Resources, RevisionId};

/// Every instance that is agreed to run, wherever it is.
///
/// It reads like the map of them. What a node holds and what a revision has are looked up: the leader asks after each of its
/// changes, and each node after every change. Both follow from the map, so that equal maps are equal altogether.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    all: BTreeMap<InstanceId, Placement>,
    nodes: BTreeMap<NodeId, Holding>,
    revisions: BTreeMap<RevisionId, Alike>,
}

/// The instances of one revision by what they are for, and where they are.
type Alike = BTreeMap<(Purpose, InstanceId), NodeId>;

/// What one node has of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holding {
    resources: Resources,
    instances: BTreeSet<InstanceId>,
}

impl Placements {
    /// Adds a placement; one of the same id makes room for it.
    pub fn insert(&mut self, instance: InstanceId, placement: Placement) {
        self.remove(instance);
        let holding = self.nodes.entry(placement.node).or_default();
        holding.resources = holding.resources.plus(&placement.resources);
        holding.instances.insert(instance);
        match self.revisions.get_mut(&placement.revision) {
            Some(alike) => {
                alike.insert((placement.purpose, instance), placement.node);
            }
            None => {
                let alike = Alike::from([((placement.purpose, instance), placement.node)]);
                self.revisions.insert(placement.revision.clone(), alike);
            }
        }
        self.all.insert(instance, placement);
    }

    /// Takes a placement out; returns it, if there was one.
    pub fn remove(&mut self, instance: InstanceId) -> Option<Placement> {
        let placement = self.all.remove(&instance)?;
        if let Some(holding) = self.nodes.get_mut(&placement.node) {
            holding.resources = holding.resources.minus(&placement.resources);
            holding.instances.remove(&instance);
            if holding.instances.is_empty() {
                self.nodes.remove(&placement.node);
            }
        }
        if let Some(alike) = self.revisions.get_mut(&placement.revision) {
            alike.remove(&(placement.purpose, instance));
            if alike.is_empty() {
                self.revisions.remove(&placement.revision);
            }
        }
        Some(placement)
    }

    /// Takes out all that a node has.
    pub(super) fn remove_of(&mut self, node: NodeId) {
        let instances = self.nodes.get(&node).map(|holding| holding.instances.clone());
        for instance in instances.into_iter().flatten() {
            self.remove(instance);
        }
    }

    /// Returns the sum of what a node's placements hold.
    pub fn held(&self, node: NodeId) -> Resources {
        self.nodes.get(&node).map(|holding| holding.resources).unwrap_or_default()
    }

    /// Returns what a node has, in the order of instances.
    pub fn on(&self, node: NodeId) -> impl Iterator<Item = (InstanceId, &Placement)> {
        let instances = self.nodes.get(&node).into_iter().flat_map(|holding| &holding.instances);
        instances.filter_map(|instance| Some((*instance, self.all.get(instance)?)))
    }

    /// Returns how many a node has.
    pub fn count_on(&self, node: NodeId) -> usize {
        self.nodes.get(&node).map_or(0, |holding| holding.instances.len())
    }

    /// Returns what a revision has, whatever for, and where.
    pub fn of(&self, revision: &RevisionId) -> impl Iterator<Item = (InstanceId, NodeId)> {
        let alike = self.revisions.get(revision).into_iter().flatten();
        alike.map(|((_, instance), node)| (*instance, *node))
    }

    /// Returns what a revision has for one purpose, in the order of instances, and where.
    pub fn of_purpose(&self, revision: &RevisionId, purpose: Purpose) -> impl Iterator<Item = (InstanceId, NodeId)> {
        let all = (purpose, InstanceId::FIRST)..=(purpose, InstanceId::LAST);
        let alike = self.revisions.get(revision).into_iter().flat_map(move |alike| alike.range(all.clone()));
        alike.map(|((_, instance), node)| (*instance, *node))
    }

    /// Returns how many a revision has, whatever for.
    pub fn count_of(&self, revision: &RevisionId) -> usize {
        self.revisions.get(revision).map_or(0, BTreeMap::len)
    }

    /// Returns every revision that has any.
    pub fn revisions(&self) -> impl Iterator<Item = &RevisionId> {
        self.revisions.keys()
    }
}

/// It reads like the map of them.
impl Deref for Placements {
    type Target = BTreeMap<InstanceId, Placement>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Placements {
    type Item = (&'a InstanceId, &'a Placement);
    type IntoIter = btree_map::Iter<'a, InstanceId, Placement>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

impl FromIterator<(InstanceId, Placement)> for Placements {
    fn from_iter<T: IntoIterator<Item = (InstanceId, Placement)>>(placements: T) -> Self {
        let mut all = Self::default();
        all.extend(placements);
        all
    }
}

impl Extend<(InstanceId, Placement)> for Placements {
    fn extend<T: IntoIterator<Item = (InstanceId, Placement)>>(&mut self, placements: T) {
        for (instance, placement) in placements {
            self.insert(instance, placement);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Bytes, MilliCpu, RevisionNumber, Timestamp};

    fn placement() -> impl Strategy<Value = Placement> {
        let purpose = prop_oneof![Just(Purpose::Demand), Just(Purpose::Verify), Just(Purpose::Minimum)];
        (1..4_u32, 1..3_u32, 0..1000_u32, purpose).prop_map(|(node, number, cpu, purpose)| Placement {
            revision: RevisionId { function: "checkout".parse().unwrap(), number: RevisionNumber(number) },
            node: NodeId(node),
            resources: Resources { cpu: MilliCpu(cpu), memory: Bytes(u64::from(cpu)), disk: Bytes(0), pids: 1 },
            purpose,
            since: Timestamp::default(),
        })
    }

    proptest! {
        #[test]
        fn what_is_looked_up_is_what_the_map_has(changes in prop::collection::vec((0..20_u32, prop::option::of(placement())), 0..60)) {
            let mut placements = Placements::default();
            for (sequence, change) in changes {
                let instance = InstanceId::placed(sequence);
                match change {
                    Some(placement) => placements.insert(instance, placement),
                    None => drop(placements.remove(instance)),
                }
                let anew: Placements = placements.iter().map(|(id, placement)| (*id, placement.clone())).collect();
                prop_assert_eq!(&placements, &anew);
            }
            for node in (1..4).map(NodeId) {
                let mine = || placements.values().filter(|placement| placement.node == node);
                let held = mine().fold(Resources::default(), |sum, placement| sum.plus(&placement.resources));
                prop_assert_eq!(placements.held(node), held);
                prop_assert_eq!(placements.count_on(node), mine().count());
                prop_assert_eq!(placements.on(node).count(), mine().count());
            }
            for number in 1..3 {
                let revision = RevisionId { function: "checkout".parse().unwrap(), number: RevisionNumber(number) };
                let alike = || placements.iter().filter(|(_, placement)| placement.revision == revision);
                let minimum = alike().filter(|(_, placement)| placement.purpose == Purpose::Minimum);
                let minimum: Vec<_> = minimum.map(|(id, placement)| (*id, placement.node)).collect();
                prop_assert_eq!(placements.of_purpose(&revision, Purpose::Minimum).collect::<Vec<_>>(), minimum);
                prop_assert_eq!(placements.count_of(&revision), alike().count());
                prop_assert_eq!(placements.of(&revision).count(), alike().count());
            }
            let instances: Vec<_> = placements.keys().copied().collect();
            for instance in instances {
                placements.remove(instance);
            }
            prop_assert_eq!(placements, Placements::default());
        }
    }
}
