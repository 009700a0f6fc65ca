//! The examples run as they stand.

use tests::{Daemon, example, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("the_shop_sells", the_shop_sells),
    ("clients_and_packages_run_as_they_come_from_their_registries", unmodified_clients_run),
    ("a_rust_function_runs_with_its_usual_runtime", a_rust_function_runs),
    ("an_unmodified_web_framework_with_its_dependency_serves", a_web_framework_serves),
];

fn the_shop_sells() {
    let daemon = Daemon::agent();
    daemon.apply(&repository().join("examples/shop"));
    let reply = daemon.get("/catalog");
    assert!(reply.status == 200 && reply.body.contains("lamp"), "{reply:?}");
    let reply = daemon.get("/cart/lamp,chair");
    assert!(reply.status == 200 && reply.body.contains("105"), "{reply:?}");
    let reply = daemon.post("/checkout", r#"{"names": ["lamp"]}"#);
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(daemon.get("/checkout").status, 405, "only POST is routed");
}

fn a_web_framework_serves() {
    let daemon = Daemon::agent();
    daemon.apply(&repository().join("examples/web"));
    let reply = daemon.get("/web/some/path");
    assert!(reply.status == 200 && reply.body.contains("/web/some/path"), "{reply:?}");
}

fn unmodified_clients_run() {
    let daemon = Daemon::agent();
    daemon.apply(&repository().join("tests/functions/unmodified"));
    let reply = daemon.get("/function/ric/x");
    assert!(reply.status == 200 && reply.body.contains("\"ric\""), "awslambdaric: {reply:?}");
    let reply = daemon.get("/function/ric?raise");
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("function")), "{reply:?}");
    let reply = daemon.get("/function/framework?name=you");
    assert_eq!((reply.status, reply.body.as_str()), (200, "Hello you\n"), "functions-framework");
    let reply = daemon.get("/function/even?number=4");
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"even":true}"#), "a package of npm");
}

fn a_rust_function_runs() {
    let app = tempfile::tempdir().expect("a directory can be made");
    std::fs::create_dir(app.path().join("fn")).expect("a folder can be made");
    std::fs::copy(example("rust_lambda"), app.path().join("fn/bootstrap")).expect("the example can be copied");
    let manifest = "app = \"rust\"\n[function.crate]\nruntime = \"provided\"\nsource = \"./fn\"\n";
    std::fs::write(app.path().join("hearth.toml"), manifest).expect("the manifest can be written");
    let daemon = Daemon::agent();
    daemon.apply(app.path());
    let reply = daemon.get("/function/crate?name=ferris");
    assert_eq!(reply.status, 200, "{reply:?}");
    let answer: serde_json::Value = serde_json::from_str(&reply.body).expect("the answer is JSON");
    assert_eq!(answer["name"], "ferris", "{reply:?}");
    assert_eq!(answer["request"].as_str(), reply.header("x-hearth-request-id"), "{reply:?}");
    let reply = daemon.get("/function/crate?do=fail");
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("function")), "{reply:?}");
    assert!(reply.body.contains("asked to fail"), "{reply:?}");
}
