//! Carries out who votes, while this node leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control_plane::model::{NodeId, ZONE_LABEL};
use control_plane::voters::{Change, Known, Voice, Voters};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Cluster;
use crate::raft::{MembersError, Raft};

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Makes the changes that are to be made, one after the other, until `stop`.
pub(super) async fn run(cluster: Cluster, raft: Raft, stop: CancellationToken) {
    let mut voters = Voters::default();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !raft.is_leader() {
            voters = Voters::default();
            cluster.addresses().clear();
            continue;
        }
        let nodes = look(&cluster, &raft);
        let Some(change) = voters.next(cluster.0.clock.now(), cluster.node(), &nodes) else { continue };
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = make(&raft, &change) => changed,
        };
        match changed {
            Ok(()) => tracing::info!(?change, "the members changed"),
            Err(error) => tracing::warn!(?change, %error, "the members did not change yet"),
        }
    }
}

async fn make(raft: &Raft, change: &Change) -> Result<(), MembersError> {
    match change {
        Change::Learner { node, address } => raft.add_learner(*node, address).await,
        Change::Address { node, address } => raft.set_address(*node, address).await,
        Change::Voters(voting) => raft.set_voters(voting).await,
        Change::Forget(node) => raft.dismiss(*node).await,
    }
}

/// Returns every node that is a member, or that the consensus knows.
fn look(cluster: &Cluster, raft: &Raft) -> BTreeMap<NodeId, Voice> {
    let members = raft.members();
    let caught_up = raft.caught_up();
    let said = cluster.addresses().clone();
    let known = |node: NodeId| {
        let (address, is_voter) = match members.voters.get(&node) {
            Some(address) => (address, true),
            None => (members.learners.get(&node)?, false),
        };
        Some(Known { address: address.clone(), is_voter, is_caught_up: caught_up.contains_key(&node) })
    };
    raft.read(|state| {
        let all: BTreeSet<NodeId> = (state.nodes.keys())
            .chain(state.admitted.keys())
            .chain(members.voters.keys())
            .chain(members.learners.keys())
            .copied()
            .collect();
        let voice = |node: NodeId| {
            let registered = state.nodes.get(&node);
            let zone = registered.and_then(|known| known.labels().get(ZONE_LABEL)).cloned().unwrap_or_default();
            Voice {
                address: said.get(&node).cloned().unwrap_or_default(),
                is_member: state.is_member(node),
                known: known(node),
                is_dead: registered.is_some_and(|known| known.is_dead),
                promoted_at: registered.and_then(|known| known.promoted_at),
                zone,
            }
        };
        all.into_iter().map(|node| (node, voice(node))).collect()
    })
}
