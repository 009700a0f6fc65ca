//! What the cluster went through lately, as events: revisions that became live or were given up, nodes that came and went, who
//! votes and leads, and what was placed where.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control_plane::model::{FunctionName, InstanceId, NodeId, RevisionId, RevisionNumber, Timestamp};
use control_plane::state::{Placement, RevisionStatus, State};
use proto::json::{Event, EventKind};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::raft::{Members, Raft};
use crate::telemetry::EventLog;

/// How often it is looked at who votes and who leads.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How many placements are told in [`PLACED_WINDOW`]; the others are counted.
const PLACED_TOLD_MAX: u32 = 20;

/// For how long they are counted.
const PLACED_WINDOW: Duration = Duration::from_secs(10);

/// What is known of the applied state.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    functions: BTreeMap<FunctionName, KnownFunction>,
    nodes: BTreeMap<NodeId, KnownNode>,
    /// The last instance that was placed.
    placed_last: u32,
}

/// What is known of one function.
#[derive(Debug, Default, PartialEq, Eq)]
struct KnownFunction {
    live: Option<RevisionNumber>,
    failed: BTreeSet<RevisionNumber>,
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownNode {
    name: String,
    is_dead: bool,
    is_draining: bool,
}

/// Something that happened.
#[derive(Debug, PartialEq, Eq)]
struct Happened {
    kind: EventKind,
    revision: Option<RevisionId>,
    about: Option<NodeId>,
    message: String,
}

impl Happened {
    fn to_revision(kind: EventKind, function: &FunctionName, number: RevisionNumber, message: String) -> Self {
        let revision = RevisionId { function: function.clone(), number };
        Self { kind, revision: Some(revision), about: None, message }
    }

    fn to_node(kind: EventKind, node: NodeId, message: String) -> Self {
        Self { kind, revision: None, about: Some(node), message }
    }
}

/// Follows the applied state, and who votes and leads, until the node stops.
pub(super) fn follow(events: EventLog, raft: Raft, node: NodeId, clock: Clock, stop: CancellationToken) {
    let mut changes = raft.changes();
    changes.mark_unchanged();
    let mut known = raft.read(|state| compare(&Known::default(), state).0);
    let mut members = raft.members();
    let mut placed = Budget::default();
    tokio::spawn(async move {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let happened = tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => {
                    let before = std::mem::replace(&mut members, raft.members());
                    compare_members(&before, &members)
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let (after, happened) = raft.read(|state| compare(&known, state));
                    known = after;
                    happened
                }
            };
            for happened in placed.bound(clock.now(), happened) {
                events.push(Event {
                    at_ms: clock.now().as_millis(),
                    kind: happened.kind,
                    node: node.to_string(),
                    about: happened.about.map(|about| about.to_string()),
                    function: happened.revision.as_ref().map(|revision| revision.function.to_string()),
                    revision: happened.revision.map(|revision| revision.number.0),
                    instance: None,
                    message: happened.message,
                });
            }
        }
    });
}

/// Returns what is known by now, and what happened since `before`.
fn compare(before: &Known, state: &State) -> (Known, Vec<Happened>) {
    let mut happened = Vec::new();
    let functions = compare_functions(&before.functions, state, &mut happened);
    let nodes = compare_nodes(&before.nodes, state, &mut happened);
    compare_placements(before.placed_last, state, &mut happened);
    (Known { functions, nodes, placed_last: state.placed_last }, happened)
}

fn compare_functions(
    before: &BTreeMap<FunctionName, KnownFunction>,
    state: &State,
    happened: &mut Vec<Happened>,
) -> BTreeMap<FunctionName, KnownFunction> {
    let mut known = BTreeMap::new();
    let nothing = KnownFunction::default();
    for (name, function) in &state.functions {
        let old = before.get(name).unwrap_or(&nothing);
        let mut new = KnownFunction { live: function.live, failed: BTreeSet::new() };
        for (number, revision) in &function.revisions {
            if let RevisionStatus::Failed(reason) = &revision.status {
                new.failed.insert(*number);
                if !old.failed.contains(number) {
                    let told = format!("{name}@{number} does not start: {reason}");
                    happened.push(Happened::to_revision(EventKind::RevisionFailed, name, *number, told));
                }
            }
        }
        if let Some(number) = new.live.filter(|_| new.live != old.live) {
            let told = format!("{name}@{number} became live");
            happened.push(Happened::to_revision(EventKind::Promoted, name, number, told));
        }
        known.insert(name.clone(), new);
    }
    known
}

