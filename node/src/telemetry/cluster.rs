//! Metrics of the cluster, as one node sees it: the log, who leads, who is there, what is placed.

use control_plane::model::Node;
use control_plane::state::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::raft::Members;

/// A status that nodes may have, by its name in the API, and who has it.
type Status = (&'static str, fn(&Node) -> bool);

/// What a registered node may be.
const STATUSES: [Status; 3] = [
    ("ready", |node| !node.is_dead && !node.is_draining),
    ("draining", |node| !node.is_dead && node.is_draining),
    ("dead", |node| node.is_dead),
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

/// The metrics of the cluster.
#[derive(Debug, Default)]
pub struct ClusterMetrics {
    term: Gauge,
    leader: Gauge,
    voters: Gauge,
    applied: Gauge,
    snapshot: Gauge,
    nodes: Family<StatusLabel, Gauge>,
    placements: Gauge,
}

impl ClusterMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let r = registry;
        r.register("raft_term", "The election in which the leader was chosen", self.term.clone());
        r.register("raft_is_leader", "Whether this node leads", self.leader.clone());
        r.register("raft_voters", "Nodes that vote", self.voters.clone());
        r.register("raft_applied_index", "The last index of the log that is applied", self.applied.clone());
        r.register("raft_snapshot_index", "The last index that a snapshot covers", self.snapshot.clone());
        r.register("nodes", "Nodes of the cluster", self.nodes.clone());
        r.register("placements", "Instances that the cluster has agreed on", self.placements.clone());
    }

    /// Notes what the consensus says.
    pub fn set_log(&self, log: &crate::raft::Metrics, members: &Members, is_leader: bool) {
        self.term.set(number(log.term));
        self.leader.set(is_leader.into());
        self.voters.set(count(members.voters.len()));
        self.applied.set(number(log.applied));
        self.snapshot.set(number(log.snapshot));
    }

    /// Notes what the state says.
    pub fn set_state(&self, state: &State) {
        for (status, has) in STATUSES {
            let nodes = state.nodes.values().filter(|node| has(node)).count();
            self.nodes.get_or_create(&StatusLabel { status }).set(count(nodes));
        }
        self.nodes.get_or_create(&StatusLabel { status: "joining" }).set(count(state.admitted.len()));
        self.placements.set(count(state.placements.len()));
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
