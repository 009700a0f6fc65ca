//! Who belongs to the cluster, tokens that let machines in, nodes on their way out, and what reads promise.

use std::collections::BTreeMap;

use control_plane::model::{Digest, FeatureLevel, NodeId, Timestamp};
use control_plane::state::State;
use serde_json::json;

use super::*;
use crate::auth::JoinToken;

#[tokio::test]
async fn the_members_are_listed_with_their_part() {
    let fixture = Fixture::new().await;
    let cluster = fixture.call("GET", "/v1/cluster", "").await.json();
    assert_eq!(
        (&cluster["leader"], &cluster["term"], &cluster["voters_to_lose"]),
        (&"node-1".into(), &3.into(), &0.into())
    );
    assert_eq!(cluster["certificate_ends_at_ms"], 1_795_521_600_000_u64);
    let expected = json!([{
        "id": "node-1", "name": "alpha", "address": "10.0.0.1:8100", "role": "voter", "status": "ready", "is_leader": true,
        "is_promoted": false,
    }]);
    assert_eq!(cluster["members"], expected);
}

#[tokio::test]
async fn a_token_lets_as_many_machines_in_as_it_says() {
    let fixture = Fixture::new().await;
    let made = fixture.call("POST", "/v1/tokens", r#"{"ttl_ms": 60000, "uses": 1}"#).await.json();
    assert_eq!((&made["uses"], &made["address"]), (&1.into(), &"10.0.0.1:8100".into()));
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    let secret = token.secret().hash();
    let kept = *fixture.fake.state.lock().unwrap().invitations.get(&secret).expect("the cluster knows it");
    assert_eq!(kept.expires_at.as_millis(), made["expires_ms"].as_u64().unwrap());
    let admit = |machine: u8| Command::Admit { secret, request: Digest::from_bytes([machine; 32]) };
    fixture.fake.apply(admit(1)).unwrap();
    fixture.fake.apply(admit(1)).expect("asking again is no second machine");
    assert!(fixture.fake.apply(admit(2)).is_err(), "it was for one");
    let joining = fixture.call("GET", "/v1/cluster", "").await.json()["members"][1].clone();
    assert_eq!(
        (&joining["id"], &joining["role"], &joining["status"]),
        (&"node-2".into(), &"joining".into(), &"joining".into())
    );
    for refused in [r#"{"ttl_ms": 0}"#, r#"{"uses": 0}"#, r#"{"ttl_ms": 31536000001}"#, r#"{"use": 1}"#] {
        assert_eq!(fixture.call("POST", "/v1/tokens", refused).await.status, 400, "{refused}");
    }
}

#[tokio::test]
async fn a_node_is_drained_and_removed_by_its_id_or_its_name() {
    let fixture = Fixture::new().await;
    let drain = |node: &'static str, draining: bool| {
        let fixture = &fixture;
        async move {
            let body = json!({"draining": draining}).to_string();
            fixture.call("PUT", &format!("/v1/nodes/{node}/drain"), body).await.status
        }
    };
    let is_draining = || fixture.fake.state.lock().unwrap().nodes[&NodeId(1)].is_draining;
    assert_eq!(drain("alpha", true).await, 200);
    assert!(is_draining());
    assert_eq!(fixture.call("GET", "/v1/nodes", "").await.json()[0]["status"], "draining");
    assert_eq!(drain("node-1", false).await, 200);
    assert!(!is_draining());
    assert_eq!(drain("beta", true).await, 404);

    let last = fixture.call("DELETE", "/v1/nodes/alpha", "").await.error();
    assert_eq!((last.0, last.1.error.as_str()), (409, "node-1 is the only node of the cluster"));
    let spec = fixture.fake.state.lock().unwrap().nodes[&NodeId(1)].spec.clone();
    fixture.fake.apply(Command::RegisterNode { node: NodeId(2), spec }).unwrap();
    let both = fixture.call("DELETE", "/v1/nodes/alpha", "").await.error();
    assert_eq!((both.0, both.1.hint.as_deref()), (409, Some("use the id of one")));
    assert_eq!(fixture.call("DELETE", "/v1/nodes/node-2", "").await.status, 200);
    assert!(fixture.fake.state.lock().unwrap().removed.contains(&NodeId(2)));
}

