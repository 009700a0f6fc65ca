//! Where a call goes that its own node cannot serve: which peers, and in which order.
//!
//! Peers that have instances of the revision come first, then those whose grant has room for one more; both groups take
//! turns, the first in proportion to their instances. The table is made once per change of the state and then only read:
//! whoever asks needs no leader and no quorum, and may be told of a peer that has changed its mind since. So a peer
//! refuses what it cannot serve, before it begins, and the next in the order is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{NodeId, Resources, RevisionId};
use crate::state::State;

/// What one node knows of the others; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    here: NodeId,
    table: Arc<Table>,
}

/// What is known of every node, whoever knows it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    /// The nodes that take calls, and what each may start by itself.
    nodes: BTreeMap<NodeId, Resources>,
    revisions: BTreeMap<RevisionId, Known>,
    /// Nodes that were members once, whose calls nobody takes.
    removed: BTreeSet<NodeId>,
}

/// What is known of a revision.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    /// What one instance holds of its node.
    needed: Resources,
    /// How many instances each node has that takes calls.
    hosts: BTreeMap<NodeId, u64>,
}

impl Default for Elsewhere {
    /// What a node knows before it has applied anything: nothing, not even itself.
    fn default() -> Self {
        Self { here: NodeId(0), table: Arc::default() }
    }
}

impl Elsewhere {
    /// Returns what node `here` knows of the others.
    pub fn new(state: &State, here: NodeId) -> Self {
        Self { here, table: Arc::new(Table::new(state)) }
    }

    /// Returns what node `here` knows of the others as of the same state.
    pub fn seen_from(&self, here: NodeId) -> Self {
        Self { here, table: Arc::clone(&self.table) }
    }

    fn peers(&self) -> impl Iterator<Item = (&NodeId, &Resources)> {
        self.table.nodes.iter().filter(|(node, _)| **node != self.here)
    }

    /// Returns whether there is any other node at all.
    pub fn has_peers(&self) -> bool {
        self.peers().next().is_some()
    }

    /// Returns whether a node is one of the others that take calls.
    pub fn is_peer(&self, node: NodeId) -> bool {
        node != self.here && self.table.nodes.contains_key(&node)
    }

    /// Returns whether a node was a member once and is none any more: what it passes on is refused.
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.table.removed.contains(&node)
    }

    /// Returns whether any peer has an instance of a revision.
    pub fn has_instances(&self, revision: &RevisionId) -> bool {
        self.table.revisions.get(revision).is_some_and(|known| known.has_host_beside(self.here))
    }

    /// Returns whether a call of a revision that has no instance here had better go to one that a peer has: this node
    /// would start none.
    pub fn is_only_elsewhere(&self, revision: &RevisionId) -> bool {
        let grant_here = self.table.nodes.get(&self.here).copied().unwrap_or_default();
        let known = self.table.revisions.get(revision);
        known.is_some_and(|known| known.has_host_beside(self.here) && !known.needed.fits(&grant_here))
    }

    /// Returns the peers that may serve a call of a revision, the best first; `is_avoided` are left out, and `is_suspected` come last,
    /// because a suspicion may be wrong.
    ///
    /// Equal turns give equal orders, and successive turns spread the first places: over the instances of the revision
    /// evenly, and where there are none over the peers that have room.
    pub fn order(
        &self,
        revision: &RevisionId,
        turn: u64,
        is_avoided: impl Fn(NodeId) -> bool,
        is_suspected: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let Some(known) = self.table.revisions.get(revision) else { return Vec::new() };
        let hosts = known.hosts.iter().filter(|(node, _)| **node != self.here && !is_avoided(**node));
        let hosts: Vec<(NodeId, u64)> = hosts.map(|(node, count)| (*node, *count)).collect();
        let mut order: Vec<NodeId> = hosts.iter().map(|(node, _)| *node).collect();
        let total = hosts.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        if let Some(mut place) = turn.checked_rem(total) {
            let first = hosts.iter().position(|(_, count)| match place.checked_sub(*count) {
                Some(left) => {
                    place = left;
                    false
                }
                None => true,
            });
            order.rotate_left(first.unwrap_or(0));
        }
        let roomy = self
            .peers()
            .filter(|(node, grant)| known.needed.fits(grant) && !known.hosts.contains_key(node) && !is_avoided(**node));
        let mut roomy: Vec<NodeId> = roomy.map(|(node, _)| *node).collect();
        if let Some(first) = turn.checked_rem(roomy.len() as u64) {
            roomy.rotate_left(usize::try_from(first).unwrap_or(0));
        }
        order.append(&mut roomy);
        order.sort_by_cached_key(|node| is_suspected(*node));
        order
    }
}

