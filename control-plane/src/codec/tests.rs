//! What was written is read back, no bytes make the reader panic, and any sequence of commands leaves a sound state.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Bytes, Concurrency, Constraints, Digest, Ending, Epoch, FeatureLevel, FunctionSpec, HttpTrigger, InstanceFailure,
    InstanceId, MilliCpu, Network, NodeId, NodeSpec, Purpose, Resources, RevisionId, RevisionNumber, RevisionSpec,
    Runtime, Scaling, ScalingChange, Spread, Trigger,
};
use crate::state::{AppliedFunction, Change, Definitions, Grant, NotInvited, PLACE_MAX, Place, violations};

fn resources() -> impl Strategy<Value = Resources> {
    (0..3_u32, 0..3_u64, 0..3_u64, 0..3_u32).prop_map(|(cpu, memory, disk, pids)| Resources {
        cpu: MilliCpu(cpu * 500),
        memory: Bytes::mebi(memory * 64),
        disk: Bytes::mebi(disk),
        pids,
    })
}

fn name() -> impl Strategy<Value = crate::model::FunctionName> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(|name| name.parse().expect("the name is valid"))
}

fn revision_id() -> impl Strategy<Value = RevisionId> {
    (name(), 0..5_u32).prop_map(|(function, number)| RevisionId { function, number: RevisionNumber(number) })
}

fn instance() -> impl Strategy<Value = InstanceId> {
    (0..2_u32, 0..3_u32, 0..6_u32).prop_map(|(origin, epoch, sequence)| InstanceId {
        origin,
        epoch: Epoch(epoch),
        sequence,
    })
}

fn trigger() -> impl Strategy<Value = Trigger> {
    let host = prop::option::of(Just("example.org".to_owned()));
    let path = prop::sample::select(vec!["/", "/a", "/a/*"]);
    let methods = prop::sample::subsequence(crate::model::Method::ALL.to_vec(), 0..3);
    (host, path, methods).prop_map(|(host, path, methods)| {
        Trigger::Http(HttpTrigger { host, path: path.parse().expect("the path is valid"), methods })
    })
}

fn spec() -> impl Strategy<Value = FunctionSpec> {
    let scaling = (0..3_u32, 1..4_u32, 0..5000_u64);
    let parts =
        (name(), 0..5_usize, any::<u8>(), resources(), 1..5_u16, scaling, prop::collection::vec(trigger(), 0..2));
    parts.prop_map(|(name, runtime, image, resources, concurrency, (min, max, idle), triggers)| FunctionSpec {
        name,
        revision: RevisionSpec {
            runtime: Runtime::ALL[runtime],
            image: Digest::from_bytes([image % 3; 32]),
            command: vec!["run".to_owned()],
            handler: (image % 2 == 0).then(|| "app.handler".to_owned()),
            environment: BTreeMap::from([("A".to_owned(), image.to_string())]),
            resources,
            timeout: Duration::from_secs(3),
            concurrency: Concurrency::new(concurrency).expect("it is in range"),
            network: if image % 2 == 0 { Network::None } else { Network::Egress },
            user: Some(1000),
            placement: constraints(image),
        },
        scaling: Scaling::new(min.min(max), max, Duration::from_millis(idle)).expect("min is at most max"),
        triggers,
    })
}

/// Nothing, a spread, or a label that nodes have or lack.
fn constraints(image: u8) -> Constraints {
    let require = |value: &str| BTreeMap::from([("arch".to_owned(), value.to_owned())]);
    let (spread, require) = match image % 4 {
        0 => (Spread::None, require("x86_64")),
        1 => (Spread::Zone, require("aarch64")),
        2 => (Spread::Zone, BTreeMap::new()),
        _ => (Spread::None, BTreeMap::new()),
    };
    Constraints::new(spread, require).expect("the limits are kept")
}

fn label_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["zone", "disk", "arch", ""]).prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(label_name(), prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned), 0..2)
}

fn grant() -> impl Strategy<Value = Grant> {
    let ids = (0..3_u32, 0..3_u32).prop_map(|(node, epoch)| (NodeId(node), Epoch(epoch)));
    (ids, resources()).prop_map(|((node, epoch), resources)| Grant { node, epoch, resources })
}