#[tokio::test]
async fn a_list_that_lacks_a_living_node_is_refused_or_says_that_it_is_stale() {
    let fixture = Fixture::new().await;
    fixture.fake.silent.lock().unwrap().push(NodeId(3));
    let (status, error) = fixture.call("GET", "/v1/instances", "").await.error();
    assert_eq!((status, error.error.as_str()), (503, "node-3 does not answer: what runs there is not known"));
    assert!(error.hint.unwrap().contains("--stale"));
    let stale = fixture.call("GET", "/v1/instances?stale=1", "").await;
    assert_eq!((stale.status, stale.header("x-hearth-consistency")), (200, Some("stale")));
}

#[tokio::test]
async fn labels_that_operators_set_stand_above_what_the_node_says() {
    let fixture = Fixture::new().await;
    let label = |body: serde_json::Value| {
        let fixture = &fixture;
        async move { fixture.call("PUT", "/v1/nodes/alpha/labels", body.to_string()).await }
    };
    let labels = label(json!({"set": {"disk": "ssd", "zone": "b"}})).await.json();
    let expected = json!({"disk": "ssd", "zone": "b"});
    assert_eq!((&labels["labels"], &labels["labels_set"]), (&expected, &expected));
    assert_eq!(fixture.call("GET", "/v1/nodes", "").await.json()[0]["labels"], expected);
    let labels = label(json!({"unset": ["zone"]})).await.json();
    assert_eq!(labels["labels"], json!({"disk": "ssd", "zone": "a"}), "what the node says holds again");
    let gone = label(json!({"unset": ["zone"]})).await.error();
    assert_eq!((gone.0, gone.1.error.as_str()), (404, "nobody has set label zone on node-1"));
    assert!(gone.1.hint.unwrap().contains("own configuration"));
    let long = "x".repeat(64);
    for refused in [
        json!({"set": {"arch": "arm64"}}),
        json!({"set": {"": "a"}}),
        json!({"set": {"a": long}}),
        json!({"set": {"a": "b"}, "unset": ["a"]}),
        json!({"set": {"a": "\n"}}),
        json!({"labels": {}}),
    ] {
        assert_eq!(label(refused.clone()).await.status, 400, "{refused}");
    }
    assert_eq!(fixture.call("PUT", "/v1/nodes/beta/labels", "{}").await.status, 404);
}

#[tokio::test]
async fn a_node_is_wanted_to_vote_unless_it_cannot() {
    let fixture = Fixture::new().await;
    let promote = |node: &'static str| {
        let fixture = &fixture;
        async move { fixture.call("POST", &format!("/v1/nodes/{node}/promote"), "").await }
    };
    assert_eq!(promote("beta").await.status, 404);
    let mut spec = fixture.fake.state.lock().unwrap().nodes[&NodeId(1)].spec.clone();
    spec.name = "beta".into();
    fixture.fake.apply(Command::RegisterNode { node: NodeId(2), spec: spec.clone() }).unwrap();
    let (status, error) = promote("beta").await.error();
    assert_eq!((status, error.code), (409, ErrorCode::Conflict));
    assert!(error.error.starts_with("a cluster of 2 has one voter"), "{error:?}");
    spec.name = "gamma".into();
    fixture.fake.apply(Command::RegisterNode { node: NodeId(3), spec }).unwrap();
    assert_eq!(promote("gamma").await.status, 200);
    assert_eq!(fixture.call("GET", "/v1/cluster", "").await.json()["members"][2]["is_promoted"], true);
    for _ in 0..2 {
        assert_eq!(promote("alpha").await.status, 200, "one that votes is to go on");
    }
    assert_eq!(fixture.call("GET", "/v1/cluster", "").await.json()["members"][0]["is_promoted"], true);
    fixture.fake.apply(Command::Drain { node: NodeId(2), is_draining: true }).unwrap();
    assert_eq!(promote("beta").await.error().1.error, "node-2 is being emptied");
    let epoch = fixture.fake.state.lock().unwrap().nodes[&NodeId(3)].epoch;
    fixture.fake.apply(Command::DeclareDead { node: NodeId(3), epoch }).unwrap();
    let (status, error) = promote("gamma").await.error();
    assert_eq!((status, error.error.as_str()), (409, "node-3 is dead"));
    assert!(error.hint.is_some());
}

