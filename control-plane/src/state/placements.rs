//! Every instance that is agreed to run, and whose they are: by node and by revision, kept up with every change.

use std::collections::{BTreeMap, BTreeSet};
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
    revisions: BTreeMap<RevisionId, BTreeSet<(Purpose, InstanceId)>>,
}

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
                alike.insert((placement.purpose, instance));
            }
            None => {
                self.revisions.insert(placement.revision.clone(), BTreeSet::from([(placement.purpose, instance)]));
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

    /// Returns the instances of a revision for one purpose, in their order.
    pub fn of(&self, revision: &RevisionId, purpose: Purpose) -> impl Iterator<Item = (InstanceId, &Placement)> {
        let (first, last) = (InstanceId::FIRST, InstanceId::LAST);
        let alike = self.revisions.get(revision).into_iter();
        let alike = alike.flat_map(move |alike| alike.range((purpose, first)..=(purpose, last)));
        alike.filter_map(|(_, instance)| Some((*instance, self.all.get(instance)?)))
    }

    /// Returns how many a revision has, whatever for.
    pub fn count_of(&self, revision: &RevisionId) -> usize {
        self.revisions.get(revision).map_or(0, BTreeSet::len)
    }

    /// Returns every revision that has any, with its instances.
    pub fn revisions(&self) -> impl Iterator<Item = (&RevisionId, impl Iterator<Item = InstanceId>)> {
        self.revisions.iter().map(|(revision, alike)| (revision, alike.iter().map(|(_, instance)| *instance)))
    }
}

/// It reads like the map of them.
impl Deref for Placements {
    type Target = BTreeMap<InstanceId, Placement>;

    fn deref(&self) -> &Self::Target {
        &self.all
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