fn place() -> impl Strategy<Value = Place> {
    let purpose = prop::sample::select(vec![Purpose::Demand, Purpose::Verify, Purpose::Minimum]);
    (revision_id(), (0..3_u32).prop_map(NodeId), purpose).prop_map(|(revision, node, purpose)| Place {
        revision,
        node,
        purpose,
    })
}

fn ending() -> impl Strategy<Value = Ending> {
    prop::sample::select(vec![
        Ending::Stopped,
        Ending::Lost,
        Ending::Failed(InstanceFailure::Sandbox("no disk".to_owned())),
        Ending::Failed(InstanceFailure::Init("no module".to_owned())),
        Ending::Failed(InstanceFailure::InitTimeout),
        Ending::Failed(InstanceFailure::Exited(Some(-9))),
        Ending::Failed(InstanceFailure::Exited(None)),
        Ending::Failed(InstanceFailure::OutOfMemory),
    ])
}

fn command() -> impl Strategy<Value = Command> {
    let app = || prop::sample::select(vec!["one", "two"]).prop_map(|name| name.parse().expect("the name is valid"));
    let node = || (0..3_u32).prop_map(NodeId);
    let epoch = || (0..3_u32).prop_map(Epoch);
    let idle_max = prop::option::of((0..3_u64).prop_map(Duration::from_secs));
    let change = (prop::option::of(0..4_u32), prop::option::of(0..4_u32), idle_max)
        .prop_map(|(min, max, idle_max)| ScalingChange { min, max, idle_max });
    let node_spec =
        (resources(), prop::sample::select(vec![1, 1, 1, 2, 0])).prop_map(|(capacity, features)| NodeSpec {
            name: "node".to_owned(),
            capacity: capacity.plus(&capacity).plus(&capacity),
            labels: BTreeMap::from([("arch".to_owned(), "x86_64".to_owned())]),
            features: FeatureLevel(features),
        });
    prop_oneof![
        3 => (app(), prop::collection::vec(spec(), 0..3), prop::option::of(0..9_u64))
            .prop_map(|(app, functions, check_index)| Command::DeployApp { app, functions, check_index }),
        1 => app().prop_map(|app| Command::DeleteApp { app }),
        1 => name().prop_map(|function| Command::DeleteFunction { function }),
        3 => revision_id().prop_map(|revision| Command::Promote { revision }),
        1 => revision_id().prop_map(|revision| Command::FailRevision { revision, reason: "broken".to_owned() }),
        1 => (name(), change).prop_map(|(function, change)| Command::Scale { function, change }),
        3 => (node(), node_spec).prop_map(|(node, spec)| Command::RegisterNode { node, spec }),
        2 => (0..3_u8, 0..80_u64, prop::option::of(0..3_u32)).prop_map(|(secret, until, uses)| Command::Invite {
            secret: Digest::from_bytes([secret; 32]),
            expires_at: Timestamp::from_millis(until),
            uses,
        }),
        2 => (0..3_u8, 0..9_u8).prop_map(|(secret, request)| Command::Admit {
            secret: Digest::from_bytes([secret; 32]),
            request: Digest::from_bytes([request; 32]),
        }),
        1 => node().prop_map(|node| Command::RemoveNode { node }),
        2 => (node(), epoch()).prop_map(|(node, epoch)| Command::DeclareDead { node, epoch }),
        2 => (node(), labels(), prop::collection::btree_set(label_name(), 0..2))
            .prop_map(|(node, set, unset)| Command::Label { node, set, unset }),
        1 => node().prop_map(|node| Command::PreferVoter { node }),
        1 => (node(), any::<bool>()).prop_map(|(node, is_draining)| Command::Drain { node, is_draining }),
        3 => prop::collection::vec(grant(), 0..4).prop_map(|grants| Command::Grant { grants }),
        3 => place().prop_map(Command::Place),
        2 => prop::collection::vec(place(), 0..6).prop_map(|places| Command::PlaceMany { places }),
        3 => (node(), epoch(), prop::collection::vec((instance(), revision_id()), 0..4))
            .prop_map(|(node, epoch, instances)| Command::Adopt { node, epoch, instances }),
        2 => (node(), epoch(), prop::collection::vec((instance(), ending()), 0..4))
            .prop_map(|(node, epoch, instances)| Command::Release { node, epoch, instances }),
        1 => prop::collection::vec(instance(), 0..4).prop_map(|instances| Command::Unplace { instances }),
        1 => definitions().prop_map(|definitions| Command::Restore(Box::new(definitions))),
    ]
}