#[tokio::test]
async fn what_an_older_node_cannot_read_is_refused_with_its_name() {
    let fixture = Fixture::new().await;
    fixture.deployed(&[samples::function_spec()]).await;
    let level = || async {
        let (cluster, nodes) =
            (fixture.call("GET", "/v1/cluster", "").await, fixture.call("GET", "/v1/nodes", "").await);
        (cluster.json()["feature_level"].clone(), nodes.json()[0]["feature_level"].clone())
    };
    assert_eq!(level().await, (1.into(), 1.into()));
    {
        let mut state = fixture.fake.state.lock().unwrap();
        let mut spec = state.nodes[&NodeId(1)].spec.clone();
        spec.features = FeatureLevel(0);
        *state = State { features: FeatureLevel(0), nodes: BTreeMap::new(), ..state.clone() };
        state.apply(Timestamp::from_millis(1), Command::RegisterNode { node: NodeId(1), spec }).unwrap();
    }
    assert_eq!(level().await, (0.into(), 0.into()));
    let label = json!({"set": {"disk": "ssd"}}).to_string();
    let (status, error) = fixture.call("PUT", "/v1/nodes/alpha/labels", label).await.error();
    assert_eq!((status, error.code), (409, ErrorCode::Conflict));
    assert_eq!(error.error, "that needs feature level 1, the cluster has 0: node-1 reads no more than 0");
    assert_eq!(error.hint.as_deref(), Some("upgrade node-1, or start it without --feature-level"));

    // What changes is spelled out, so that the node reads it.
    assert_eq!(fixture.call("PUT", "/v1/functions/resize/scale", r#"{"min": 2}"#).await.status, 200);
    let function = fixture.call("GET", "/v1/functions/resize", "").await.json();
    assert_eq!(function["scaling"], json!({"min": 2, "max": 20, "idle_max_ms": 3_600_000}));
    assert_eq!(fixture.call("PUT", "/v1/functions/resize/scale", r#"{"max": 1}"#).await.error().0, 400);
    assert_eq!(fixture.call("PUT", "/v1/functions/none/scale", r#"{"max": 1}"#).await.error().0, 404);
}

#[tokio::test]
async fn leadership_goes_where_it_is_sent() {
    let fixture = Fixture::new().await;
    let there = fixture.call("POST", "/v1/cluster/transfer-leader", r#"{"to": "alpha"}"#).await;
    assert_eq!(there.json()["leader"], "node-1");
    assert_eq!(fixture.call("POST", "/v1/cluster/transfer-leader", r#"{"to": "beta"}"#).await.status, 404);
    assert_eq!(fixture.call("POST", "/v1/cluster/transfer-leader", "{}").await.status, 409);
}

#[tokio::test]
async fn a_read_holds_all_that_was_acknowledged_or_says_that_it_may_not() {
    let fixture = Fixture::new().await;
    for path in ["/v1/apps", "/v1/functions", "/v1/nodes", "/v1/instances"] {
        assert_eq!(fixture.call("GET", path, "").await.header("x-hearth-consistency"), Some("linearizable"), "{path}");
    }
    *fixture.fake.behind.lock().unwrap() = Some("no leader with a quorum");
    let (status, error) = fixture.call("GET", "/v1/nodes", "").await.error();
    assert_eq!((status, error.code), (503, ErrorCode::Unavailable));
    assert!(error.hint.unwrap().contains("stale=1"));
    let stale = fixture.call("GET", "/v1/nodes?stale=1", "").await;
    assert_eq!((stale.status, stale.header("x-hearth-consistency")), (200, Some("stale")));
    let (status, error) = fixture.call("GET", "/v1/instances", "").await.error();
    assert_eq!((status, error.code), (503, ErrorCode::Unavailable));
    assert_eq!(fixture.call("GET", "/v1/instances?stale=1", "").await.json()[0]["id"], "instance-1-4-7");
    // A function may have the name of a path that promises nothing.
    assert_eq!(fixture.call("GET", "/v1/functions/logs", "").await.status, 503);
    // Who is there is told whatever happens: that is when it is asked.
    assert_eq!(fixture.call("GET", "/v1/cluster", "").await.status, 200);
}
