//! What a caller sees when a function fails, hangs, dies or does not exist.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tests::{Daemon, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("every_failure_reaches_its_caller_as_promised", every_failure_reaches_its_caller_as_promised)];

fn contracts() -> PathBuf {
    repository().join("tests/functions/contracts")
}

/// One daemon serves all of these: deploying three functions is the slow part.
fn every_failure_reaches_its_caller_as_promised() {
    let daemon = Daemon::agent();
    daemon.apply(&contracts());

    let reply = daemon.get("/function/py?do=raise");
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("function")), "{reply:?}");
    let error: serde_json::Value = serde_json::from_str(&reply.body).expect("the error is JSON");
    assert_eq!(
        (error["errorType"].as_str(), error["errorMessage"].as_str()),
        (Some("ValueError"), Some("asked to raise"))
    );
    assert!(reply.header("x-hearth-request-id").is_some(), "every answer carries its request id");

    let reply = daemon.get("/function/node?do=raise");
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("function")), "{reply:?}");
    assert!(reply.body.contains("TypeError"), "{reply:?}");

    let began = Instant::now();
    let reply = daemon.get("/function/py?do=sleep&seconds=60");
    assert_eq!(reply.status, 504, "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "the timeout is three seconds");

    let reply = daemon.get("/function/py?do=exit");
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("instance")), "{reply:?}");
    assert!(reply.body.contains('3'), "the exit code is told: {reply:?}");

    let reply = daemon.get("/function/py?do=memory");
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("instance")), "{reply:?}");
    assert!(reply.body.contains("memory"), "out of memory is told apart from dying: {reply:?}");

    let reply = daemon.get("/function/pyy");
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("pyy"), "the name asked for is told: {reply:?}");

    // Whatever happened before, the next call is served.
    let reply = daemon.get("/function/py");
    assert_eq!(reply.status, 200, "{reply:?}");

    let reply = daemon.get("/function/py?do=status");
    assert_eq!((reply.status, reply.header("x-kind"), reply.body.as_str()), (418, Some("teapot"), "short and stout"));

    let reply = daemon.get("/function/py?do=print");
    let request = reply.header("x-hearth-request-id").expect("every answer carries its request id").to_owned();
    let logged = eventually("the output is in the log", Duration::from_secs(5), || {
        let logged = daemon.succeed(&["logs", "py", "--request", &request]);
        (logged.contains("said on stdout") && logged.contains("said on stderr")).then_some(logged)
    });
    assert_eq!(logged.matches("said on").count(), 2, "only that request's lines: {logged}");
}
