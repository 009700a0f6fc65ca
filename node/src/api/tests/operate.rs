//! Looking, going back, scaling, calling, reading logs; and who may.

use std::os::unix::fs::PermissionsExt;

use control_plane::model::{InstanceId, RevisionNumber};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::super::platform::ProposeError;
use super::client::{PATIENCE, line};
use super::*;
use crate::contract::{LogLine, Stream};
use crate::telemetry::logs::Origin;

fn version(memory_bytes: u64) -> json::FunctionSpec {
    let mut spec = samples::function_spec();
    spec.revision.resources.memory_bytes = memory_bytes;
    spec
}

#[tokio::test]
async fn the_socket_is_open_to_its_owner_and_tcp_to_the_token() {
    let fixture = Fixture::new().await;
    let mode = std::fs::metadata(&fixture.socket).unwrap().permissions().mode() & 0o777;
    assert!(matches!(mode, 0o600 | 0o660), "{mode:o}");
    assert_eq!(fixture.call("GET", "/v1/version", "").await.json()["node"], "node-1");

    let bearer = format!("Bearer {}", fixture.token.as_str());
    assert_eq!(fixture.remote("/v1/version", Some(&bearer)).await.status, 200);
    let missing = fixture.remote("/v1/version", None).await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(
        fixture.remote("/v1/version", Some("Bearer hearth_00")).await.error().1.code,
        ErrorCode::Unauthenticated
    );
    // A path that does not exist tells nothing to strangers either.
    assert_eq!(fixture.remote("/v1/nothing", None).await.status, 401);
    for open in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(fixture.remote(open, None).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_what_it_waits_for() {
    let fixture = Fixture::new().await;
    fixture.fake.unready.lock().unwrap().push("the log is being replayed".into());
    let answer = fixture.call("GET", "/readyz", "").await;
    assert_eq!((answer.status, &answer.json()["reasons"][0]), (503, &"the log is being replayed".into()));
    assert_eq!(fixture.call("GET", "/healthz", "").await.status, 200);
}

#[tokio::test]
async fn what_does_not_exist_is_told_in_one_shape() {
    let fixture = Fixture::new().await;
    fixture.deployed(&[samples::function_spec()]).await;
    let (status, error) = fixture.call("GET", "/v1/functions/resise", "").await.error();
    assert_eq!((status, error.hint.as_deref()), (404, Some("did you mean resize?")));
    assert_eq!(fixture.call("GET", "/v1/apps/none", "").await.error().0, 404);
    assert_eq!(fixture.call("GET", "/v2", "").await.error().1.error, "there is no path /v2");
    assert_eq!(fixture.call("PATCH", "/v1/apps", "").await.error().1.code, ErrorCode::MethodNotAllowed);
    assert_eq!(fixture.call("GET", "/v1/functions/resize/logs?sinse=1", "").await.error().0, 400);
    assert_eq!(fixture.call("GET", "/v1/functions/none/logs", "").await.error().0, 404);
    assert_eq!(fixture.call("DELETE", "/v1/functions/none", "").await.error().0, 404);
    assert_eq!(fixture.call("POST", "/v1/functions/none/rollback", "").await.error().0, 404);
}

#[tokio::test]
async fn a_cluster_that_cannot_decide_says_so() {
    let fixture = Fixture::new().await;
    *fixture.fake.refuse.lock().unwrap() = Some(|| ProposeError::Unavailable("no quorum".into()));
    let answer = fixture.call("DELETE", "/v1/apps/shop", "").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    *fixture.fake.refuse.lock().unwrap() = Some(|| ProposeError::DiskFull);
    assert_eq!(fixture.call("DELETE", "/v1/apps/shop", "").await.error().0, 507);
    *fixture.fake.refuse.lock().unwrap() = Some(|| ProposeError::Timeout);
    assert_eq!(fixture.call("DELETE", "/v1/apps/shop", "").await.error().0, 504);
}

#[tokio::test]
async fn going_back_takes_the_newest_revision_that_ever_served() {
    let fixture = Fixture::new().await;
    for memory in [1 << 20, 2 << 20] {
        fixture.deployed(&[version(memory)]).await;
    }
    let body = json::DeployRequest { functions: vec![version(3 << 20)], check_index: None };
    fixture.call("PUT", "/v1/apps/shop?detach=1", serde_json::to_vec(&body).unwrap()).await;
    fixture.fake.fail("resize", 3, "it exited");
    let versions = fixture.call("GET", "/v1/functions/resize/versions", "").await.json();
    let phases: Vec<&Value> = versions.as_array().unwrap().iter().map(|version| &version["phase"]).collect();
    assert_eq!(phases, ["failed", "live", "retired"]);

    let back = fixture.call("POST", "/v1/functions/resize/rollback", "").await.json();
    assert_eq!(back, json!({"function": "resize", "revision": 1}));
    let (status, error) = fixture.call("POST", "/v1/functions/resize/rollback", "{}").await.error();
    assert_eq!((status, error.code), (409, ErrorCode::Conflict));
    let (status, error) = fixture.call("POST", "/v1/functions/resize/rollback", r#"{"to": 3}"#).await.error();
    assert_eq!((status, error.code), (422, ErrorCode::RevisionFailed));
    assert_eq!(fixture.call("POST", "/v1/functions/resize/rollback", r#"{"to": 2}"#).await.status, 200);
    let function = fixture.call("GET", "/v1/functions/resize", "").await.json();
    assert_eq!(function["live"], 2);
}

#[tokio::test]
async fn scaling_changes_what_is_given_and_keeps_the_rest() {
    let fixture = Fixture::new().await;
    fixture.deployed(&[samples::function_spec()]).await;
    assert_eq!(fixture.call("PUT", "/v1/functions/resize/scale", r#"{"min": 2}"#).await.status, 200);
    let function = fixture.call("GET", "/v1/functions/resize", "").await.json();
    assert_eq!(function["scaling"], json!({"min": 2, "max": 20, "idle_max_ms": 3_600_000}));
    assert_eq!(fixture.call("PUT", "/v1/functions/resize/scale", r#"{"max": 1}"#).await.error().0, 400);
    assert_eq!(fixture.call("PUT", "/v1/functions/resize/scale", r#"{"most": 1}"#).await.error().0, 400);

    assert_eq!(fixture.call("DELETE", "/v1/functions/resize", "").await.status, 200);
    assert_eq!(fixture.call("GET", "/v1/functions", "").await.json(), json!([]));
}

#[tokio::test]
async fn lists_hold_what_there_is() {
    let fixture = Fixture::new().await;
    let mut spec = samples::function_spec();
    spec.revision.image = Some(control_plane::model::Digest::from_bytes([7; 32]).to_string());
    fixture.deployed(&[spec]).await;
    let get = async |path: &str| fixture.call("GET", path, "").await.json();
    assert_eq!(get("/v1/apps").await[0]["functions"], json!(["resize"]));
    assert_eq!(get("/v1/functions").await[0]["phase"], "serving");
    assert_eq!(get("/v1/images").await[0]["used_by"], json!(["resize@1"]));
    assert_eq!(get("/v1/instances").await[0]["id"], "instance-1-4-7");
    let node = &get("/v1/nodes").await[0];
    assert_eq!(
        (&node["name"], &node["is_leader"], &node["capacity"]["cpu_milli"]),
        (&"alpha".into(), &true.into(), &4000.into())
    );
    assert_eq!(node["epoch"], fake::EPOCH.0);
}

#[tokio::test]
async fn a_call_tells_whose_failure_it_was() {
    let fixture = Fixture::new().await;
    let call = async |path: &str, payload: &'static str| {
        fixture.call("POST", &format!("/v1/functions/resize/invoke{path}"), payload).await
    };
    let answer = call("", r#"{"width": 3}"#).await;
    assert_eq!(
        (answer.status, answer.header("x-hearth-error"), &answer.body[..]),
        (200, None, &br#"{"width": 3}"#[..])
    );
    assert_eq!(answer.header("x-hearth-revision"), Some("2"));
    assert_eq!(answer.header("x-hearth-request-id"), Some("0af7651916cd43dd8448eb211c80319c"));
    let raised = call("", "raise").await;
    assert_eq!((raised.status, raised.header("x-hearth-error")), (502, Some("function")));
    assert_eq!(raised.json()["errorType"], "ValueError");
    let died = call("", "die").await;
    assert_eq!((died.status, died.header("x-hearth-error")), (502, Some("instance")));
    let late = call("?timeout_ms=5", "wait").await;
    assert_eq!((late.status, late.header("x-hearth-error")), (504, Some("platform")));
    let large = fixture.call("POST", "/v1/functions/resize/invoke", vec![b' '; 101]).await;
    assert_eq!(large.error().1.code, ErrorCode::TooLarge);
}

#[tokio::test]
async fn logs_are_read_and_then_followed() {
    let fixture = Fixture::new().await;
    let function = "resize".parse().unwrap();
    let origin = Origin { function, revision: RevisionNumber(1), instance: InstanceId::placed(1) };
    let say = |at_ms: u64, request: &str, text: &str| {
        let request_id = Some(Arc::from(request));
        let line =
            LogLine { at_us: at_ms * 1000, stream: Stream::Stderr, request_id, text: text.into(), is_mark: false };
        fixture.api.logs.append(&origin, line);
    };
    say(1, "a", "one");
    say(2, "b", "two");
    say(3, "a", "three");
    let texts = async |parameters: &str| -> Vec<String> {
        let lines = fixture.call("GET", &format!("/v1/functions/resize/logs{parameters}"), "").await.lines();
        lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(texts("").await, ["one", "two", "three"]);
    assert_eq!(texts("?since=2&limit=1").await, ["three"]);
    assert_eq!(texts("?request=a").await, ["one", "three"]);

    let mut body = fixture.request("GET", "/v1/functions/resize/logs?request=a&follow=1&limit=1", "").await.into_body();
    assert_eq!(line(&mut body).await["text"], "three");
    say(4, "b", "four");
    say(5, "a", "five");
    let followed = line(&mut body).await;
    assert_eq!((&followed["text"], &followed["stream"]), (&"five".into(), &"stderr".into()));
    fixture.api.logs.close();
    assert!(tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().is_none(), "the stream ends with the store");
}

#[tokio::test]
async fn stopping_lets_requests_end_and_takes_no_more() {
    let fixture = Fixture::new().await;
    let body = json::DeployRequest { functions: vec![samples::function_spec()], check_index: None };
    let mut stream = fixture.request("PUT", "/v1/apps/shop", serde_json::to_vec(&body).unwrap()).await.into_body();
    line(&mut stream).await;
    let Fixture { server, fake, socket, .. } = fixture;
    let stopping = tokio::spawn(server.stop(PATIENCE));
    let refused = async {
        while tokio::net::UnixStream::connect(&socket).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the socket closes");
    fake.promote("resize", 1);
    assert_eq!(line(&mut stream).await["event"], "serving");
    assert_eq!(line(&mut stream).await["event"], "done");
    tokio::time::timeout(PATIENCE, stopping).await.expect("it stops").unwrap();
}
