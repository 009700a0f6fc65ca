//! Proof of death: a leader whose process has ended is replaced at once, not after a timeout.
//!
//! When a process dies, its kernel ends its connections within a millisecond and refuses new ones. A follower that saw both knows
//! as much as any timeout could tell it. It then does what a leader that hands over would have asked of it: the survivor with the
//! lowest id stands for election at once, in a way that other voters grant although the old leader's lease is not over
//! (section 4.2.3 of Ongaro's dissertation on Raft). Each of the others waits a turn longer: the one before it may be down too,
//! or its log may be too short to win.
//!
//! A firewall may refuse in the name of a leader that lives. That costs one needless election and nothing else: elections are safe
//! at any time, and reads ask a quorum and do not rely on the lease.

use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::TransferLeaderRequest;
use openraft_rt::AsyncRuntime;

use super::{Core, Disk, Transport, Types, Vote};

/// How much longer each voter waits than the one before it: what an election takes, with room for a slow disk.
const TURN: Duration = Duration::from_millis(30);

/// A leader, and this node's part should it die.
struct Followed {
    vote: Vote,
    address: String,
    /// How many of the survivors come before this node.
    rank: u32,
    /// The survivor with the lowest id.
    first: u64,
}

/// Watches whoever leads, and lets this voter act on the proof of its death; ends when the consensus stops.
///
/// `on_proof` hears whose death is taken for proven.
pub async fn watch_leader<RT, D, T>(core: Core<RT, D>, transport: T, on_proof: impl Fn(u64) + Send)
where
    RT: AsyncRuntime,
    D: Disk,
    T: Transport,
{
    let mut metrics = core.server_metrics();
    loop {
        let Some(followed) = followed(&metrics.borrow_watched()) else {
            if metrics.changed().await.is_err() {
                return;
            }
            continue;
        };
        let leader = followed.vote.leader_id.node_id;
        let died = std::pin::pin!(transport.died(leader, &followed.address));
        let other = std::pin::pin!(replaced(&core, &followed.vote));
        match select(died, other).await {
            Either::Left(((), _)) => {}
            Either::Right((true, _)) => continue,
            Either::Right((false, _)) => return,
        }
        on_proof(leader);
        if followed.rank > 0 {
            if !stand(&core, &followed, followed.first).await {
                return;
            }
            let wait = std::pin::pin!(RT::sleep(TURN * followed.rank));
            match select(wait, std::pin::pin!(replaced(&core, &followed.vote))).await {
                Either::Left(_) => {}
                Either::Right((true, _)) => continue,
                Either::Right((false, _)) => return,
            }
        }
        if !stand(&core, &followed, *core.node_id()).await {
            return;
        }
    }
}

/// Returns whom this voter follows, if it follows anybody.
fn followed<RT: AsyncRuntime>(metrics: &RaftServerMetrics<Types<RT>>) -> Option<Followed> {
    let leader = metrics.vote.leader_id.node_id;
    if !metrics.vote.committed || leader == metrics.id {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let mut survivors: Vec<u64> = membership.voter_ids().filter(|voter| *voter != leader).collect();
    survivors.sort_unstable();
    let rank = survivors.iter().position(|voter| *voter == metrics.id)?;
    Some(Followed {
        vote: metrics.vote,
        address: membership.get_node(&leader)?.addr.clone(),
        rank: u32::try_from(rank).unwrap_or(u32::MAX),
        first: *survivors.first()?,
    })
}

/// Waits until this node votes for another leader, or its members change; returns false when the consensus has stopped.
async fn replaced<RT: AsyncRuntime, D: Disk>(core: &Core<RT, D>, vote: &Vote) -> bool {
    let mut metrics = core.server_metrics();
    let members = *metrics.borrow_watched().membership_config.log_id();
    loop {
        {
            let now = metrics.borrow_watched();
            if now.vote != *vote || *now.membership_config.log_id() != members {
                return true;
            }
        }
        if metrics.changed().await.is_err() {
            return false;
        }
    }
}

/// Lets the dead leader's lease end, and this node stand if it is `to`; returns false when the consensus has stopped.
async fn stand<RT: AsyncRuntime, D: Disk>(core: &Core<RT, D>, followed: &Followed, to: u64) -> bool {
    // What its log lacks, voters will tell it.
    let request = TransferLeaderRequest::<Types<RT>>::new(followed.vote, to, None);
    // A refusal says that it votes for somebody else already.
    core.handle_transfer_leader(request).await.is_ok()
}
