//! Deploying: what is served, what changes, and what a broken deployment leaves alone.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::{Daemon, Load, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("every_contract_answers", every_contract_answers),
    ("an_edited_handler_answers_within_two_seconds_and_no_call_fails", an_edited_handler_answers_anew),
    ("a_revision_that_does_not_start_never_takes_a_call", a_broken_revision_never_takes_a_call),
    ("deploying_the_same_again_changes_nothing", deploying_the_same_again_changes_nothing),
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read").map(|entry| entry.expect("the entry can be read"))
    {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}

fn every_contract_answers() {
    let daemon = Daemon::agent();
    daemon.apply(&repository().join("tests/functions/contracts"));
    let reply = daemon.post("/function/py/some/path", "a body");
    let answer: serde_json::Value = serde_json::from_str(&reply.body).expect("the answer is JSON");
    assert_eq!(
        (reply.status, &answer["greeting"], &answer["body"]),
        (200, &"hello".into(), &"a body".into()),
        "{reply:?}"
    );

    let reply = daemon.get("/function/py?do=context");
    let context: serde_json::Value = serde_json::from_str(&reply.body).expect("the answer is JSON");
    assert_eq!((&context["function"], &context["version"]), (&"py".into(), &"1".into()), "{reply:?}");
    assert_eq!(context["request_id"].as_str(), reply.header("x-hearth-request-id"), "{reply:?}");

    let reply = daemon.get("/function/node");
    assert!(reply.status == 200 && reply.body.contains("nodejs"), "{reply:?}");

    let reply = daemon.post("/function/web/upload", "twelve bytes");
    assert_eq!((reply.status, reply.body.as_str()), (201, "twelve bytes"));

    let printed = daemon.succeed(&["invoke", "py", "-d", r#"{"queryStringParameters": {"do": "context"}}"#]);
    assert!(printed.contains("\"function\""), "{printed}");
}

fn an_edited_handler_answers_anew() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let app = folder.path().join("hello");
    copy(&repository().join("examples/hello"), &app);
    let daemon = Daemon::dev(&app);
    let handler = app.join("python/app.py");
    let source = fs::read_to_string(&handler).expect("the example has a python handler");

    eventually("the example serves", Duration::from_secs(60), || (daemon.get("/python").status == 200).then_some(()));
    let load = Load::start(&daemon.url("/python"), 20, Duration::from_secs(60));
    eventually("the load runs", Duration::from_secs(20), || (load.ended() > 20).then_some(()));
    fs::write(&handler, source.replace("Hello", "Servus")).expect("the handler can be edited");
    let saved = Instant::now();
    eventually("the edited handler answers", Duration::from_secs(30), || {
        daemon.get("/python").body.contains("Servus").then_some(())
    });
    let took = saved.elapsed();
    let report = load.finish();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert!(took < Duration::from_secs(10), "the edit took {took:?} to serve");
}

fn a_broken_revision_never_takes_a_call() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let app = folder.path().join("flash");
    copy(&repository().join("tests/functions/flash"), &app);
    let daemon = Daemon::agent();
    daemon.apply(&app);
    fs::write(app.join("fn/app.py"), "import nothing_of_this_name\n").expect("the handler can be broken");
    let load = Load::start(&daemon.url("/function/flash"), 10, Duration::from_secs(60));
    let output = daemon.hearth(&["apply", &app.to_string_lossy()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing_of_this_name"), "the reason is told: {said}");
    let report = load.finish();
    assert!(report.succeeded > 0 && report.failed.is_empty(), "{report:?}");
}

fn deploying_the_same_again_changes_nothing() {
    let daemon = Daemon::agent();
    let app = repository().join("tests/functions/flash");
    daemon.apply(&app);
    let printed = daemon.succeed(&["apply", &app.to_string_lossy(), "-o", "json"]);
    assert!(printed.contains("unchanged"), "{printed}");
    let versions = daemon.succeed(&["versions", "flash", "-o", "name"]);
    assert_eq!(versions.lines().count(), 1, "{versions}");
}
