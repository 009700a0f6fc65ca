//! What the state promises about nodes that join, leave and are told what they are, and about scaling, as sentences.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::model::{
    Bytes, Concurrency, Constraints, Epoch, FeatureLevel, FunctionSpec, InstanceId, MilliCpu, Network, NodeSpec,
    RevisionSpec, Runtime, ScalingChange,
};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn secret(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn register(state: &mut State, node: u32) -> Result<Reply, Rejection> {
    let capacity = Resources { cpu: MilliCpu(1000), memory: Bytes::mebi(1000), disk: Bytes::mebi(1000), pids: 100 };
    let spec =
        NodeSpec { name: format!("node-{node}"), capacity, labels: BTreeMap::new(), features: FeatureLevel::NEWEST };
    state.apply(at(1), Command::RegisterNode { node: NodeId(node), spec })
}

fn invite(state: &mut State, byte: u8, until: u64, uses: Option<u32>) -> Result<Reply, Rejection> {
    state.apply(at(1), Command::Invite { secret: secret(byte), expires_at: at(until), uses })
}

/// Lets a machine in that has made a request of its own.
fn admit(state: &mut State, now: u64, byte: u8) -> Result<NodeId, Rejection> {
    let request = Digest::from_bytes([u8::try_from(state.index).expect("a test is short"); 32]);
    admit_with(state, now, byte, request)
}

fn admit_with(state: &mut State, now: u64, byte: u8, request: Digest) -> Result<NodeId, Rejection> {
    match state.apply(at(now), Command::Admit { secret: secret(byte), request })? {
        Reply::Admitted { node } => Ok(node),
        other => panic!("{other:?} answers an admission"),
    }
}

/// Deploys a function that needs nothing.
fn deploy(state: &mut State) -> RevisionId {
    let revision = RevisionSpec {
        runtime: Runtime::Http,
        image: Digest::from_bytes([0; 32]),
        command: Vec::new(),
        handler: None,
        environment: BTreeMap::new(),
        resources: Resources::default(),
        timeout: Duration::from_secs(1),
        concurrency: Concurrency::ONE,
        network: Network::None,
        placement: Constraints::default(),
        user: None,
    };
    let scaling = Scaling::new(0, 1, Duration::from_secs(1)).unwrap();
    let spec = FunctionSpec { name: "f".parse().unwrap(), revision, scaling, triggers: Vec::new() };
    let id = RevisionId { function: spec.name.clone(), number: RevisionNumber(1) };
    let deploy = Command::DeployApp { app: "app".parse().unwrap(), functions: vec![spec], check_index: None };
    state.apply(at(1), deploy).unwrap();
    id
}

#[test]
fn whoever_asks_again_is_the_same_node_and_counts_once() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    invite(&mut state, 1, 100_000_000, Some(2)).unwrap();
    let (one, other) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
    for _ in 0..3 {
        assert_eq!(admit_with(&mut state, 1, 1, one), Ok(NodeId(2)));
    }
    assert_eq!(admit_with(&mut state, 1, 1, other), Ok(NodeId(3)));
    assert_eq!(admit_with(&mut state, 1, 1, one), Ok(NodeId(2)), "though the token is used up");
}

#[test]
fn whoever_never_came_makes_room_and_leaves_no_id_behind() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    invite(&mut state, 1, 100_000_000, None).unwrap();
    let request = |number: usize| {
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
        Digest::from_bytes(bytes)
    };
    for number in 0..ADMITTED_MAX {
        admit_with(&mut state, 1, 1, request(number)).unwrap();
    }
    let told = admit_with(&mut state, 1, 1, request(ADMITTED_MAX)).unwrap_err();
    assert_eq!(told.to_string(), "nodes that have not registered: the most is 1024");
    let later = 1 + u64::try_from(ADMITTED_LIFE.as_millis()).unwrap();
    assert_eq!(admit_with(&mut state, later, 1, request(ADMITTED_MAX)), Ok(NodeId(1026)));
    assert!(!state.is_member(NodeId(2)) && state.is_member(NodeId(1026)));
    assert_eq!(state.admitted.len(), 1);
}