fn compare_nodes(
    before: &BTreeMap<NodeId, KnownNode>,
    state: &State,
    happened: &mut Vec<Happened>,
) -> BTreeMap<NodeId, KnownNode> {
    let nodes = state.nodes.iter().map(|(id, node)| {
        let known = KnownNode { name: node.spec.name.clone(), is_dead: node.is_dead, is_draining: node.is_draining };
        (*id, known)
    });
    let known: BTreeMap<NodeId, KnownNode> = nodes.collect();
    let mut tell = |kind, node: NodeId, message: String| happened.push(Happened::to_node(kind, node, message));
    for (id, node) in &known {
        let Some(old) = before.get(id) else {
            tell(EventKind::NodeJoined, *id, format!("{id} joined: {}", node.name));
            continue;
        };
        match (old.is_dead, node.is_dead) {
            (false, true) => tell(EventKind::NodeDead, *id, format!("{id} fell silent and was declared dead")),
            (true, false) => tell(EventKind::NodeBack, *id, format!("{id} is back")),
            (true, true) | (false, false) => {}
        }
        match (old.is_draining, node.is_draining) {
            (false, true) => tell(EventKind::NodeDrained, *id, format!("{id} is being emptied")),
            (true, false) => tell(EventKind::NodeUndrained, *id, format!("{id} takes work again")),
            (true, true) | (false, false) => {}
        }
    }
    for (id, node) in before.iter().filter(|(id, _)| !known.contains_key(id)) {
        tell(EventKind::NodeRemoved, *id, format!("{id} was removed: {}", node.name));
    }
    known
}

/// Tells what the leader placed since, one event for what one revision got on one node.
fn compare_placements(placed_last: u32, state: &State, happened: &mut Vec<Happened>) {
    let first = InstanceId::placed(placed_last.saturating_add(1));
    let new = state.placements.range(first..=InstanceId::placed(u32::MAX));
    let mut placed: BTreeMap<(&RevisionId, NodeId), u32> = BTreeMap::new();
    for Placement { revision, node, .. } in new.filter(|_| state.placed_last > placed_last).map(|(_, new)| new) {
        *placed.entry((revision, *node)).or_default() += 1;
    }
    for ((revision, node), count) in placed {
        let message = match count {
            1 => format!("an instance of {revision} was placed on {node}"),
            count => format!("{count} instances of {revision} were placed on {node}"),
        };
        let (kind, revision) = (EventKind::Placed, Some(revision.clone()));
        happened.push(Happened { kind, revision, about: Some(node), message });
    }
}

fn compare_members(before: &Members, after: &Members) -> Vec<Happened> {
    let mut happened = Vec::new();
    let added = after.voters.keys().filter(|node| !before.voters.contains_key(node));
    happened.extend(added.map(|node| Happened::to_node(EventKind::VoterAdded, *node, format!("{node} votes"))));
    let gone = before.voters.keys().filter(|node| !after.voters.contains_key(node));
    let told = |node: &NodeId| Happened::to_node(EventKind::VoterRemoved, *node, format!("{node} votes no more"));
    happened.extend(gone.map(told));
    if before.leader != after.leader {
        let (about, message) = match after.leader {
            Some(leader) => (Some(leader), format!("{leader} leads")),
            None => (None, "nobody is known to lead".to_owned()),
        };
        happened.push(Happened { kind: EventKind::LeaderChanged, revision: None, about, message });
    }
    happened
}

/// Bounds how many placements are told: each is a line of the log, and a burst would push those before it out of what is remembered.
#[derive(Debug, Default)]
struct Budget {
    window_ends: Timestamp,
    told: u32,
    left_out: u32,
}