impl Table {
    fn new(state: &State) -> Self {
        let nodes: BTreeMap<NodeId, Resources> =
            state.nodes.iter().filter(|(_, node)| !node.is_dead).map(|(id, node)| (*id, node.grant)).collect();
        let mut revisions = BTreeMap::new();
        for (name, function) in &state.functions {
            for (number, revision) in function.revisions.iter().filter(|(number, _)| function.wants(**number)) {
                let id = RevisionId { function: name.clone(), number: *number };
                let mut hosts = BTreeMap::new();
                for (_, node) in state.placements.of(&id).filter(|(_, node)| nodes.contains_key(node)) {
                    *hosts.entry(node).or_default() += 1;
                }
                revisions.insert(id, Known { needed: revision.spec.resources, hosts });
            }
        }
        Self { nodes, revisions, removed: state.removed.clone() }
    }
}

impl Known {
    fn has_host_beside(&self, here: NodeId) -> bool {
        self.hosts.keys().any(|node| *node != here)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        Bytes, Concurrency, Constraints, Digest, Epoch, FeatureLevel, InstanceId, MilliCpu, Network, Node, NodeSpec,
        Purpose, RevisionNumber, RevisionSpec, Runtime, Scaling, Timestamp,
    };
    use crate::state::{Function, Placement, Revision, RevisionStatus};

    const HERE: NodeId = NodeId(1);

    fn memory(mebi: u64) -> Resources {
        Resources { memory: Bytes::mebi(mebi), cpu: MilliCpu(0), disk: Bytes(0), pids: 0 }
    }

    fn revision() -> RevisionId {
        RevisionId { function: "checkout".parse().unwrap(), number: RevisionNumber(1) }
    }

    /// Makes a cluster in which an instance needs 100 MiB and each node has this grant and this many instances.
    fn cluster(nodes: &[(u32, u64, u32)]) -> State {
        let spec = RevisionSpec {
            runtime: Runtime::Http,
            image: Digest::from_bytes([0; 32]),
            command: Vec::new(),
            handler: None,
            environment: BTreeMap::new(),
            resources: memory(100),
            timeout: Duration::from_secs(1),
            concurrency: Concurrency::ONE,
            network: Network::None,
            placement: Constraints::default(),
            user: None,
        };
        let created = Revision { spec, created_at: Timestamp::from_millis(0), status: RevisionStatus::Proved };
        let function = Function {
            app: "shop".parse().unwrap(),
            index: 1,
            scaling: Scaling::DEFAULT,
            triggers: Vec::new(),
            revisions: BTreeMap::from([(revision().number, created)]),
            live: Some(revision().number),
            candidate: None,
        };
        let mut state = State::default();
        state.functions.insert(revision().function, function);
        for (id, grant, instances) in nodes {
            let node = NodeId(*id);
            let spec = NodeSpec {
                name: node.to_string(),
                capacity: memory(10_000),
                labels: BTreeMap::new(),
                features: FeatureLevel::NEWEST,
            };
            let mut known = Node::new(spec, Epoch(1));
            known.grant = memory(*grant);
            state.nodes.insert(node, known);
            for _ in 0..*instances {
                state.placed_last += 1;
                let placement = Placement {
                    revision: revision(),
                    node,
                    resources: memory(100),
                    purpose: Purpose::Demand,
                    since: Timestamp::from_millis(0),
                };
                state.placements.insert(InstanceId::placed(state.placed_last), placement);
            }
        }
        state
    }