/// What some deployments lead to, or nearly: an index may be too low.
fn definitions() -> impl Strategy<Value = Definitions> {
    let app = prop::sample::select(vec!["one", "two"]).prop_map(|name| name.parse().expect("the name is valid"));
    (prop::collection::vec((app, prop::collection::vec(spec(), 0..3)), 0..4), any::<bool>()).prop_map(
        |(deployments, is_early)| {
            let mut state = State::default();
            for (app, functions) in deployments {
                let deploy = Command::DeployApp { app, functions, check_index: None };
                // One that is refused changes nothing.
                let _ = state.apply(Timestamp::from_millis(3), deploy);
            }
            let definitions = state.definitions();
            if is_early { Definitions { index: definitions.index / 2, ..definitions } } else { definitions }
        },
    )
}

fn ends_session(command: &Command) -> bool {
    matches!(command, Command::RegisterNode { .. } | Command::RemoveNode { .. })
}

fn ticket(number: impl Strategy<Value = u64>) -> impl Strategy<Value = Ticket> {
    (0..3_u32, 0..3_u32, number, 0..4_u64).prop_map(|(node, epoch, number, oldest)| Ticket {
        node: NodeId(node),
        epoch: Epoch(epoch),
        number,
        oldest,
    })
}

/// Answers that few sequences of commands lead to.
#[test]
fn rare_answers_read_back_as_they_were_written() {
    let name = |name: &str| name.parse().expect("the name is valid");
    let revision = || RevisionId { function: name("a"), number: RevisionNumber(2) };
    let instance = InstanceId { origin: 1, epoch: Epoch(2), sequence: 3 };
    let functions = [Change::Created, Change::Revised, Change::Adjusted, Change::Unchanged, Change::Deleted]
        .map(|change| AppliedFunction { name: name("a"), revision: None, change });
    for answer in [
        Ok(Reply::Deployed { index: 4, functions: functions.to_vec() }),
        Ok(Reply::Placed { instance }),
        Ok(Reply::Admitted { node: NodeId(7) }),
        Err(Rejection::NotInvited(NotInvited::Unknown)),
        Err(Rejection::NotInvited(NotInvited::Expired)),
        Err(Rejection::NotInvited(NotInvited::UsedUp)),
        Err(Rejection::NodeRemoved(NodeId(2))),
        Err(Rejection::LastNode(NodeId(2))),
        Ok(Reply::PlacedMany { placed: vec![Ok(instance), Err(Rejection::NoNode(NodeId(7)))] }),
        Err(Rejection::NoLabel { node: NodeId(1), key: "arch".to_owned(), value: "arm64".to_owned() }),
        Err(Rejection::RouteTaken { first: name("a"), second: name("b"), claim: "GET /a".to_owned() }),
        Err(Rejection::IndexChanged { app: "one".parse().expect("the name is valid"), expected: 1, actual: 2 }),
        Err(Rejection::RevisionFailed { revision: revision(), reason: "broken".to_owned() }),
        Err(Rejection::NotProved(revision())),
        Err(Rejection::StaleEpoch { node: NodeId(1), actual: Epoch(2), given: Epoch(1) }),
        Err(Rejection::NoRoom { node: NodeId(1), needed: Resources::default(), room: Resources::default() }),
        Err(Rejection::InstanceExists(instance)),
        Err(Rejection::ForeignInstance { node: NodeId(1), instance }),
        Err(Rejection::NoSession { node: NodeId(1), number: 7 }),
        Err(Rejection::NodeDead(NodeId(2))),
        Err(Rejection::NodeDraining(NodeId(2))),
        Err(Rejection::OneVoter { nodes: 2 }),
        Err(Rejection::BadLabel("a label needs a name".to_owned())),
        Err(Rejection::LabelNotSet { node: NodeId(2), key: "disk".to_owned() }),
        Err(Rejection::BadScaling("min 9 is above max 3".to_owned())),
        Err(Rejection::NotFresh),
        Err(Rejection::TooNew { needed: FeatureLevel(2), cluster: FeatureLevel(1), oldest: Some(NodeId(2)) }),
        Err(Rejection::TooNew { needed: FeatureLevel(1), cluster: FeatureLevel(0), oldest: None }),
        Err(Rejection::NodeTooOld { node: NodeId(2), level: FeatureLevel(0), cluster: FeatureLevel(1) }),
        Err(Rejection::Unsound("a has no revision".to_owned())),
        Err(Rejection::Limit { what: "functions".to_owned(), limit: 7 }),
    ] {
        assert_eq!(decode_answer(encode_answer(&answer)), Ok(answer));
    }
}

