//! What nodes are granted, and when.

use super::*;

#[test]
fn a_node_is_granted_everything_that_is_free() {
    let cluster = Cluster::new();
    let node = &cluster.state.nodes[&NODE];
    assert_eq!(node.grant, node.spec.capacity);
}

/// Makes a cluster of four nodes of level 0 that nobody leads yet: all grants are due at once.
fn four_at_level_0() -> Cluster {
    let now = Timestamp::from_millis(1);
    let mut cluster = Cluster { state: State::default(), controller: Controller::new(NODE), now };
    for node in 1..=4 {
        let spec = NodeSpec { name: String::new(), capacity: ALL, labels: BTreeMap::new(), features: FeatureLevel(0) };
        let registered = cluster.state.apply(now, Command::RegisterNode { node: NodeId(node), spec });
        assert!(registered.is_ok(), "{registered:?}");
    }
    cluster
}

#[test]
fn at_level_0_each_node_is_granted_its_own_in_an_entry_of_its_own() {
    let mut cluster = four_at_level_0();
    let proposed = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
    let [Effect::Propose(Command::Grant { grants })] = &proposed[..] else { panic!("{proposed:?}") };
    assert_eq!(grants.len(), 1, "{grants:?}");
    // The others come with the answer, with no time between.
    cluster.carry_out(proposed);
    assert!(cluster.state.nodes.values().all(|node| node.grant == ALL), "{:?}", cluster.state.nodes);
}

#[test]
fn at_level_0_nodes_that_are_busy_for_ever_leave_others_their_turn() {
    let mut cluster = four_at_level_0();
    let mut proposed = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
    let mut granted = Vec::new();
    for _ in 0..10 {
        let [Effect::Propose(command @ Command::Grant { grants })] = &proposed[..] else { panic!("{proposed:?}") };
        granted.push(grants[0].node.0);
        cluster.now = cluster.now + Duration::from_millis(5);
        // It is not applied: what was granted is used up before anybody looks again.
        let used = Ok(Reply::Done { index: cluster.state.index });
        let answered = Input::Answered(&cluster.state, command.clone(), used);
        proposed = cluster.controller.on_input(cluster.now, answered);
    }
    // All of them wait since the first look, node 1 too.
    assert_eq!(granted, [1, 1, 2, 3, 4, 1, 2, 3, 4, 1]);
}

#[test]
fn what_several_nodes_are_granted_is_one_entry_and_a_refusal_delays_none() {
    let mut cluster = Cluster::new();
    for node in 2..=9 {
        let spec = cluster.state.nodes[&NODE].spec.clone();
        let registered = Command::RegisterNode { node: NodeId(node), spec };
        cluster.state.apply(cluster.now, registered).expect("it may register");
    }
    let proposed = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
    let [Effect::Propose(Command::Grant { grants })] = &proposed[..] else { panic!("{proposed:?}") };
    assert_eq!(grants.len(), 8, "{grants:?}");
    assert_eq!(cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state)), [], "they are under way");
    // Somebody else's rejection of all of them: what the next look sees is proposed at once.
    let refused = Command::Grant { grants: grants.clone() };
    let answer = Err(Rejection::StaleEpoch { node: NodeId(2), actual: Epoch(2), given: Epoch(1) });
    assert_eq!(cluster.controller.on_input(cluster.now, Input::Answered(&cluster.state, refused, answer)), proposed);
}
