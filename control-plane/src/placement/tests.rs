//! What the planner promises, as sentences.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::score::{Grain, Score, Weights, rank_cost};
use super::*;
use crate::model::{
    Bytes, Concurrency, Digest, FeatureLevel, FunctionName, FunctionSpec, MilliCpu, Network, NodeSpec, RevisionNumber,
    RevisionSpec, Runtime, Scaling, Timestamp, ZONE_LABEL,
};
use crate::state::{Command, Place, Rejection, Reply};

const AT: Timestamp = Timestamp::from_millis(1);

fn name(function: usize) -> FunctionName {
    format!("f{function}").parse().expect("a name")
}

fn ask(function: usize) -> Ask {
    let revision = RevisionId { function: name(function), number: RevisionNumber(1) };
    Ask { revision, purpose: Purpose::Minimum }
}

fn resources(cpu: u32, memory: u64) -> Resources {
    Resources { cpu: MilliCpu(cpu), memory: Bytes::mebi(memory), disk: Bytes::mebi(1), pids: 1 }
}

/// Returns a function, with a minimum of two.
fn function(function: usize, resources: Resources, placement: Constraints) -> FunctionSpec {
    let revision = RevisionSpec {
        runtime: Runtime::Provided,
        image: Digest::from_bytes([1; 32]),
        command: Vec::new(),
        handler: None,
        environment: BTreeMap::new(),
        resources,
        timeout: Duration::from_secs(1),
        concurrency: Concurrency::ONE,
        network: Network::None,
        user: None,
        placement,
    };
    let scaling = Scaling::new(2, 10, Duration::from_secs(60)).expect("the limits are valid");
    FunctionSpec { name: name(function), revision, scaling, triggers: Vec::new() }
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn constraints(spread: Spread, require: &[(&str, &str)]) -> Constraints {
    Constraints::new(spread, labels(require)).expect("the limits are kept")
}

fn cluster(nodes: Vec<(Resources, BTreeMap<String, String>)>, functions: Vec<FunctionSpec>) -> State {
    let mut state = State::default();
    for (id, (capacity, labels)) in (1..).zip(nodes) {
        let spec = NodeSpec { name: format!("node-{id}"), capacity, labels, features: FeatureLevel::NEWEST };
        state.apply(AT, Command::RegisterNode { node: NodeId(id), spec }).expect("a node registers");
    }
    let app = "app".parse().expect("a name");
    state.apply(AT, Command::DeployApp { app, functions, check_index: None }).expect("the app is deployed");
    state
}

/// Carries a plan out; returns what came of each ask that was planned.
fn carry_out(state: &mut State, asks: &[Ask], nodes: &[Result<NodeId, NoFit>]) -> Vec<Result<(), Rejection>> {
    let planned = asks.iter().zip(nodes).filter_map(|(ask, node)| Some((ask.clone(), *node.as_ref().ok()?)));
    let places = planned.map(|(Ask { revision, purpose }, node)| Place { revision, node, purpose }).collect();
    match state.apply(AT, Command::PlaceMany { places }) {
        Ok(Reply::PlacedMany { placed }) => placed.into_iter().map(|outcome| outcome.map(drop)).collect(),
        other => panic!("{other:?}"),
    }
}

/// Plans one ask by the definition: every node looked at, with what it holds summed up anew.
fn by_definition(state: &State, weights: &Weights, ask: &Ask) -> Option<NodeId> {
    let function = &state.functions[&ask.revision.function];
    let spec = &state.revision(&ask.revision)?.spec;
    let is_spread = spec.placement.spread() == Spread::Zone;
    let zone = |node: NodeId| state.nodes[&node].labels().get(ZONE_LABEL);
    let has = |is_there: &dyn Fn(NodeId) -> bool| {
        let alike = state.placements.values().filter(|placement| {
            placement.revision == ask.revision && placement.purpose == ask.purpose && is_there(placement.node)
        });
        if is_spread { u32::try_from(alike.count()).expect("few") } else { 0 }
    };
    let usable: Vec<NodeId> = state
        .nodes
        .iter()
        .filter(|(_, node)| spec.placement.missing(node.labels()).is_none())
        .map(|(id, _)| *id)
        .collect();
    let zone_load = |node: NodeId| has(&|other| zone(other) == zone(node));
    let least = usable.iter().map(|node| zone_load(*node)).min()?;
    let is_even = is_spread && ask.purpose == Purpose::Minimum && function.scaling.min() >= 2;
    let largest = state.nodes.values().fold([0; score::DIMENSIONS], |largest, node| {
        let capacity = amounts(&node.spec.capacity);
        std::array::from_fn(|dimension| u64::max(largest[dimension], capacity[dimension]))
    });
    let grain = Grain::for_largest(largest);
    let scores = usable.iter().filter_map(|id| {
        let node = &state.nodes[id];
        let room = node.spec.capacity.minus(&state.placements.held(*id));
        if !spec.resources.fits(&room) || (is_even && zone_load(*id) > least) {
            return None;
        }
        let weighted = weights.weigh(&grain.reciprocals(&node.spec.capacity));
        let rank = state.nodes.keys().position(|other| other == id).expect("it is there");
        let cost = grain.cost(&room, &weighted) - grain.cost(&spec.resources, &weighted);
        let cost = cost + rank_cost(rank, state.nodes.len());
        Some(Score { zone_load: zone_load(*id), node_load: has(&|other| other == *id), cost, node: *id })
    });
    scores.min().map(|score| score.node)
}

fn any_cluster() -> impl Strategy<Value = State> {
    let capacity = (1..40_u32, 1..40_u64).prop_map(|(cpu, memory)| resources(cpu * 100, memory * 64));
    let capacity = capacity.prop_map(|capacity| Resources { disk: Bytes::mebi(20), pids: 12, ..capacity });
    // Some zones have more than one block, and are not the first.
    let zone = prop::option::weighted(0.9, prop::sample::select(vec!["a", "b", "b", "b", "b", "b", "c"]));
    let node = |zone| {
        (capacity.clone(), zone, any::<bool>()).prop_map(|(capacity, zone, is_arm)| {
            let zone = Option::map(zone, |zone: &str| (ZONE_LABEL.to_owned(), zone.to_owned()));
            let arch = ("arch".to_owned(), if is_arm { "arm64" } else { "amd64" }.to_owned());
            (capacity, zone.into_iter().chain([arch]).collect())
        })
    };
    let (zoned, alone) = (node(zone.boxed()), node(Just(None).boxed()));
    let placement = prop::sample::select(vec![
        constraints(Spread::None, &[]),
        constraints(Spread::Zone, &[]),
        constraints(Spread::None, &[("arch", "arm64")]),
        constraints(Spread::Zone, &[("arch", "amd64")]),
    ]);
    // Some of one size.
    let size = prop_oneof![(0..12_u32, 0..12_u64), (4..6_u32, Just(5_u64))];
    let size = size.prop_map(|(cpu, memory)| resources(cpu * 100, memory * 64));
    let functions = prop::collection::vec((size, placement), 4).prop_map(|functions| {
        let numbered = functions.into_iter().enumerate();
        numbered.map(|(number, (size, placement))| function(number, size, placement)).collect()
    });
    // More nodes than a block has, sometimes, and in one zone.
    let nodes = prop_oneof![
        4 => prop::collection::vec(zoned.clone(), 0..9),
        1 => prop::collection::vec(zoned, 60..150),
        1 => prop::collection::vec(alone, 130..260),
    ];
    (nodes, functions).prop_map(|(nodes, functions)| cluster(nodes, functions))
}

fn any_asks() -> impl Strategy<Value = Vec<Ask>> {
    let purpose = prop::sample::select(vec![Purpose::Minimum, Purpose::Minimum, Purpose::Verify]);
    let ask = (0..4_usize, purpose).prop_map(|(function, purpose)| Ask { purpose, ..ask(function) });
    prop::collection::vec(ask, 0..40)
}

proptest! {
    #[test]
    fn planner_and_applier_never_disagree(mut state in any_cluster(), batches in prop::collection::vec(any_asks(), 1..4)) {
        for asks in batches {
            let nodes = Planner::of(&state).plan(&asks);
            let refused: Vec<_> = carry_out(&mut state, &asks, &nodes).into_iter().filter(Result::is_err).collect();
            prop_assert_eq!(refused, vec![], "what was planned is refused");
            // What is said to fit nowhere is refused on every node, but for where only the spread forbids it.
            for (ask, no_fit) in asks.iter().zip(&nodes).filter_map(|(ask, node)| Some((ask, node.as_ref().err()?))) {
                let spared = |obstacle: &Obstacle| matches!(obstacle, Obstacle::Zone { .. });
                if no_fit.classes.keys().any(spared) {
                    continue;
                }
                for node in state.nodes.keys().copied().collect::<Vec<_>>() {
                    let Ask { revision, purpose } = ask.clone();
                    let answer = state.clone().apply(AT, Command::Place(Place { revision, node, purpose }));
                    let is_as_told = matches!(answer, Err(Rejection::NoRoom { .. } | Rejection::NoLabel { .. }));
                    prop_assert!(is_as_told, "{:?} on {} gives {:?}", ask, node, answer);
                }
            }
        }
    }

    #[test]
    fn a_batch_goes_where_the_definition_says(mut state in any_cluster(), asks in any_asks()) {
        let nodes = Planner::of(&state).plan(&asks);
        let total = |sum: [u128; 4], resources: &Resources| {
            let amounts = amounts(resources);
            std::array::from_fn(|dimension| sum[dimension] + u128::from(amounts[dimension]))
        };
        let sizes = asks.iter().map(|ask| state.revision(&ask.revision).expect("it is known").spec.resources);
        let capacity = state.nodes.values().map(|node| &node.spec.capacity).fold([0; 4], total);
        let weights = Weights::of(sizes.clone().fold([0; 4], |sum, size| total(sum, &size)), capacity);
        let mut order: Vec<(usize, Resources)> = sizes.enumerate().collect();
        order.sort_by_key(|(ask, size)| {
            let amounts = amounts(size);
            (std::cmp::Reverse((amounts[weights.scarcest], amounts)), &asks[*ask], *ask)
        });
        for (index, _) in order {
            let expected = by_definition(&state, &weights, &asks[index]);
            prop_assert_eq!(nodes[index].as_ref().ok().copied(), expected, "ask {}", index);
            if let Some(node) = expected {
                let Ask { revision, purpose } = asks[index].clone();
                let placed = state.apply(AT, Command::Place(Place { revision, node, purpose }));
                prop_assert!(placed.is_ok(), "{:?}", placed);
            }
        }
    }

    #[test]
    fn a_planner_that_went_on_is_one_that_begins_anew(mut state in any_cluster(), first in any_asks(), second in any_asks()) {
        let before = state.clone();
        let mut planner = Planner::of(&before);
        let nodes = planner.plan(&first);
        carry_out(&mut state, &first, &nodes);
        prop_assert_eq!(planner.plan(&second), Planner::of(&state).plan(&second));
    }

    #[test]
    fn a_minimum_never_leans_on_one_zone(state in any_cluster(), asks in any_asks()) {
        let mut after = state.clone();
        let nodes = Planner::of(&state).plan(&asks);
        carry_out(&mut after, &asks, &nodes);
        for (id, function) in &state.functions {
            let placement = &function.revisions[&RevisionNumber(1)].spec.placement;
            if placement.spread() != Spread::Zone {
                continue;
            }
            let usable = state.nodes.values().filter(|node| placement.missing(node.labels()).is_none());
            let zones: BTreeSet<_> = usable.map(|node| node.labels().get(ZONE_LABEL)).collect();
            let load = |zone: &Option<&String>| after.placements.values().filter(|placed| {
                placed.revision.function == *id
                    && placed.purpose == Purpose::Minimum
                    && state.nodes[&placed.node].labels().get(ZONE_LABEL) == *zone
            }).count();
            let loads: Vec<usize> = zones.iter().map(load).collect();
            let skew = loads.iter().max().zip(loads.iter().min()).map_or(0, |(most, least)| most - least);
            prop_assert!(skew <= 1, "{} has {:?}", id, loads);
        }
    }
}

/// Plans and returns the numbers of the nodes.
fn planned(state: &State, asks: &[Ask]) -> Vec<Option<u32>> {
    Planner::of(state).plan(asks).into_iter().map(|node| node.ok().map(|node| node.0)).collect()
}

#[test]
fn what_is_not_spread_fills_one_node_after_the_other() {
    let nodes = vec![(resources(400, 400), labels(&[])); 3];
    let state = cluster(
        nodes,
        vec![function(0, Resources { disk: Bytes(0), pids: 0, ..resources(200, 100) }, Constraints::default())],
    );
    assert_eq!(
        planned(&state, &vec![ask(0); 7]),
        [1, 1, 2, 2, 3, 3].map(Some).into_iter().chain([None]).collect::<Vec<_>>()
    );
}

#[test]
fn large_instances_are_placed_before_small_ones() {
    let sized = |number, memory| {
        let size = Resources { memory: Bytes::mebi(memory), ..Resources::default() };
        function(number, size, Constraints::default())
    };
    let capacity = Resources { disk: Bytes::mebi(100), pids: 100, ..resources(1000, 400) };
    let state = cluster(vec![(capacity, labels(&[])); 2], vec![sized(0, 100), sized(1, 300)]);
    // In the order of the asks both nodes would have taken a small one, and no large one but one.
    let asks = [ask(0), ask(0), ask(1), ask(1)];
    assert_eq!(planned(&state, &asks), [1, 2, 1, 2].map(Some));
}

#[test]
fn a_reason_says_what_would_help() {
    let nodes = vec![
        (resources(1000, 100), labels(&[("arch", "arm64"), ("zone", "a")])),
        (resources(1000, 200), labels(&[("arch", "arm64"), ("zone", "a")])),
        (resources(100, 900), labels(&[("arch", "arm64"), ("zone", "b")])),
        (resources(1000, 1000), labels(&[("arch", "amd64"), ("zone", "b")])),
    ];
    let wanted = constraints(Spread::None, &[("arch", "arm64")]);
    let state = cluster(nodes, vec![function(0, resources(500, 256), wanted)]);
    let no_fit = Planner::of(&state).plan(&[ask(0)]).remove(0).expect_err("nothing fits");
    assert_eq!(
        no_fit.to_string(),
        "an instance needs cpu 500m, memory 256Mi, disk 1Mi, pids 1; node-4 lacks the label arch=arm64: it would fit if \
         one of them had it; 2 nodes have too little left: it would fit if node-2 had memory 56Mi more; node-3 has too \
         little left: it would fit if node-3 had cpu 400m more"
    );
    let none =
        Planner::of(&cluster(Vec::new(), vec![function(0, resources(1, 1), Constraints::default())])).plan(&[ask(0)]);
    assert_eq!(none[0].as_ref().map_err(ToString::to_string), Err("no node has registered".to_owned()));
}

#[test]
fn a_reason_counts_the_nodes_that_take_nothing() {
    let nodes = vec![(resources(1000, 100), labels(&[])), (resources(1000, 900), labels(&[]))];
    let mut state = cluster(nodes, vec![function(0, resources(500, 256), Constraints::default())]);
    let why = |state: &State| Planner::of(state).plan(&[ask(0)]).remove(0).expect_err("nothing fits").to_string();
    state.nodes.get_mut(&NodeId(2)).expect("it is there").is_draining = true;
    assert!(why(&state).ends_with("had memory 156Mi more; 1 node is drained or dead"), "{}", why(&state));
    state.nodes.get_mut(&NodeId(1)).expect("it is there").is_dead = true;
    assert_eq!(why(&state), "all 2 nodes are drained or dead");
}

#[test]
fn a_zone_that_is_full_holds_the_others_back() {
    let nodes =
        vec![(resources(1000, 900), labels(&[("zone", "a")])), (resources(1000, 100), labels(&[("zone", "b")]))];
    let nodes =
        nodes.into_iter().map(|(capacity, labels)| (Resources { pids: 9, disk: Bytes::mebi(9), ..capacity }, labels));
    let state = cluster(nodes.collect(), vec![function(0, resources(1, 100), constraints(Spread::Zone, &[]))]);
    let mut plan = Planner::of(&state).plan(&vec![ask(0); 4]);
    assert_eq!(plan.iter().filter(|node| node.is_ok()).count(), 3);
    let no_fit = plan.remove(3).expect_err("zone b is full");
    assert!(no_fit.to_string().contains("node-1 is in zone a, which has one more already"), "{no_fit}");
}