/// Entries of the log of earlier versions say all about scaling.
#[test]
fn an_older_entry_about_scaling_changes_all_of_it() {
    let scaling = Scaling::new(1, 3, Duration::from_secs(5)).expect("min is at most max");
    let scale = v1::Scale { function: "a".to_owned(), scaling: Some(model::encode_scaling(&scaling)), change: None };
    let older = v1::Command { kind: Some(v1::command::Kind::Scale(scale)) };
    let function = "a".parse().expect("the name is valid");
    assert_eq!(decode_command(older), Ok(Command::Scale { function, change: scaling.into() }));
}

#[test]
fn a_grant_as_older_nodes_wrote_it_is_one_of_one_node() {
    let resources = Resources { pids: 7, ..Resources::default() };
    let grant = v1::Grant { node: 2, epoch: 3, resources: Some(model::encode_resources(&resources)) };
    let older = v1::Command { kind: Some(v1::command::Kind::Grant(grant)) };
    let grants = vec![Grant { node: NodeId(2), epoch: Epoch(3), resources }];
    assert_eq!(decode_command(older), Ok(Command::Grant { grants }));
}

/// What a command that needs no level is written as is what nodes read before there were levels.
#[test]
fn what_needs_no_level_is_written_as_older_nodes_read_it() {
    use v1::command::Kind;
    let resources = Resources { pids: 7, ..Resources::default() };
    let grant = |node| Grant { node: NodeId(node), epoch: Epoch(3), resources };
    let scale = |min, idle_max| Command::Scale {
        function: "a".parse().expect("the name is valid"),
        change: ScalingChange { min: Some(min), max: Some(3), idle_max },
    };
    let idle_max = Some(Duration::from_secs(5));
    for (command, needed) in [
        (Command::Grant { grants: vec![grant(1)] }, 0),
        (Command::Grant { grants: vec![grant(1), grant(2)] }, 1),
        (Command::Grant { grants: Vec::new() }, 1),
        (scale(1, idle_max), 0),
        (scale(1, None), 1),
        // No older node can read limits that contradict each other.
        (scale(9, idle_max), 1),
        (Command::PreferVoter { node: NodeId(1) }, 1),
        (Command::Drain { node: NodeId(1), is_draining: true }, 0),
    ] {
        assert_eq!(command.needs(), FeatureLevel(needed), "{command:?}");
        let is_older = match encode_command(&command).kind.expect("it has a kind") {
            Kind::GrantMany(_) | Kind::Restore(_) | Kind::Label(_) | Kind::PreferVoter(_) => false,
            Kind::Scale(scale) => scale.scaling.is_some() && scale.change.is_none(),
            _ => true,
        };
        assert_eq!(is_older, needed == 0, "{command:?}");
        assert_eq!(decode_command(encode_command(&command)), Ok(command));
    }
}

