//! What the applied state changed lately, as events: a revision became live, or was given up.

use std::collections::{BTreeMap, BTreeSet};

use control_plane::model::{FunctionName, NodeId, RevisionNumber};
use control_plane::state::{RevisionStatus, State};
use proto::json::{Event, EventKind};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::raft::Raft;
use crate::telemetry::EventLog;

/// What is told of one function.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    live: Option<RevisionNumber>,
    failed: BTreeSet<RevisionNumber>,
}

/// Something that happened to a revision.
type Happened = (EventKind, FunctionName, RevisionNumber, String);

/// Follows the applied state until the node stops.
pub(super) fn follow(events: EventLog, raft: Raft, node: NodeId, clock: Clock, stop: CancellationToken) {
    let mut changes = raft.changes();
    changes.mark_unchanged();
    let mut known = raft.read(|state| compare(&BTreeMap::new(), state).0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
            let (now, happened) = raft.read(|state| compare(&known, state));
            known = now;
            for (kind, function, number, message) in happened {
                events.push(Event {
                    at_ms: clock.now().as_millis(),
                    kind,
                    node: node.to_string(),
                    function: Some(function.to_string()),
                    revision: Some(number.0),
                    instance: None,
                    message,
                });
            }
        }
    });
}

/// Returns what is known of every function by now, and what happened since `before`.
fn compare(before: &BTreeMap<FunctionName, Known>, state: &State) -> (BTreeMap<FunctionName, Known>, Vec<Happened>) {
    let mut known = BTreeMap::new();
    let mut happened = Vec::new();
    let nothing = Known::default();
    for (name, function) in &state.functions {
        let old = before.get(name).unwrap_or(&nothing);
        let mut new = Known { live: function.live, failed: BTreeSet::new() };
        for (number, revision) in &function.revisions {
            if let RevisionStatus::Failed(reason) = &revision.status {
                new.failed.insert(*number);
                if !old.failed.contains(number) {
                    let told = format!("{name}@{number} does not start: {reason}");
                    happened.push((EventKind::RevisionFailed, name.clone(), *number, told));
                }
            }
        }
        if let Some(number) = new.live.filter(|_| new.live != old.live) {
            happened.push((EventKind::Promoted, name.clone(), number, format!("{name}@{number} became live")));
        }
        known.insert(name.clone(), new);
    }
    (known, happened)
}