#[test]
fn a_secret_lets_in_until_it_is_over() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    invite(&mut state, 1, 100, Some(2)).unwrap();
    invite(&mut state, 2, 100, None).unwrap();
    assert_eq!(admit(&mut state, 99, 3), Err(Rejection::NotInvited(NotInvited::Unknown)));
    assert_eq!(admit(&mut state, 99, 1), Ok(NodeId(2)));
    assert_eq!(admit(&mut state, 99, 1), Ok(NodeId(3)));
    assert_eq!(admit(&mut state, 99, 1), Err(Rejection::NotInvited(NotInvited::UsedUp)));
    assert_eq!(admit(&mut state, 99, 2), Ok(NodeId(4)));
    assert_eq!(admit(&mut state, 100, 2), Err(Rejection::NotInvited(NotInvited::Expired)));
    assert!(state.is_member(NodeId(4)) && !state.is_member(NodeId(5)));
}

#[test]
fn the_secrets_that_are_kept_are_bounded_and_those_that_are_over_make_room() {
    let mut state = State::default();
    let many = |state: &mut State, byte: u8, number: usize, until: u64| {
        let mut bytes = [byte; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let secret = Digest::from_bytes(bytes);
        state.apply(at(1), Command::Invite { secret, expires_at: at(until), uses: None })
    };
    for number in 0..INVITATIONS_MAX {
        many(&mut state, 1, number, 50).unwrap();
    }
    let told = many(&mut state, 2, 0, 50).unwrap_err();
    assert_eq!(told.to_string(), "join tokens: the most is 256");
    let fresh = Command::Invite { secret: secret(9), expires_at: at(90), uses: None };
    state.apply(at(50), fresh).unwrap();
    assert_eq!(state.invitations.len(), 1, "those that were over are forgotten");
}

#[test]
fn no_id_is_given_twice_and_nobody_comes_back_who_was_removed() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    invite(&mut state, 1, 100, None).unwrap();
    assert_eq!(admit(&mut state, 1, 1), Ok(NodeId(2)));
    register(&mut state, 2).unwrap();
    state.apply(at(1), Command::RemoveNode { node: NodeId(2) }).unwrap();
    assert!(!state.is_member(NodeId(2)));
    assert_eq!(admit(&mut state, 1, 1), Ok(NodeId(3)));
    assert_eq!(register(&mut state, 2), Err(Rejection::NodeRemoved(NodeId(2))));
    assert_eq!(
        state.apply(at(1), Command::RemoveNode { node: NodeId(1) }),
        Err(Rejection::LastNode(NodeId(1))),
        "who has not registered cannot stand in for it"
    );
}

#[test]
fn a_dead_node_is_fenced_until_it_registers() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    let node = NodeId(1);
    let revision = deploy(&mut state);
    let grant = Resources { pids: 7, ..Resources::default() };
    state.apply(at(1), Command::Grant { grants: vec![Grant { node, epoch: Epoch(1), resources: grant }] }).unwrap();
    let stale = state.apply(at(1), Command::DeclareDead { node, epoch: Epoch(0) });
    assert!(matches!(stale, Err(Rejection::StaleEpoch { .. })), "it has registered since: {stale:?}");
    state.apply(at(1), Command::DeclareDead { node, epoch: Epoch(1) }).unwrap();
    for epoch in [1, 2].map(Epoch) {
        let late = state.apply(at(1), Command::Grant { grants: vec![Grant { node, epoch, resources: grant }] });
        assert!(late.is_err(), "in {epoch:?}: {late:?}");
        let instances = vec![(InstanceId::granted(node, epoch, 1), revision.clone())];
        let late = state.apply(at(1), Command::Adopt { node, epoch, instances });
        assert!(late.is_err(), "in {epoch:?}: {late:?}");
    }
    let released = Command::Release { node, epoch: Epoch(1), instances: Vec::new() };
    assert!(matches!(state.apply(at(1), released), Err(Rejection::StaleEpoch { .. })));
    let placed = Command::PlaceMany { places: vec![Place { revision, node, purpose: Purpose::Minimum }] };
    let Ok(Reply::PlacedMany { placed }) = state.apply(at(1), placed) else { panic!("a batch is answered one by one") };
    assert!(matches!(placed[..], [Err(Rejection::NoRoom { .. })]), "{placed:?}");
    assert_eq!(register(&mut state, 1), Ok(Reply::Registered { epoch: Epoch(3) }));
    state.apply(at(1), Command::Grant { grants: vec![Grant { node, epoch: Epoch(3), resources: grant }] }).unwrap();
}

