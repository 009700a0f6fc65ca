//! Building, planning, deploying, and waiting until it serves.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use expect_test::expect;
use serde_json::{Value, json};

use super::client::line;
use super::*;

fn deployment(functions: &[json::FunctionSpec], check_index: Option<u64>) -> Vec<u8> {
    serde_json::to_vec(&json::DeployRequest { functions: functions.to_vec(), check_index }).unwrap()
}

fn named(name: &str) -> json::FunctionSpec {
    json::FunctionSpec { name: name.into(), triggers: vec![], ..samples::function_spec() }
}

#[tokio::test]
async fn a_deployment_is_told_until_it_serves() {
    let fixture = Fixture::new().await;
    let response =
        fixture.request("PUT", "/v1/apps/shop", deployment(&[named("resize"), named("mail")], Some(0))).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], json::NDJSON);
    let mut body = response.into_body();
    let accepted = line(&mut body).await;
    assert_eq!((&accepted["event"], &accepted["functions"][0]["change"]), (&"accepted".into(), &"created".into()));
    fixture.fake.promote("mail", 1);
    assert_eq!(line(&mut body).await, json!({"event": "serving", "function": "mail", "revision": 1}));
    fixture.fake.promote("resize", 1);
    assert_eq!(line(&mut body).await, json!({"event": "serving", "function": "resize", "revision": 1}));
    assert_eq!(line(&mut body).await["event"], "done");

    // The same again is served already, and says that nothing changed.
    let again = fixture.call("PUT", "/v1/apps/shop", deployment(&[named("resize"), named("mail")], None)).await.lines();
    assert_eq!((&again[0]["functions"][0]["change"], &again[3]["event"]), (&"unchanged".into(), &"done".into()));
}

#[tokio::test]
async fn a_revision_that_does_not_start_ends_the_stream_with_its_reason() {
    let fixture = Fixture::new().await;
    let mut body = fixture.request("PUT", "/v1/apps/shop", deployment(&[named("resize")], None)).await.into_body();
    line(&mut body).await;
    fixture.fake.fail("resize", 1, "no module named nothing");
    let failed = line(&mut body).await;
    assert_eq!((&failed["event"], &failed["reason"]), (&"failed".into(), &"no module named nothing".into()));
    let last = line(&mut body).await;
    assert_eq!((&last["event"], &last["code"]), (&"error".into(), &"revision_failed".into()));
    let function = fixture.call("GET", "/v1/functions/resize", "").await.json();
    assert_eq!((&function["phase"], &function["live"]), (&"failed".into(), &Value::Null));
}

#[tokio::test]
async fn waiting_has_an_end() {
    let fixture = Fixture::new().await;
    let answer = fixture.call("PUT", "/v1/apps/shop?timeout_ms=1", deployment(&[named("resize")], None)).await;
    let last = answer.lines().pop().unwrap();
    assert_eq!((&last["code"], &last["error"]), (&"timeout".into(), &"resize@1 did not serve in time".into()));
}