#[test]
fn a_node_and_a_snapshot_of_older_nodes_have_level_0() {
    let mut state = State::default();
    let spec = NodeSpec {
        name: "a".to_owned(),
        capacity: Resources::default(),
        labels: BTreeMap::new(),
        features: FeatureLevel::NEWEST,
    };
    let command = Command::RegisterNode { node: NodeId(1), spec };
    state.apply(Timestamp::from_millis(1), command.clone()).expect("it registers");
    assert_eq!(state.features, FeatureLevel::NEWEST);

    let older = |spec: v1::NodeSpec| v1::NodeSpec { features: 0, ..spec };
    let mut snapshot = snapshot::encode(&state);
    snapshot.features = 0;
    snapshot.nodes.iter_mut().for_each(|node| node.spec = node.spec.take().map(older));
    let read = snapshot::decode(snapshot).expect("it is sound");
    assert_eq!((read.features, read.nodes[&NodeId(1)].spec.features), (FeatureLevel(0), FeatureLevel(0)));

    let Some(v1::command::Kind::RegisterNode(register)) = encode_command(&command).kind else { panic!("it registers") };
    let register = v1::RegisterNode { spec: register.spec.map(older), ..register };
    let read = decode_command(v1::Command { kind: Some(v1::command::Kind::RegisterNode(register)) });
    assert!(matches!(read, Ok(Command::RegisterNode { spec, .. }) if spec.features == FeatureLevel(0)));
}

#[test]
fn more_places_than_one_command_may_have_are_refused() {
    let revision = RevisionId { function: "a".parse().expect("the name is valid"), number: RevisionNumber(1) };
    let place = Place { revision, node: NodeId(1), purpose: Purpose::Minimum };
    let many = |count| {
        State::default().apply(Timestamp::from_millis(1), Command::PlaceMany { places: vec![place.clone(); count] })
    };
    assert!(matches!(many(PLACE_MAX), Ok(Reply::PlacedMany { placed }) if placed.len() == PLACE_MAX));
    assert!(matches!(many(PLACE_MAX + 1), Err(Rejection::Limit { limit: PLACE_MAX, .. })));
}

proptest! {
    #[test]
    fn a_report_reads_back_as_it_was_written(instance in instance(), revision in revision_id(), ending in ending()) {
        let event = match ending {
            Ending::Failed(failure) => ReportEvent::StartFailed { instance, revision, failure },
            Ending::Stopped | Ending::Lost => ReportEvent::Ready { instance, revision },
        };
        prop_assert_eq!(decode_report(encode_report(&event)), Ok(event));
    }

    #[test]
    fn a_command_reads_back_as_it_was_written(
        command in command(), at in any::<u64>(), ticket in prop::option::of(ticket(any::<u64>())),
    ) {
        let at = Timestamp::from_millis(at);
        prop_assert_eq!(decode_entry(&encode_entry(at, ticket.as_ref(), &command)), Ok((at, ticket, command)));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_entry(&bytes);
        let _ = decode_state(&bytes);
    }

    #[test]
    fn any_commands_leave_a_sound_state_that_reads_back(
        commands in prop::collection::vec((command(), prop::option::of(ticket(0..6_u64))), 0..60),
    ) {
        let mut state = State::default();
        let mut replica = State::default();
        for (at, (command, ticket)) in (0..).zip(commands) {
            let at = Timestamp::from_millis(at);
            let before = state.clone();
            let answer = state.apply_once(at, ticket, command.clone());
            if answer.is_err() {
                let sessions = before.sessions.clone();
                let unchanged = State { sessions, ..state.clone() };
                prop_assert_eq!(&unchanged, &before, "a refused command changed the state");
            }
            prop_assert_eq!(violations(&state), Vec::<String>::new());
            prop_assert_eq!(decode_answer(encode_answer(&answer)), Ok(answer.clone()));
            prop_assert_eq!(replica.apply_once(at, ticket, command.clone()), answer.clone(), "replicas disagree");
            prop_assert_eq!(&state, &replica);
            if let Some(ticket) = ticket.filter(|_| !ends_session(&command)) {
                let known = state.sessions.get(&ticket.node).is_some_and(|session| session.epoch == ticket.epoch);
                prop_assert_eq!(state.apply_once(at, Some(ticket), command), answer.clone(), "it is answered again");
                prop_assert_eq!(&state, &replica, "and applied once");
                prop_assert!(known || answer.is_err());
            }
        }
        let bytes = encode_state(&state);
        let read = decode_state(&bytes);
        prop_assert_eq!(read.as_ref(), Ok(&state));
        prop_assert_eq!(encode_state(&state), bytes, "equal states have equal bytes");
    }
}