impl Budget {
    /// Returns what is to be told of what happened.
    fn bound(&mut self, now: Timestamp, happened: Vec<Happened>) -> Vec<Happened> {
        let mut told = Vec::new();
        if now >= self.window_ends {
            if self.left_out > 0 {
                let message = format!("{} more placements were not told one by one", self.left_out);
                told.push(Happened { kind: EventKind::Placed, revision: None, about: None, message });
            }
            *self = Self { window_ends: now + PLACED_WINDOW, told: 0, left_out: 0 };
        }
        for one in happened {
            if one.kind == EventKind::Placed {
                if self.told == PLACED_TOLD_MAX {
                    self.left_out += 1;
                    continue;
                }
                self.told += 1;
            }
            told.push(one);
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use control_plane::model::{FeatureLevel, NodeSpec, Resources};
    use control_plane::state::Command;
    use expect_test::expect;

    use super::*;

    fn told(happened: &[Happened]) -> String {
        happened.iter().map(|one| format!("{:?}: {}\n", one.kind, one.message)).collect()
    }

    #[test]
    fn nodes_that_come_and_go_are_told() {
        let mut state = State::default();
        let mut known = Known::default();
        let mut all = String::new();
        let register = |node: u32| {
            let spec = NodeSpec {
                name: format!("host-{node}"),
                capacity: Resources::default(),
                labels: BTreeMap::new(),
                features: FeatureLevel::NEWEST,
            };
            Command::RegisterNode { node: NodeId(node), spec }
        };
        let dead = |state: &State| Command::DeclareDead { node: NodeId(2), epoch: state.nodes[&NodeId(2)].epoch };
        let drain = |is_draining| Command::Drain { node: NodeId(2), is_draining };
        for step in 0..8 {
            let command = match step {
                0 => register(1),
                1 | 4 => register(2),
                2 => drain(true),
                3 => dead(&state),
                5 => drain(false),
                // An agent that starts again says so itself.
                6 => register(2),
                _ => Command::RemoveNode { node: NodeId(2) },
            };
            state.apply(Timestamp::from_millis(step), command).unwrap();
            let (after, happened) = compare(&known, &state);
            known = after;
            all += &told(&happened);
        }
        expect![[r#"
            NodeJoined: node-1 joined: host-1
            NodeJoined: node-2 joined: host-2
            NodeDrained: node-2 is being emptied
            NodeDead: node-2 fell silent and was declared dead
            NodeBack: node-2 is back
            NodeUndrained: node-2 takes work again
            NodeRemoved: node-2 was removed: host-2
        "#]]
        .assert_eq(&all);
    }

    #[test]
    fn who_votes_and_who_leads_is_told() {
        let members = |leader: Option<u32>, voters: &[u32]| Members {
            leader: leader.map(NodeId),
            voters: voters.iter().map(|node| (NodeId(*node), String::new())).collect(),
            learners: BTreeMap::new(),
        };
        let steps = [members(Some(1), &[1]), members(Some(1), &[1, 2, 3]), members(None, &[1, 2, 3])];
        let last = members(Some(2), &[1, 2, 4]);
        let all: String = steps
            .iter()
            .zip(steps.iter().skip(1).chain([&last]))
            .map(|(before, after)| told(&compare_members(before, after)))
            .collect();
        expect![[r#"
            VoterAdded: node-2 votes
            VoterAdded: node-3 votes
            LeaderChanged: nobody is known to lead
            VoterAdded: node-4 votes
            VoterRemoved: node-3 votes no more
            LeaderChanged: node-2 leads
        "#]]
        .assert_eq(&all);
    }

    #[test]
    fn a_burst_of_placements_is_counted_and_nothing_else_is_left_out() {
        let mut budget = Budget::default();
        let placed =
            |_| Happened { kind: EventKind::Placed, revision: None, about: None, message: "placed".to_owned() };
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let mut burst: Vec<Happened> = (0..50).map(placed).collect();
        burst.push(Happened::to_node(EventKind::NodeDead, NodeId(2), "it is dead".to_owned()));
        let first = budget.bound(at(100), burst);
        assert_eq!(first.len(), 21, "twenty of them, and what is no placement");
        assert_eq!(budget.bound(at(105), vec![placed(0)]), []);
        let next = budget.bound(at(111), vec![placed(0)]);
        assert_eq!(told(&next), "Placed: 31 more placements were not told one by one\nPlaced: placed\n");
    }
}
