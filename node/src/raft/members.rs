//! Who votes: taking nodes in, letting them go, handing leadership over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control_plane::model::NodeId;
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::BasicNode;
use tokio::time::timeout;

use super::{Raft, T};

/// How long a change of the members may take: a new one must have caught up with the log before it votes.
pub const MEMBERS_MAX: Duration = Duration::from_secs(60);

/// How long leadership may take to go to another voter.
pub const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// How many entries a node may lack and still count as having the whole log.
const NEARLY: u64 = 1000;

/// Why the members are what they were.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// Another node leads, or none does.
    #[error("this node does not lead; {}", leader.map_or_else(|| "no node does".to_owned(), |id| format!("node {id} does")))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<u64>,
    },
    /// The change makes no sense, or another one is under way.
    #[error("the members cannot be changed so: {0}")]
    Refused(String),
    /// It is not known whether the change will be made.
    #[error("no answer within {0:?}; the change may still be made")]
    Timeout(Duration),
    /// The node is stopping, or its disk has failed.
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
}

/// Who belongs to the cluster, as far as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who leads, if anybody is known to.
    pub leader: Option<NodeId>,
    /// Who votes, and where peers reach it.
    pub voters: BTreeMap<NodeId, String>,
    /// Who follows the log without a vote, and where peers reach it.
    pub learners: BTreeMap<NodeId, String>,
}

type Written<R> = Result<R, RaftError<T, ClientWriteError<T>>>;

impl Raft {
    /// Takes a node in: as a learner until it has caught up, then as a voter. Done already, it changes nothing.
    pub async fn admit(&self, node: NodeId, address: &str) -> Result<(), MembersError> {
        let id = u64::from(node.0);
        let admitting = async {
            self.0.core.add_learner(id, BasicNode::new(address), true).await?;
            self.0.core.change_membership(ChangeMembers::AddVoterIds(BTreeSet::from([id])), true).await
        };
        finish(admitting).await
    }

    /// Lets a node follow the log without a vote; does not wait until it has caught up.
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), MembersError> {
        finish(self.0.core.add_learner(u64::from(node.0), BasicNode::new(address), false)).await
    }

    /// Notes that a node is reached elsewhere.
    pub async fn set_address(&self, node: NodeId, address: &str) -> Result<(), MembersError> {
        let nodes = BTreeMap::from([(u64::from(node.0), BasicNode::new(address))]);
        finish(self.0.core.change_membership(ChangeMembers::SetNodes(nodes), true)).await
    }

    /// Lets exactly these nodes vote; those that did before go on following the log.
    pub async fn set_voters(&self, nodes: &BTreeSet<NodeId>) -> Result<(), MembersError> {
        let voters: BTreeSet<u64> = nodes.iter().map(|node| u64::from(node.0)).collect();
        finish(self.0.core.change_membership(ChangeMembers::ReplaceAllVoters(voters), true)).await
    }

    /// Returns how far the log of each node reaches that has nearly all of it; while this node leads, else none.
    pub fn caught_up(&self) -> BTreeMap<NodeId, u64> {
        let watched = self.0.core.metrics();
        let core = watched.borrow_watched();
        let last = core.last_log_index.unwrap_or(0);
        let reached = core.replication.iter().flatten();
        reached
            .filter_map(|(id, log)| Some((node(*id)?, log.as_ref()?.index)))
            .filter(|(_, index)| index + NEARLY >= last)
            .collect()
    }

    /// Lets a node go: it neither votes nor follows any more.
    pub async fn dismiss(&self, node: NodeId) -> Result<(), MembersError> {
        let ids = BTreeSet::from([u64::from(node.0)]);
        let is_voter = self.members().voters.contains_key(&node);
        let dismissing = async {
            if is_voter {
                return self.0.core.change_membership(ChangeMembers::RemoveVoters(ids), false).await;
            }
            self.0.core.change_membership(ChangeMembers::RemoveNodes(ids), false).await
        };
        finish(dismissing).await
    }

    /// Hands leadership over to another voter, and returns who leads then: another one, where that was quicker.
    pub async fn hand_over(&self, to: NodeId) -> Result<NodeId, MembersError> {
        let members = self.members();
        if !self.is_leader() {
            return Err(MembersError::NotLeader { leader: members.leader.map(|leader| u64::from(leader.0)) });
        }
        if u64::from(to.0) == *self.0.core.node_id() {
            return Ok(to);
        }
        if !members.voters.contains_key(&to) {
            return Err(MembersError::Refused(format!("{to} does not vote")));
        }
        let asked = self.0.core.trigger().transfer_leader(u64::from(to.0)).await;
        asked.map_err(|error| MembersError::Stopped(error.to_string()))?;
        let mut leads = self.leadership();
        let following = async {
            // The node is stopping if this fails.
            let _ = leads.wait_for(|leads| !leads).await;
            let mut watched = self.0.core.metrics();
            loop {
                let leader = {
                    let core = watched.borrow_watched();
                    core.current_leader.filter(|leader| *leader != core.id)
                };
                if let Some(leader) = leader.and_then(node) {
                    return Ok(leader);
                }
                watched.changed().await.map_err(|error| MembersError::Stopped(error.to_string()))?;
            }
        };
        timeout(HAND_OVER_MAX, following).await.unwrap_or(Err(MembersError::Timeout(HAND_OVER_MAX)))
    }

    /// Returns who belongs to the cluster.
    pub fn members(&self) -> Members {
        let watched = self.0.core.metrics();
        let core = watched.borrow_watched();
        let membership = core.membership_config.membership();
        let voting: BTreeSet<u64> = membership.voter_ids().collect();
        let mut members = Members { leader: core.current_leader.and_then(node), ..Members::default() };
        for (id, known) in membership.nodes() {
            let Some(node) = node(*id) else { continue };
            let side = if voting.contains(id) { &mut members.voters } else { &mut members.learners };
            side.insert(node, known.addr.clone());
        }
        members
    }
}

/// Returns the node of an id of Raft's; all of them were made from one.
fn node(id: u64) -> Option<NodeId> {
    id.try_into().ok().map(NodeId)
}

async fn finish<R>(change: impl Future<Output = Written<R>>) -> Result<(), MembersError> {
    match timeout(MEMBERS_MAX, change).await.map_err(|_| MembersError::Timeout(MEMBERS_MAX))? {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(MembersError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(error)) => Err(MembersError::Refused(error.to_string())),
        Err(RaftError::Fatal(error)) => Err(MembersError::Stopped(error.to_string())),
    }
}