#[test]
fn one_grant_that_is_refused_leaves_the_others() {
    let mut state = State::default();
    for node in [1, 2] {
        register(&mut state, node).unwrap();
    }
    let resources = Resources { pids: 7, ..Resources::default() };
    let grant = |node, epoch| Grant { node: NodeId(node), epoch: Epoch(epoch), resources };
    let index = state.index;
    let grants = vec![grant(1, 0), grant(2, 1), grant(3, 1)];
    assert_eq!(state.apply(at(1), Command::Grant { grants }), Ok(Reply::Done { index: index + 1 }));
    assert_eq!((state.nodes[&NodeId(1)].grant, state.nodes[&NodeId(2)].grant), (Resources::default(), resources));
    let all = state.apply(at(1), Command::Grant { grants: vec![grant(1, 0), grant(3, 1)] });
    assert!(matches!(all, Err(Rejection::StaleEpoch { .. })), "the first reason: {all:?}");
    let too_many = state.apply(at(1), Command::Grant { grants: vec![grant(1, 1); GRANT_MAX + 1] });
    assert!(matches!(too_many, Err(Rejection::Limit { limit: GRANT_MAX, .. })), "{too_many:?}");
}

#[test]
fn a_proposal_that_comes_twice_is_applied_once() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    let node = NodeId(1);
    let ticket = |number, oldest| Some(Ticket { node, epoch: Epoch(1), number, oldest });
    let drain = |is_draining| Command::Drain { node, is_draining };
    let first = state.apply_once(at(2), ticket(1, 1), drain(true));
    state.apply_once(at(2), ticket(2, 1), drain(false)).expect("it is there");
    assert_eq!(state.apply_once(at(2), ticket(1, 1), drain(true)), first);
    assert!(!state.nodes[&node].is_draining, "what came later stands");

    // What was refused is refused again, although it would be taken by now.
    let other = Command::Drain { node: NodeId(2), is_draining: true };
    let refused = state.apply_once(at(2), ticket(3, 1), other.clone());
    register(&mut state, 2).unwrap();
    assert_eq!((state.apply_once(at(2), ticket(3, 1), other.clone()), refused.is_err()), (refused, true));

    // Answers are kept as long as somebody may ask for them, and what nobody waits for any more is not applied late.
    let over = |number| Err(Rejection::NoSession { node, number });
    state.apply_once(at(2), ticket(5, 4), drain(true)).expect("it is there");
    assert_eq!(state.sessions[&node].answers.keys().copied().collect::<Vec<_>>(), [5]);
    assert_eq!(state.apply_once(at(2), ticket(3, 1), other.clone()), over(3));
    register(&mut state, 1).unwrap();
    assert_eq!(state.apply_once(at(2), ticket(6, 5), other.clone()), over(6), "it registered anew");
    assert!(!state.nodes[&NodeId(2)].is_draining);
    let before = state.clone();
    assert_eq!(
        state.apply_once(at(2), Some(Ticket { node: NodeId(9), ..ticket(6, 5).unwrap() }), other),
        over_of(9, 6)
    );
    assert_eq!(state, before);
}

fn over_of(node: u32, number: u64) -> Result<Reply, Rejection> {
    Err(Rejection::NoSession { node: NodeId(node), number })
}

#[test]
fn a_node_has_so_many_answers_kept_and_no_more() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    let drain = Command::Drain { node: NodeId(1), is_draining: true };
    let mut propose = |number, oldest| {
        let ticket = Ticket { node: NodeId(1), epoch: Epoch(1), number, oldest };
        state.apply_once(at(2), Some(ticket), drain.clone())
    };
    let most = u64::try_from(ANSWERS_MAX).unwrap();
    assert!((0..most).all(|number| propose(number, 0).is_ok()));
    assert!(matches!(propose(most, 0), Err(Rejection::Limit { limit: ANSWERS_MAX, .. })));
    assert!(propose(0, 0).is_ok(), "one that was answered is answered again");
    assert!(propose(most, 1).is_ok());
}

fn label(state: &mut State, node: u32, set: &[(&str, &str)], unset: &[&str]) -> Result<Reply, Rejection> {
    let set = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let unset = unset.iter().map(|key| (*key).to_owned()).collect();
    state.apply(at(1), Command::Label { node: NodeId(node), set, unset })
}

