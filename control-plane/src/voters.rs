//! Who votes: the leader takes nodes in as learners, lets an odd number of them vote, and replaces voters that are dead.
//!
//! The number follows Raft's arithmetic: an even voter adds a way to fail and no failure that is survived. So there are 1, 3 or
//! 5 voters, spread over zones, and a cluster of two nodes has one.
//!
//! An operator may want a node to vote: it takes the place of one that nobody wants, or that was wanted earlier. That is a
//! preference and no order: the number stays what it is, the leader keeps its vote, and whoever is dead is replaced.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::{NodeId, Timestamp};

/// How many nodes a cluster needs for five voters; below that it has three at most.
pub const FIVE_FROM: usize = 7;

/// How long a voter may be dead before another node votes in its place.
pub const REPLACE_AFTER: Duration = Duration::from_secs(60);

/// One node, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Where it says that it is reached.
    pub address: String,
    /// Whether it is a member of the cluster: whoever is not must neither vote nor follow the log.
    pub is_member: bool,
    /// What the consensus knows of it, where it is known there.
    pub known: Option<Known>,
    /// Whether it was declared dead.
    pub is_dead: bool,
    /// When an operator wanted it to vote, as an index of the state: the higher, the later.
    pub promoted_at: Option<u64>,
    /// Where it stands, as its label `zone` says; empty where it has none.
    pub zone: String,
}

/// What the consensus knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is reached, by the log.
    pub address: String,
    /// Whether it votes.
    pub is_voter: bool,
    /// Whether it has all of the log, or nearly.
    pub is_caught_up: bool,
}

/// One change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Let a node follow the log.
    Learner {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// Note that a node is reached elsewhere.
    Address {
        /// The node.
        node: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// Let exactly these vote.
    Voters(BTreeSet<NodeId>),
    /// Let a node that does not vote follow the log no more.
    Forget(NodeId),
}

/// Decides who votes; it runs on the node that leads.
#[derive(Clone, Debug, Default)]
pub struct Voters {
    /// Since when voters are dead.
    dead_since: BTreeMap<NodeId, Timestamp>,
}

impl Voters {
    /// Returns the next change, if there is one to make; the others come once it is made. `leader` always keeps its vote.
    pub fn next(&mut self, now: Timestamp, leader: NodeId, nodes: &BTreeMap<NodeId, Voice>) -> Option<Change> {
        self.dead_since.retain(|node, _| nodes.get(node).is_some_and(|voice| voice.is_dead));
        for (node, _) in nodes.iter().filter(|(_, voice)| voice.is_dead) {
            self.dead_since.entry(*node).or_insert(now);
        }
        strangers(nodes).or_else(|| self.votes(now, leader, nodes)).or_else(|| leavers(nodes))
    }

    fn votes(&self, now: Timestamp, leader: NodeId, nodes: &BTreeMap<NodeId, Voice>) -> Option<Change> {
        let voting: BTreeSet<NodeId> = nodes.iter().filter(|(_, voice)| votes(voice)).map(|(node, _)| *node).collect();
        let stays = |node: &NodeId| nodes.get(node).is_some_and(|voice| voice.is_member);
        let is_lost = |node: &NodeId| {
            *node != leader && self.dead_since.get(node).is_some_and(|since| *since + REPLACE_AFTER <= now)
        };
        let mut kept: BTreeSet<NodeId> = voting.iter().copied().filter(|node| stays(node) && !is_lost(node)).collect();
        let mut lost: Vec<NodeId> = voting.iter().copied().filter(|node| stays(node) && is_lost(node)).collect();
        let mut spare: BTreeSet<NodeId> = nodes
            .iter()
            .filter(|(node, voice)| !voting.contains(node) && can_vote(voice))
            .map(|(node, _)| *node)
            .collect();

        let members = nodes.values().filter(|voice| voice.is_member).count();
        let most = if members >= FIVE_FROM { 5 } else { 3 };
        let reachable = odd(kept.len() + spare.len() + lost.len()).min(most);
        // Fewer vote only where nodes have left, never because some are dead: that would lower what a majority is.
        while kept.len() + lost.len() > reachable.max(1) {
            // Whoever is lost goes first.
            if lost.pop().is_none() {
                kept.remove(&first_to_go(leader, &kept, nodes)?);
            }
        }
        while kept.len() < reachable && !spare.is_empty() {
            let next = wanted(&spare, nodes)
                .or_else(|| newcomer(&zones(&kept, nodes), &spare, nodes))
                .or_else(|| spare.first().copied())?;
            spare.remove(&next);
            kept.insert(next);
        }
        // Whoever is wanted takes the place of one that is wanted less.
        while let Some(next) = wanted(&spare, nodes)
            && let Some(last) = first_to_go(leader, &kept, nodes)
            && promoted_at(&last, nodes) < promoted_at(&next, nodes)
        {
            spare.remove(&next);
            kept.remove(&last);
            kept.insert(next);
        }
        // Zones may have come since: whoever shares one makes room for a node in a zone where nobody votes.
        let counts = zones(&kept, nodes);
        let is_free = |node: &&NodeId| **node != leader && promoted_at(node, nodes).is_none();
        let doubled = kept.iter().filter(|node| is_free(node) && sharing(&counts, node, nodes) > 1);
        if let Some(doubled) = doubled.max().copied()
            && let Some(next) = newcomer(&counts, &spare, nodes)
        {
            spare.remove(&next);
            kept.remove(&doubled);
            kept.insert(next);
        }
        // A dead voter that nobody can stand in for goes on counting.
        while kept.len() < reachable
            && let Some(node) = lost.pop()
        {
            kept.insert(node);
        }
        kept.insert(leader);
        (kept != voting).then_some(Change::Voters(kept))
    }
}

/// A voter that may lead next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which node.
    pub node: NodeId,
    /// How far its log reaches.
    pub reached: u64,
    /// Whether it was declared dead.
    pub is_dead: bool,
    /// Whether it is on its way out.
    pub is_draining: bool,
}

