//! Nodes that nobody runs: they say that they are there, and of whatever is placed on them that it is ready.

use std::collections::BTreeMap;

use control_plane::controller::Beat;
use control_plane::model::{Epoch, InstanceId, NodeId};
use control_plane::state::{Placement, State};
use control_plane::supervisor::ReportEvent;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::BEAT_EVERY;
use crate::raft::Raft;

/// Speaks for all registered nodes to the controller that hears `beats`, until that stops.
pub(super) async fn speak(raft: Raft, beats: mpsc::Sender<Beat>) {
    let mut changes = raft.changes();
    let mut ticks = interval(BEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        let is_due = tokio::select! {
            _ = ticks.tick() => true,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                false
            }
        };
        let spoken = raft.read(|state| {
            let mut spoken = news(state, told);
            told = state.placed_last;
            if is_due {
                let everybody = state.nodes.keys().map(|node| (*node, Vec::new()));
                spoken = everybody.chain(spoken).collect();
            }
            let epoch = |node: &NodeId| state.nodes.get(node).map_or(Epoch(0), |node| node.epoch);
            let beat = |(node, events)| Beat { node, epoch: epoch(&node), events };
            spoken.into_iter().map(beat).collect::<Vec<_>>()
        });
        for beat in spoken {
            if beats.send(beat).await.is_err() {
                return;
            }
        }
    }
}

/// Returns what is placed and came after the `last` placed instance.
pub(super) fn placed_after(state: &State, last: u32) -> impl Iterator<Item = (&InstanceId, &Placement)> {
    let first = InstanceId::placed(last.saturating_add(1));
    state.placements.range(first..=InstanceId::placed(u32::MAX))
}

/// Returns what each node has to tell of what was placed after the `last` placed instance.
fn news(state: &State, last: u32) -> BTreeMap<NodeId, Vec<ReportEvent>> {
    let mut news: BTreeMap<NodeId, Vec<ReportEvent>> = BTreeMap::new();
    for (instance, placement) in placed_after(state, last) {
        let event = ReportEvent::Ready { instance: *instance, revision: placement.revision.clone() };
        news.entry(placement.node).or_default().push(event);
    }
    news
}