/// Registers a node whose configuration has one label.
fn register_in(state: &mut State, node: u32, zone: &str) {
    let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
    let spec = NodeSpec {
        name: format!("node-{node}"),
        capacity: Resources::default(),
        labels,
        features: FeatureLevel::NEWEST,
    };
    state.apply(at(1), Command::RegisterNode { node: NodeId(node), spec }).unwrap();
}

#[test]
fn labels_that_are_set_stand_above_what_the_agent_says_and_outlive_it() {
    let mut state = State::default();
    register_in(&mut state, 1, "a");
    label(&mut state, 1, &[("zone", "b"), ("disk", "ssd")], &[]).unwrap();
    let labels = |state: &State| {
        let labels = state.nodes[&NodeId(1)].labels().iter();
        labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(labels(&state), "disk=ssd zone=b");
    let epoch = state.nodes[&NodeId(1)].epoch;
    state.apply(at(2), Command::DeclareDead { node: NodeId(1), epoch }).unwrap();
    register_in(&mut state, 1, "c");
    assert_eq!(labels(&state), "disk=ssd zone=b", "whatever the agent says by then");
    label(&mut state, 1, &[("disk", "hdd")], &["zone"]).unwrap();
    assert_eq!(labels(&state), "disk=hdd zone=c");
    let index = state.index;
    assert_eq!(label(&mut state, 1, &[("disk", "hdd")], &[]), Ok(Reply::Done { index }), "nothing changes");
    let missing = Rejection::LabelNotSet { node: NodeId(1), key: "zone".to_owned() };
    assert_eq!(label(&mut state, 1, &[], &["disk", "zone"]), Err(missing));
    assert_eq!(labels(&state), "disk=hdd zone=c", "all of it or nothing");
    assert_eq!(label(&mut state, 2, &[("a", "b")], &[]), Err(Rejection::NoNode(NodeId(2))));
}

#[test]
fn labels_keep_their_limits() {
    let mut state = State::default();
    register_in(&mut state, 1, "a");
    let long = "x".repeat(64);
    for bad in [("", "a"), ("arch", "a"), (long.as_str(), "a"), ("a", long.as_str()), ("a=b", "c"), ("a", "b\n")] {
        assert!(matches!(label(&mut state, 1, &[bad], &[]), Err(Rejection::BadLabel(_))), "{bad:?}");
    }
    for number in 0..crate::model::LABELS_SET_MAX {
        label(&mut state, 1, &[(&format!("l{number}"), "")], &[]).unwrap();
    }
    let told = label(&mut state, 1, &[("one-more", "")], &[]).unwrap_err().to_string();
    assert_eq!(told, "65 labels would be set, the most is 64");
}

#[test]
fn a_node_is_wanted_to_vote_unless_it_cannot_and_until_it_leaves() {
    let mut state = State::default();
    let prefer = |state: &mut State, node: u32| state.apply(at(1), Command::PreferVoter { node: NodeId(node) });
    register(&mut state, 1).unwrap();
    register(&mut state, 2).unwrap();
    assert_eq!(prefer(&mut state, 2), Err(Rejection::OneVoter { nodes: 2 }));
    register(&mut state, 3).unwrap();
    prefer(&mut state, 2).unwrap();
    prefer(&mut state, 3).unwrap();
    let promoted = |state: &State, node: u32| state.nodes[&NodeId(node)].promoted_at;
    assert!(promoted(&state, 2) < promoted(&state, 3), "whoever was wanted last comes first");
    let before = promoted(&state, 3);
    register(&mut state, 3).unwrap();
    assert_eq!(promoted(&state, 3), before, "it outlives the agent");
    state.apply(at(1), Command::Drain { node: NodeId(1), is_draining: true }).unwrap();
    assert_eq!(prefer(&mut state, 1), Err(Rejection::NodeDraining(NodeId(1))));
    let epoch = state.nodes[&NodeId(2)].epoch;
    state.apply(at(1), Command::DeclareDead { node: NodeId(2), epoch }).unwrap();
    assert_eq!(prefer(&mut state, 2), Err(Rejection::NodeDead(NodeId(2))));
    assert_eq!(prefer(&mut state, 9), Err(Rejection::NoNode(NodeId(9))));
}

#[test]
fn two_who_change_different_limits_lose_neither() {
    let mut state = State::default();
    register(&mut state, 1).unwrap();
    let function = deploy(&mut state).function;
    let scale = |state: &mut State, change: ScalingChange| {
        state.apply(at(2), Command::Scale { function: function.clone(), change })
    };
    scale(&mut state, ScalingChange { max: Some(7), ..ScalingChange::default() }).unwrap();
    scale(&mut state, ScalingChange { min: Some(2), ..ScalingChange::default() }).unwrap();
    let scaling = state.functions[&function].scaling;
    assert_eq!((scaling.min(), scaling.max(), scaling.idle_max()), (2, 7, Duration::from_secs(1)));
    let index = state.index;
    assert_eq!(scale(&mut state, ScalingChange::default()), Ok(Reply::Done { index }), "nothing changes");
    let told = scale(&mut state, ScalingChange { max: Some(1), ..ScalingChange::default() }).unwrap_err();
    assert_eq!(told.to_string(), "scaling: min 2 is above max 1");
    assert_eq!(state.functions[&function].scaling, scaling);
}

fn register_at(state: &mut State, node: u32, level: u32) -> Result<Reply, Rejection> {
    let spec = NodeSpec {
        name: format!("node-{node}"),
        capacity: Resources::default(),
        labels: BTreeMap::new(),
        features: FeatureLevel(level),
    };
    state.apply(at(1), Command::RegisterNode { node: NodeId(node), spec })
}

#[test]
fn the_cluster_reads_what_the_least_of_its_nodes_has_read_and_never_less() {
    let mut state = State::default();
    register_at(&mut state, 1, 1).unwrap();
    assert_eq!(state.features, FeatureLevel(1));

    let mut state = State::default();
    for (node, level) in [(1, 0), (2, 1), (3, 2)] {
        register_at(&mut state, node, level).unwrap();
    }
    assert_eq!(state.features, FeatureLevel(0));
    register_at(&mut state, 2, 0).unwrap();
    register_at(&mut state, 2, 2).unwrap();
    assert_eq!(state.features, FeatureLevel(0), "as long as it has not risen a node goes back and forth");
    // One that is dead comes back to this log.
    state.apply(at(1), Command::DeclareDead { node: NodeId(1), epoch: Epoch(1) }).unwrap();
    assert_eq!(state.features, FeatureLevel(0));
    register_at(&mut state, 1, 1).unwrap();
    assert_eq!(state.features, FeatureLevel(1));

    let before = state.clone();
    for node in [1, 4] {
        let (node_id, level, cluster) = (NodeId(node), FeatureLevel(0), FeatureLevel(1));
        let refused = register_at(&mut state, node, 0);
        assert_eq!(refused, Err(Rejection::NodeTooOld { node: node_id, level, cluster }));
        assert_eq!(state, before);
    }
    let told = register_at(&mut state, 1, 0).unwrap_err().to_string();
    assert_eq!(told, "node-1 reads feature level 0 of the log, the cluster has 1");
}

#[test]
fn whoever_leaves_holds_back_nobody() {
    let mut state = State::default();
    for (node, level) in [(1, 0), (2, 1), (3, 1)] {
        register_at(&mut state, node, level).unwrap();
    }
    assert_eq!(state.features, FeatureLevel(0));
    state.apply(at(1), Command::RemoveNode { node: NodeId(1) }).unwrap();
    assert_eq!(state.features, FeatureLevel(1));
}

#[test]
fn what_some_node_cannot_read_is_refused_and_named() {
    let mut state = State::default();
    let prefer = Command::PreferVoter { node: NodeId(1) };
    let told = state.check_readable(&prefer).unwrap_err().to_string();
    assert_eq!(told, "that needs feature level 1, the cluster has 0", "nobody has registered");
    for (node, level) in [(2, 0), (1, 1), (3, 0)] {
        register_at(&mut state, node, level).unwrap();
    }
    let before = state.clone();
    let refused = Rejection::TooNew { needed: FeatureLevel(1), cluster: FeatureLevel(0), oldest: Some(NodeId(2)) };
    assert_eq!(refused.to_string(), "that needs feature level 1, the cluster has 0: node-2 reads no more than 0");
    assert_eq!(state.check_readable(&prefer), Err(refused.clone()));
    assert_eq!(state.apply(at(2), prefer), Err(refused.clone()), "however it came into the log");
    assert_eq!(label(&mut state, 1, &[("disk", "ssd")], &[]), Err(refused));
    assert_eq!(state, before);
    for node in [2, 3] {
        register_at(&mut state, node, 1).unwrap();
    }
    label(&mut state, 1, &[("disk", "ssd")], &[]).unwrap();
}