/// Returns who is to lead next: of those that live, one that stays, then the one whose log reaches furthest.
pub fn successor(candidates: &[Candidate]) -> Option<NodeId> {
    let living = candidates.iter().filter(|candidate| !candidate.is_dead);
    let best = living.max_by_key(|candidate| (!candidate.is_draining, candidate.reached, Reverse(candidate.node)));
    best.map(|candidate| candidate.node)
}

fn votes(voice: &Voice) -> bool {
    voice.known.as_ref().is_some_and(|known| known.is_voter)
}

/// Counts the voters of each zone.
fn zones<'a>(voting: &BTreeSet<NodeId>, nodes: &'a BTreeMap<NodeId, Voice>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for voice in voting.iter().filter_map(|node| nodes.get(node)) {
        *counts.entry(voice.zone.as_str()).or_default() += 1;
    }
    counts
}

/// Returns how many vote in the zone of a node.
fn sharing(counts: &BTreeMap<&str, usize>, node: &NodeId, nodes: &BTreeMap<NodeId, Voice>) -> usize {
    nodes.get(node).and_then(|voice| counts.get(voice.zone.as_str()).copied()).unwrap_or(0)
}

fn promoted_at(node: &NodeId, nodes: &BTreeMap<NodeId, Voice>) -> Option<u64> {
    nodes.get(node).and_then(|voice| voice.promoted_at)
}

/// Returns the node that was wanted to vote last.
fn wanted(spare: &BTreeSet<NodeId>, nodes: &BTreeMap<NodeId, Voice>) -> Option<NodeId> {
    let wanted = spare.iter().filter_map(|node| Some((promoted_at(node, nodes)?, *node)));
    wanted.max().map(|(_, node)| node)
}

/// Returns who gives its vote up first: whoever is wanted least, then whoever is dead, then whoever shares its zone
/// with most, then the highest id.
fn first_to_go(leader: NodeId, kept: &BTreeSet<NodeId>, nodes: &BTreeMap<NodeId, Voice>) -> Option<NodeId> {
    let zones = zones(kept, nodes);
    let others = kept.iter().copied().filter(|node| *node != leader);
    let is_dead = |node: &NodeId| nodes.get(node).is_some_and(|voice| voice.is_dead);
    others.max_by_key(|node| (Reverse(promoted_at(node, nodes)), is_dead(node), sharing(&zones, node, nodes), *node))
}

/// Returns the first node that may vote and stands in a zone where nobody does.
fn newcomer(
    counts: &BTreeMap<&str, usize>,
    spare: &BTreeSet<NodeId>,
    nodes: &BTreeMap<NodeId, Voice>,
) -> Option<NodeId> {
    spare.iter().find(|node| sharing(counts, node, nodes) == 0).copied()
}

fn can_vote(voice: &Voice) -> bool {
    voice.is_member && !voice.is_dead && voice.known.as_ref().is_some_and(|known| known.is_caught_up)
}

fn odd(number: usize) -> usize {
    number.saturating_sub(usize::from(number.is_multiple_of(2)))
}

