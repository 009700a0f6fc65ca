//! Leadership handed over on request, from any node.

use control_plane::model::NodeId;
use control_plane::voters::{Candidate, successor};
use proto::v1;
use tokio::time::timeout;

use super::{ASK_MAX, Cluster};
use crate::raft::{HAND_OVER_MAX, MembersError, Raft};

impl Cluster {
    /// Lets another voter lead, whoever leads now, and returns who that is; any that has the whole log unless `to` names one.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, MembersError> {
        let Some(raft) = self.0.raft.get() else { return Err(MembersError::NotLeader { leader: None }) };
        if raft.is_leader() {
            return self.hand_over(raft, to).await;
        }
        let members = raft.members();
        let Some(leader) = members.leader else { return Err(MembersError::NotLeader { leader: None }) };
        if to == Some(leader) {
            return Ok(leader);
        }
        let not_there = || MembersError::NotLeader { leader: Some(u64::from(leader.0)) };
        let address = self.address_of(leader).ok_or_else(not_there)?;
        let mut peer = self.ask(raft, leader, &address);
        let asked = peer.hand_over(v1::HandOverRequest { to: to.map_or(0, |node| node.0) });
        let answered = timeout(HAND_OVER_MAX + ASK_MAX, asked).await;
        let answered = answered.map_err(|_| MembersError::Timeout(HAND_OVER_MAX + ASK_MAX))?;
        let reply = answered.map_err(|status| MembersError::Refused(status.message().to_owned()))?;
        Ok(NodeId(reply.into_inner().leader))
    }

    /// Lets another voter lead in the place of this node.
    pub async fn hand_over(&self, raft: &Raft, to: Option<NodeId>) -> Result<NodeId, MembersError> {
        if to == Some(self.node()) {
            return Ok(self.node());
        }
        let reached = raft.caught_up();
        let others = raft.members().voters.into_keys().filter(|voter| *voter != self.node());
        let candidates: Vec<Candidate> = raft.read(|state| {
            let candidate = |node: NodeId| {
                let known = state.nodes.get(&node);
                let is_dead = known.is_none_or(|known| known.is_dead);
                let is_draining = known.is_some_and(|known| known.is_draining);
                Some(Candidate { node, reached: *reached.get(&node)?, is_dead, is_draining })
            };
            others.filter_map(candidate).collect()
        });
        let other = to.or_else(|| successor(&candidates));
        let other = other.ok_or_else(|| MembersError::Refused("no other voter has the whole log".to_owned()))?;
        raft.hand_over(other).await
    }
}