#[tokio::test]
async fn a_deployment_that_cannot_be_is_refused_before_anything_changes() {
    let fixture = Fixture::new().await;
    fixture.deployed(&[named("resize")]).await;
    let before = fixture.fake.state.lock().unwrap().clone();
    let put = async |app: &str, body: Vec<u8>| {
        let (status, error) = fixture.call("PUT", &format!("/v1/apps/{app}"), body).await.error();
        format!("{status} {}: {}\n", error.code.as_str(), error.error)
    };
    let edited = |edit: fn(&mut Value)| {
        let mut request = json!({"functions": [named("resize")]});
        edit(&mut request);
        serde_json::to_vec(&request).unwrap()
    };
    let mut told = String::new();
    told += &put("shop", deployment(&[named("resize")], Some(0))).await;
    told += &put("other", deployment(&[named("resize")], None)).await;
    told += &put("Shop", deployment(&[], None)).await;
    told += &put("shop", b"{".to_vec()).await;
    told += &put("shop", edited(|request| request["functions"][0]["revision"]["timeout_ms"] = 0.into())).await;
    told += &put("shop", edited(|request| request["functions"][0]["revision"]["concurrency"] = 1001.into())).await;
    told += &put("shop", edited(|request| request["functions"][0]["scaling"]["min"] = 21.into())).await;
    told += &put("shop", edited(|request| request["functions"][0]["revision"]["image"] = Value::Null)).await;
    told += &put("shop", edited(|request| request["functions"][0]["revision"]["cpus"] = 1.into())).await;
    told += &put("shop", edited(|request| request["functions"][0]["revision"]["environment"]["A=B"] = "".into())).await;
    let mut absent = named("resize");
    absent.revision.image = Some(fake::absent().to_string());
    told += &put("shop", deployment(&[absent], None)).await;
    told += &put("shop", vec![b' '; 5 << 20]).await;
    expect![[r#"
        409 conflict: the index of app shop is 3, not 0
        409 conflict: function resize belongs to app shop
        400 bad_request: "Shop" is no name: lower-case letters, digits and inner hyphens make one, and it starts with a letter
        400 bad_request: the body is not what it must be: EOF while parsing an object at line 1 column 1
        400 bad_request: functions[0].revision.timeout_ms: it is from 1 to 86400000
        400 bad_request: functions[0].revision.concurrency: it is from 1 to 1000
        400 bad_request: functions[0].scaling: min 21 is above max 20
        400 bad_request: functions[0].revision.image: it must be built first
        400 bad_request: there is no field functions[0].revision.cpus
        400 bad_request: functions[0].revision.environment.A=B: a variable has a name without = and zero bytes
        404 not_found: the image sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff of function resize is not here
        413 too_large: the body is over its limit of 4194304 bytes
    "#]].assert_eq(&told);
    assert_eq!(*fixture.fake.state.lock().unwrap(), before);
}

#[tokio::test]
async fn a_plan_tells_what_would_change_and_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.deployed(&[named("resize"), named("mail"), named("same")]).await;
    let before = fixture.fake.state.lock().unwrap().clone();
    let mut resize = named("resize");
    // Code that is not built is not compared.
    resize.revision.image = None;
    resize.revision.resources.memory_bytes = 512 << 20;
    resize.revision.environment = [("DEBUG".to_owned(), "1".to_owned())].into();
    let mut scaled = named("same");
    scaled.scaling.max = 30;
    let request = json::PlanRequest { functions: vec![scaled, resize, named("zip")] };
    let answer = fixture.call("POST", "/v1/apps/shop/plan", serde_json::to_vec(&request).unwrap()).await;
    let plan: json::Plan = serde_json::from_slice(&answer.body).unwrap();
    let mut told = String::new();
    for function in plan.functions {
        told += &format!("{} {:?}\n", function.name, function.change);
        let is_created = function.change == json::Change::Created;
        for field in function.fields.iter().filter(|_| !is_created) {
            told += &format!("  {}: {:?} -> {:?}\n", field.path, field.before, field.after);
        }
    }
    expect![[r#"
        mail Deleted
        resize Revised
          revision.environment.DEBUG: None -> Some("\"1\"")
          revision.environment.LOG: Some("\"info\"") -> None
          revision.resources.memory_bytes: Some("268435456") -> Some("536870912")
        same Adjusted
          scaling.max: Some("20") -> Some("30")
        zip Created
    "#]]
    .assert_eq(&told);
    assert_eq!(*fixture.fake.state.lock().unwrap(), before);
}

#[tokio::test]
async fn a_build_gets_the_upload_and_leaves_nothing_behind() {
    let fixture = Fixture::new().await;
    let header = |runtime: &str| STANDARD.encode(json!({"runtime": runtime, "handler": "app.handler"}).to_string());
    let path = "/v1/apps/shop/functions/resize/build";
    let call = async |header: &str, length: usize| {
        fixture.call_with("POST", path, (json::BUILD_HEADER, header), vec![b't'; length]).await
    };

    let lines = call(&header("python3"), 900).await.lines();
    assert_eq!(lines[0], json!({"event": "output", "text": "collecting"}));
    assert_eq!((&lines[1]["event"], &lines[1]["size_bytes"]), (&"done".into(), &12.into()));
    let lines = call(&header("nodejs"), 1).await.lines();
    assert_eq!((&lines[1]["event"], &lines[1]["code"]), (&"error".into(), &"language_missing".into()));
    {
        let built = fixture.fake.built.lock().unwrap();
        assert_eq!((built[0].1.len(), built[0].0.handler.as_deref()), (900, Some("app.handler")));
    }

    assert_eq!(call(&header("python3"), 1001).await.error().1.code, ErrorCode::TooLarge);
    assert_eq!(call("not base64", 1).await.error().1.code, ErrorCode::BadRequest);
    assert_eq!(call(&STANDARD.encode("{}"), 1).await.error().1.code, ErrorCode::BadRequest);
    assert_eq!(std::fs::read_dir(&*fixture.api.uploads).unwrap().count(), 0);
}