/// Returns the first node that the consensus does not know, or not by this address.
fn strangers(nodes: &BTreeMap<NodeId, Voice>) -> Option<Change> {
    let said = nodes.iter().filter(|(_, voice)| voice.is_member && !voice.address.is_empty());
    said.into_iter().find_map(|(node, voice)| match &voice.known {
        None => Some(Change::Learner { node: *node, address: voice.address.clone() }),
        Some(known) if known.address != voice.address => {
            Some(Change::Address { node: *node, address: voice.address.clone() })
        }
        Some(_) => None,
    })
}

/// Returns the first node that follows the log and is no member any more.
fn leavers(nodes: &BTreeMap<NodeId, Voice>) -> Option<Change> {
    let left = nodes.iter().find(|(_, voice)| !voice.is_member && voice.known.is_some() && !votes(voice));
    left.map(|(node, _)| Change::Forget(*node))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEADER: NodeId = NodeId(1);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn voice(node: u32) -> Voice {
        let address = format!("10.0.0.{node}:8100");
        let known = Some(Known { address: address.clone(), is_voter: false, is_caught_up: true });
        Voice { address, is_member: true, known, is_dead: false, promoted_at: None, zone: String::new() }
    }

    fn cluster(nodes: u32) -> BTreeMap<NodeId, Voice> {
        let mut nodes: BTreeMap<NodeId, Voice> = (1..=nodes).map(|node| (NodeId(node), voice(node))).collect();
        if let Some(known) = nodes.get_mut(&LEADER).and_then(|leader| leader.known.as_mut()) {
            known.is_voter = true;
        }
        nodes
    }

    fn voting(nodes: &BTreeMap<NodeId, Voice>) -> Vec<u32> {
        nodes.iter().filter(|(_, voice)| votes(voice)).map(|(node, _)| node.0).collect()
    }

    /// Makes changes until there are none to make.
    fn settle(voters: &mut Voters, now: Timestamp, nodes: &mut BTreeMap<NodeId, Voice>) {
        for _ in 0..100 {
            let Some(change) = voters.next(now, LEADER, nodes) else { return };
            match change {
                Change::Learner { node, address } => {
                    let known = Known { address, is_voter: false, is_caught_up: true };
                    nodes.get_mut(&node).unwrap().known = Some(known);
                }
                Change::Address { node, address } => {
                    nodes.get_mut(&node).unwrap().known.as_mut().unwrap().address = address;
                }
                Change::Voters(voting) => {
                    for (node, voice) in nodes.iter_mut() {
                        if let Some(known) = &mut voice.known {
                            known.is_voter = voting.contains(node);
                        }
                    }
                }
                Change::Forget(node) => drop(nodes.remove(&node)),
            }
        }
        panic!("it never settles: {nodes:?}");
    }

    #[test]
    fn an_odd_number_votes() {
        for (number, expected) in
            [(1, vec![1]), (2, vec![1]), (3, vec![1, 2, 3]), (6, vec![1, 2, 3]), (9, vec![1, 2, 3, 4, 5])]
        {
            let mut nodes = cluster(number);
            settle(&mut Voters::default(), at(0), &mut nodes);
            assert_eq!(voting(&nodes), expected, "of {number}");
        }
    }

    #[test]
    fn whoever_is_behind_does_not_vote_yet() {
        let mut nodes = cluster(3);
        nodes.get_mut(&NodeId(3)).unwrap().known.as_mut().unwrap().is_caught_up = false;
        settle(&mut Voters::default(), at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1]);
    }

    #[test]
    fn voters_stand_in_different_zones_where_there_are() {
        let mut nodes = cluster(6);
        for (node, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")] {
            nodes.get_mut(&NodeId(node)).unwrap().zone = zone.to_owned();
        }
        settle(&mut Voters::default(), at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 4, 6]);
    }

    #[test]
    fn a_zone_that_comes_later_gets_a_voter_and_the_last_to_go_share_none() {
        let mut nodes = cluster(7);
        for (node, zone) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c"), (7, "c")] {
            nodes.get_mut(&NodeId(node)).unwrap().zone = zone.to_owned();
        }
        let mut voters = Voters::default();
        let late: Vec<(NodeId, Voice)> = [5, 6, 7].map(|node| nodes.remove_entry(&NodeId(node)).unwrap()).into();
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3]);
        nodes.extend(late.into_iter().take(1));
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 5]);

        nodes.extend([(NodeId(6), Voice { zone: "b".to_owned(), ..voice(6) })]);
        nodes.extend([(NodeId(7), Voice { zone: "b".to_owned(), ..voice(7) })]);
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3, 4, 5], "of seven, five");
        for node in [6, 7] {
            nodes.get_mut(&NodeId(node)).unwrap().is_member = false;
        }
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 5]);
    }

    #[test]
    fn a_dead_voter_is_replaced_after_a_while_and_only_if_somebody_can() {
        let mut voters = Voters::default();
        let mut nodes = cluster(3);
        settle(&mut voters, at(0), &mut nodes);
        nodes.get_mut(&NodeId(3)).unwrap().is_dead = true;
        settle(&mut voters, at(10), &mut nodes);
        settle(&mut voters, at(1000), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3], "nobody can stand in for it");
        nodes.insert(NodeId(4), voice(4));
        settle(&mut voters, at(1000), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 4]);

        let mut voters = Voters::default();
        nodes.get_mut(&NodeId(3)).unwrap().is_dead = false;
        nodes.get_mut(&NodeId(4)).unwrap().is_dead = true;
        settle(&mut voters, at(10), &mut nodes);
        settle(&mut voters, at(69), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 4]);
        settle(&mut voters, at(70), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3]);
    }

    #[test]
    fn whoever_is_wanted_takes_the_place_of_one_that_is_dead() {
        let mut voters = Voters::default();
        let mut nodes = cluster(4);
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3]);
        nodes.get_mut(&NodeId(2)).unwrap().is_dead = true;
        nodes.get_mut(&NodeId(4)).unwrap().promoted_at = Some(10);
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 4]);
    }

    #[test]
    fn whoever_is_wanted_votes_and_the_number_stays_what_it_is() {
        let mut voters = Voters::default();
        let mut nodes = cluster(5);
        for (node, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "c"), (5, "c")] {
            nodes.get_mut(&NodeId(node)).unwrap().zone = zone.to_owned();
        }
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3]);
        nodes.get_mut(&NodeId(4)).unwrap().promoted_at = Some(10);
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 4], "it takes the place of one that shares its zone");
        nodes.get_mut(&NodeId(5)).unwrap().promoted_at = Some(11);
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 4, 5], "whom an operator wants counts before zones");
        nodes.get_mut(&NodeId(3)).unwrap().promoted_at = Some(12);
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 5], "whoever was wanted first gives way, the leader never");

        nodes.get_mut(&NodeId(5)).unwrap().is_dead = true;
        settle(&mut voters, at(0), &mut nodes);
        settle(&mut voters, at(60), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 4]);
        nodes.get_mut(&NodeId(5)).unwrap().is_dead = false;
        settle(&mut voters, at(70), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 5], "it is still wanted when it comes back");
        for gone in [2, 4] {
            nodes.get_mut(&NodeId(gone)).unwrap().is_member = false;
        }
        nodes.get_mut(&NodeId(3)).unwrap().is_member = false;
        settle(&mut voters, at(70), &mut nodes);
        assert_eq!(voting(&nodes), [1], "of two, one votes, whatever is wanted");
    }

    #[test]
    fn whoever_is_wanted_and_behind_waits_for_the_log() {
        let mut nodes = cluster(4);
        let mut voters = Voters::default();
        settle(&mut voters, at(0), &mut nodes);
        let late = nodes.get_mut(&NodeId(4)).unwrap();
        late.promoted_at = Some(10);
        late.known.as_mut().unwrap().is_caught_up = false;
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 3]);
        nodes.get_mut(&NodeId(4)).unwrap().known.as_mut().unwrap().is_caught_up = true;
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 2, 4]);
    }

    #[test]
    fn whoever_lives_and_stays_and_has_most_leads_next() {
        let candidate =
            |node: u32, reached: u64| Candidate { node: NodeId(node), reached, is_dead: false, is_draining: false };
        assert_eq!(successor(&[]), None);
        assert_eq!(successor(&[candidate(2, 7), candidate(3, 9)]), Some(NodeId(3)));
        assert_eq!(successor(&[candidate(2, 9), candidate(3, 9)]), Some(NodeId(2)));
        let dead = Candidate { is_dead: true, ..candidate(3, 9) };
        assert_eq!(successor(&[candidate(2, 7), dead]), Some(NodeId(2)));
        assert_eq!(successor(&[dead]), None);
        let leaving = Candidate { is_draining: true, ..candidate(3, 9) };
        assert_eq!(successor(&[candidate(2, 7), leaving]), Some(NodeId(2)));
        assert_eq!(successor(&[leaving]), Some(NodeId(3)));
    }

    #[test]
    fn whoever_is_no_member_any_more_is_forgotten() {
        let mut voters = Voters::default();
        let mut nodes = cluster(4);
        settle(&mut voters, at(0), &mut nodes);
        nodes.get_mut(&NodeId(2)).unwrap().is_member = false;
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1, 3, 4]);
        assert!(!nodes.contains_key(&NodeId(2)));
        nodes.get_mut(&NodeId(3)).unwrap().is_member = false;
        settle(&mut voters, at(0), &mut nodes);
        assert_eq!(voting(&nodes), [1], "two nodes have one voter");
    }

    #[test]
    fn a_node_that_moved_is_noted_and_a_new_one_learns_first() {
        let mut nodes = cluster(2);
        nodes.get_mut(&NodeId(2)).unwrap().address = "10.9.9.9:8100".to_owned();
        nodes.insert(NodeId(3), Voice { known: None, ..voice(3) });
        let mut voters = Voters::default();
        let moved = Change::Address { node: NodeId(2), address: "10.9.9.9:8100".to_owned() };
        assert_eq!(voters.next(at(0), LEADER, &nodes), Some(moved));
        nodes.get_mut(&NodeId(2)).unwrap().known.as_mut().unwrap().address = "10.9.9.9:8100".to_owned();
        let learner = Change::Learner { node: NodeId(3), address: "10.0.0.3:8100".to_owned() };
        assert_eq!(voters.next(at(0), LEADER, &nodes), Some(learner));
    }

    fn any_voice(node: u32) -> impl Strategy<Value = Voice> {
        let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
        let promoted_at = prop::option::of(0..5_u64);
        let parts = (flags, promoted_at, prop::sample::select(vec!["", "a", "b"]));
        parts.prop_map(move |((member, dead, known, voter, up), promoted_at, zone)| Voice {
            is_member: member || node == LEADER.0,
            is_dead: dead && node != LEADER.0,
            promoted_at,
            zone: zone.to_owned(),
            known: (known || node == LEADER.0).then(|| Known {
                address: format!("10.0.0.{node}:8100"),
                is_voter: voter || node == LEADER.0,
                is_caught_up: up,
            }),
            ..voice(node)
        })
    }

    proptest! {
        /// From wherever it begins it comes to rest, with the leader voting, nobody voting that has left, and no more voters
        /// than there may be; and as long as nobody leaves, what is a majority is never less than it was.
        #[test]
        fn it_comes_to_rest_at_a_sound_set(voices in (1..9_u32).prop_flat_map(|number| {
            (1..=number).map(any_voice).collect::<Vec<_>>()
        })) {
            let mut nodes: BTreeMap<NodeId, Voice> = (1..).map(NodeId).zip(voices).collect();
            let mut voters = Voters::default();
            let before = voting(&nodes);
            let nobody_leaves = nodes.values().all(|voice| voice.is_member);
            settle(&mut voters, at(0), &mut nodes);
            settle(&mut voters, at(100), &mut nodes);
            let after = voting(&nodes);
            prop_assert!(after.contains(&LEADER.0));
            prop_assert!(nodes.values().all(|voice| voice.is_member || voice.known.is_none()), "{:?}", nodes);
            prop_assert!(after.len() <= 5, "{:?}", after);
            let zone = |node: u32| nodes[&NodeId(node)].zone.as_str();
            let taken: BTreeSet<&str> = after.iter().map(|node| zone(*node)).collect();
            let is_left_out = |(node, voice): (&NodeId, &Voice)| {
                can_vote(voice) && !after.contains(&node.0) && !taken.contains(voice.zone.as_str())
            };
            let shares = |node: &&u32| after.iter().filter(|other| zone(**other) == zone(**node)).count() > 1;
            let is_free = |node: u32| node != LEADER.0 && nodes[&NodeId(node)].promoted_at.is_none();
            let is_spread =
                !nodes.iter().any(is_left_out) || !after.iter().any(|node| is_free(*node) && shares(&node));
            prop_assert!(is_spread, "{:?} of {:?}", after, nodes);
            let wants = |node: &u32| nodes[&NodeId(*node)].promoted_at;
            let least = after.iter().filter(|node| **node != LEADER.0).map(wants).min();
            let passed_over = nodes.iter().filter(|(node, voice)| can_vote(voice) && !after.contains(&node.0));
            let most_wanted = passed_over.filter_map(|(_, voice)| voice.promoted_at).max();
            prop_assert!(least.is_none_or(|least| most_wanted <= least), "{:?} of {:?}", after, nodes);
            if nobody_leaves {
                let most = if nodes.len() >= FIVE_FROM { 5 } else { 3 };
                prop_assert!(after.len() / 2 >= before.len().min(most).saturating_sub(1) / 2, "{:?} after {:?}", after, before);
            }
        }
    }
}
