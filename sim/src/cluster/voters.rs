//! Carries out who votes, while a node leads, as `node` does it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control_plane::model::{NodeId, ZONE_LABEL};
use control_plane::voters::{Change, Known, Voice, Voters};
use openraft::ChangeMembers;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::impls::BasicNode;
use openraft_rt::AsyncRuntime;

use super::inbox::id;
use crate::raft::runtime::Virtual;
use crate::raft::{Cluster, Core, address};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a change may take.
const CHANGE_MAX: Duration = Duration::from_secs(60);

/// How many entries a node may lack and still count as having the whole log.
const NEARLY: u64 = 1000;

/// Makes the changes that are to be made, one after the other, for as long as the node's process lives.
pub(super) async fn run(replicas: Cluster, node: u64) {
    let mut voters = Voters::default();
    loop {
        Virtual::sleep(LOOK_EVERY).await;
        let Some(core) = replicas.core(node) else { return };
        if core.metrics().borrow_watched().state != ServerState::Leader {
            voters = Voters::default();
            continue;
        }
        let Some(nodes) = look(&replicas, &core) else { return };
        let Some(change) = voters.next(replicas.time(node), id(node), &nodes) else { continue };
        replicas.oracle().tell(|| format!("{node} wants {change:?}"));
        if let Ok(true) = Virtual::timeout(CHANGE_MAX, Box::pin(make(&core, change))).await {
            replicas.oracle().count("changes of members");
        }
    }
}

/// Makes one change; returns whether it is made.
async fn make(core: &Core, change: Change) -> bool {
    match change {
        Change::Learner { node, address } => {
            core.add_learner(u64::from(node.0), BasicNode::new(address), false).await.is_ok()
        }
        Change::Address { node, address } => {
            let nodes = BTreeMap::from([(u64::from(node.0), BasicNode::new(address))]);
            core.change_membership(ChangeMembers::SetNodes(nodes), true).await.is_ok()
        }
        Change::Voters(voting) => {
            let voting: BTreeSet<u64> = voting.iter().map(|node| u64::from(node.0)).collect();
            core.change_membership(ChangeMembers::ReplaceAllVoters(voting), true).await.is_ok()
        }
        Change::Forget(node) => {
            let gone = BTreeSet::from([u64::from(node.0)]);
            core.change_membership(ChangeMembers::RemoveNodes(gone), false).await.is_ok()
        }
    }
}

/// Returns every node that is a member, or that the consensus knows.
fn look(replicas: &Cluster, core: &Core) -> Option<BTreeMap<NodeId, Voice>> {
    let watched = core.metrics();
    let metrics = watched.borrow_watched();
    let members = metrics.membership_config.membership();
    let voting: BTreeSet<u64> = members.voter_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let reached = metrics.replication.iter().flatten();
    let caught_up: BTreeSet<u64> = reached
        .filter(|(_, log)| log.as_ref().is_some_and(|log| log.index + NEARLY >= last))
        .map(|(node, _)| *node)
        .collect();
    let nodes: BTreeSet<u64> = members.nodes().map(|(node, _)| *node).collect();
    replicas.view(*core.node_id())?.read(|state| {
        let known = state.nodes.keys().chain(state.admitted.keys()).map(|node| u64::from(node.0));
        let all: BTreeSet<u64> = known.chain(nodes.iter().copied()).collect();
        let voice = |node: u64| {
            let registered = state.nodes.get(&id(node));
            Voice {
                address: address(node),
                is_member: state.is_member(id(node)),
                known: members.get_node(&node).map(|known| Known {
                    address: known.addr.clone(),
                    is_voter: voting.contains(&node),
                    is_caught_up: caught_up.contains(&node),
                }),
                is_dead: registered.is_some_and(|known| known.is_dead),
                promoted_at: registered.and_then(|known| known.promoted_at),
                zone: registered.and_then(|known| known.labels().get(ZONE_LABEL)).cloned().unwrap_or_default(),
            }
        };
        Some(all.into_iter().map(|node| (id(node), voice(node))).collect())
    })
}
