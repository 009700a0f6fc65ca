//! What learners are spared. They neither vote nor stand for election, so that a leader's silence means nothing to them: no timer
//! runs on them, and of their leader's heartbeats they get one in ten.
//!
//! A cluster has a handful of voters and as many learners as it likes. With twenty heartbeats a second for each, and a hundred
//! ticks of a timer on each, an idle leader of fifty nodes would be busy with that and nothing else.
//!
//! Nothing waits for the heartbeats that are left: entries and what is committed reach learners over the stream of entries, a
//! new leader's first entry tells them who leads, and a heartbeat without an answer counts for no quorum. Those that remain find
//! a learner that has lost a part of its log.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft_rt::AsyncRuntime;

use super::{Core, Disk, Types, View};

/// Of so many heartbeats a learner gets one.
const HEARTBEATS: u32 = 10;

/// Which heartbeats to one peer go out.
pub(super) struct Pace {
    to: u64,
    view: View,
    /// How many were kept back since one went out.
    kept_back: u32,
}

impl Pace {
    pub(super) fn new(to: u64, view: View) -> Self {
        // The first tells who leads.
        Self { to, view, kept_back: HEARTBEATS - 1 }
    }

    /// Returns whether the next heartbeat goes out: each does unless this node has applied that the peer is a learner.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.kept_back + 1 >= HEARTBEATS || !self.view.is_learner(self.to);
        self.kept_back = if is_due { 0 } else { self.kept_back + 1 };
        is_due
    }
}

/// Lets openraft's timer run while this node has a part in elections, or leads; ends when the consensus stops.
pub async fn tick_while_voting<RT: AsyncRuntime, D: Disk>(core: Core<RT, D>) {
    let mut metrics = core.server_metrics();
    loop {
        let is_ticking = takes_part(&metrics.borrow_watched());
        core.runtime_config().tick(is_ticking);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Returns whether a node may stand for election, or leads.
fn takes_part<RT: AsyncRuntime>(metrics: &RaftServerMetrics<Types<RT>>) -> bool {
    // As openraft has it: who is being taken out may still have to bring that to an end.
    let members = [&metrics.membership_config, &metrics.committed_membership_config];
    metrics.state == ServerState::Leader
        || members.iter().any(|members| members.membership().voter_ids().any(|voter| voter == metrics.id))
}