    fn order(state: &State, turn: u64) -> Vec<u32> {
        Elsewhere::new(state, HERE).order(&revision(), turn, |_| false, |_| false).iter().map(|node| node.0).collect()
    }

    #[test]
    fn peers_with_instances_come_before_peers_with_room() {
        let state = cluster(&[(1, 500, 3), (2, 100, 0), (3, 0, 1), (4, 99, 0)]);
        assert_eq!(order(&state, 0), [3, 2]);
    }

    #[test]
    fn turns_go_round_in_proportion_to_the_instances() {
        let state = cluster(&[(2, 0, 1), (3, 0, 2), (4, 100, 0), (5, 100, 0)]);
        let orders: Vec<Vec<u32>> = (0..3).map(|turn| order(&state, turn)).collect();
        assert_eq!(orders, [[2, 3, 4, 5], [3, 2, 5, 4], [3, 2, 4, 5]]);
    }

    #[test]
    fn a_node_alone_has_nobody_to_ask() {
        let known = Elsewhere::new(&cluster(&[(1, 500, 3)]), HERE);
        assert!(!known.has_peers());
        assert!(!known.is_only_elsewhere(&revision()));
        assert_eq!(known.order(&revision(), 0, |_| false, |_| false), []);
    }

    #[test]
    fn a_call_goes_straight_away_only_from_where_nothing_would_start() {
        let full = Elsewhere::new(&cluster(&[(1, 99, 0), (2, 0, 1)]), HERE);
        assert!(full.is_only_elsewhere(&revision()));
        let roomy = Elsewhere::new(&cluster(&[(1, 100, 0), (2, 0, 1)]), HERE);
        assert!(!roomy.is_only_elsewhere(&revision()));
        let nowhere = Elsewhere::new(&cluster(&[(1, 99, 0), (2, 500, 0)]), HERE);
        assert!(!nowhere.is_only_elsewhere(&revision()));
    }

    proptest! {
        #[test]
        fn every_peer_that_may_serve_is_in_the_order_once_and_nobody_else(
            nodes in prop::collection::btree_map(1..8_u32, (0..200_u64, 0..4_u32), 0..7),
            avoided in prop::collection::btree_set(1..8_u32, 0..3),
            suspected in prop::collection::btree_set(1..8_u32, 0..3),
            turn in any::<u64>(),
        ) {
            let nodes: Vec<(u32, u64, u32)> = nodes.iter().map(|(id, (grant, count))| (*id, *grant, *count)).collect();
            let known = Elsewhere::new(&cluster(&nodes), HERE);
            let is_suspected = |node: NodeId| suspected.contains(&node.0);
            let order = known.order(&revision(), turn, |node| avoided.contains(&node.0), is_suspected);
            let expected: BTreeSet<NodeId> = nodes
                .iter()
                .filter(|(id, grant, count)| *id != HERE.0 && !avoided.contains(id) && (*grant >= 100 || *count > 0))
                .map(|(id, ..)| NodeId(*id))
                .collect();
            prop_assert_eq!(order.len(), expected.len());
            prop_assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), expected);
            let has_instances = |node: &NodeId| nodes.iter().any(|(id, _, count)| *id == node.0 && *count > 0);
            prop_assert!(order.is_sorted_by_key(|node| (is_suspected(*node), !has_instances(node))), "{:?}", order);
            prop_assert_eq!(order, known.order(&revision(), turn, |node| avoided.contains(&node.0), is_suspected));
        }

        #[test]
        fn as_many_turns_as_instances_give_each_peer_its_share(
            counts in prop::collection::vec(0..5_u32, 1..6),
            start in 0..1000_u64,
        ) {
            let nodes: Vec<(u32, u64, u32)> = (2..).zip(&counts).map(|(id, count)| (id, 0, *count)).collect();
            let state = cluster(&nodes);
            let turns = u64::from(counts.iter().sum::<u32>());
            let firsts: Vec<u32> = (start..start + turns).filter_map(|turn| order(&state, turn).first().copied()).collect();
            for (id, _, count) in nodes {
                prop_assert_eq!(firsts.iter().filter(|first| **first == id).count(), count as usize);
            }
        }
    }
}
