//! The examples run as they stand.

use tests::{Daemon, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("the_shop_sells", the_shop_sells),
    ("clients_of_two_contracts_run_as_they_come_from_their_registry", unmodified_clients_run),
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
}
