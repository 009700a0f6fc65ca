//! What an operator sees and does: the command line and the API against real daemons.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::{Daemon, binary, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("an_operator_sees_what_runs_and_changes_it", an_operator_sees_what_runs_and_changes_it),
    ("a_full_disk_refuses_changes_and_serves_on", a_full_disk_refuses_changes_and_serves_on),
];

/// How long something may take that takes moments.
pub(crate) const SOON: Duration = Duration::from_secs(20);

fn contracts() -> PathBuf {
    repository().join("tests/functions/contracts")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command against a daemon and expects this exit code and these words on standard error.
pub(crate) fn refused(daemon: &Daemon, arguments: &[&str], code: i32, words: &[&str]) {
    expect(&daemon.hearth(arguments), arguments, code, words);
}

pub(crate) fn expect(output: &Output, arguments: &[&str], code: i32, words: &[&str]) {
    let told = said(output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    for word in words {
        assert!(told.contains(word), "{arguments:?} does not say {word:?}: {told}");
    }
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// An app of one function in Python, in a folder of its own.
pub(crate) fn small_app(answer: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let manifest =
        "app = \"small\"\n\n[function.small]\nruntime = \"python3\"\nsource = \"./src\"\nhandler = \"app.handler\"\n";
    fs::write(folder.path().join("hearth.toml"), manifest).expect("the manifest can be written");
    fs::create_dir(folder.path().join("src")).expect("a directory can be made");
    write_handler(folder.path(), answer);
    folder
}

pub(crate) fn write_handler(app: &Path, answer: &str) {
    let code = format!(
        "import os\ndef handler(event, context):\n    if event.get(\"exit\"):\n        os._exit(3)\n    return {answer:?}\n"
    );
    fs::write(app.join("src/app.py"), code).expect("the handler can be written");
}

/// One daemon for the whole story: starting one and capturing its languages is the slow part.
fn an_operator_sees_what_runs_and_changes_it() {
    let mut daemon = Daemon::agent();
    daemon.apply(&contracts());
    looks(&daemon);
    calls(&daemon);
    changes(&daemon);
    asks_over_http(&daemon);
    restarts(&mut daemon);
}

fn looks(daemon: &Daemon) {
    for (kind, name) in [("apps", "contracts"), ("functions", "py"), ("versions", "py@1"), ("nodes", "")] {
        let singular = kind.trim_end_matches('s');
        let names = daemon.succeed(&["get", singular, "-o", "name"]);
        assert!(names.lines().any(|line| line.contains(name)), "{kind}: {names}");
        assert_eq!(names, daemon.succeed(&["get", kind, "-o", "name"]), "singular and plural are one");
        let items = json(&daemon.succeed(&["get", kind, "-o", "json"]));
        let count = items.as_array().expect("a list").len();
        assert_eq!(daemon.succeed(&["get", kind, "-o", "jsonl"]).lines().count(), count, "{kind}");
        assert!(daemon.succeed(&["get", kind, "-o", "yaml"]).starts_with("- "), "{kind}");
        assert_eq!(daemon.succeed(&["get", kind]).lines().count(), count + 1, "{kind}: a heading and a line for each");
    }
    let described = daemon.succeed(&["describe", "function", "py"]);
    for part in ["/function/py", "GREETING", "96Mi", "py@1", "sha256:", "running:", "became live"] {
        assert!(described.contains(part), "{part:?} is not in:\n{described}");
    }
    assert!(!described.contains("hello"), "values of variables are not shown:\n{described}");
    let node = json(&daemon.succeed(&["describe", "node", "-o", "json"]));
    for field in ["capacity", "held", "grant"] {
        assert!(node[field]["memory_bytes"].is_u64(), "{field}: {node}");
    }
    assert_eq!(node["pid"], daemon.pid());

    // A call in flight is counted, and so is the memory of its instance.
    let url = daemon.url("/function/py?do=sleep&seconds=2");
    let call = thread::spawn(move || ureq::get(&url).call().map(|reply| reply.status().as_u16()));
    let busy = eventually("the call is in flight", SOON, || {
        let busy = |instance: &Value| instance["function"] == "py" && instance["in_flight"] == 1;
        daemon.instances().into_iter().find(busy)
    });
    assert!(busy["memory_bytes"].as_u64().is_some_and(|bytes| (1 << 20..96 << 20).contains(&bytes)), "{busy}");
    assert_eq!(call.join().expect("the caller does not panic").expect("it is answered"), 200);
    quiet(daemon);

    refused(daemon, &["get", "function", "pyy"], 3, &["there is no function pyy", "hint: did you mean py?"]);
    refused(daemon, &["describe", "node", "nowhere"], 3, &["hint: `hearth get nodes`"]);
    refused(daemon, &["versions", "nothing"], 3, &["hint:"]);
    refused(daemon, &["logs", "nothing"], 3, &["hint:"]);

    // Whoever reads only the first line ends a command that would follow for ever, without a word.
    let mut follow = command(daemon, &["logs", "-f", "py"]);
    let mut first = [0];
    follow.stdout.take().expect("it is piped").read_exact(&mut first).expect("there is a line");
    daemon.get("/function/py?do=print");
    let status = eventually("it ends by itself", SOON, || {
        // A pipe without a reader is noticed with the next line.
        daemon.get("/function/py?do=print");
        follow.try_wait().expect("it can be waited for")
    });
    let mut told = String::new();
    follow.stderr.take().expect("it is piped").read_to_string(&mut told).expect("it can be read");
    assert_eq!((status.code(), told.as_str()), (Some(0), ""));
}

/// Waits until no call is in flight.
fn quiet(daemon: &Daemon) {
    eventually("nothing is in flight", SOON, || {
        daemon.instances().iter().all(|instance| instance["in_flight"] == 0).then_some(())
    });
}

fn command(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data-dir").arg(daemon.data_dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("hearth can be executed")
}

fn calls(daemon: &Daemon) {
    let answer = json(&daemon.succeed(&["invoke", "py", "-d", "{\"body\": 7}"]));
    assert_eq!((&answer["greeting"], &answer["body"]), (&"hello".into(), &7.into()));
    daemon.succeed(&["invoke", "py", "--version", "1"]);
    refused(daemon, &["invoke", "py", "--version", "9"], 3, &["error:"]);
    refused(daemon, &["invoke", "py", "-d", "{"], 2, &["the event is no JSON", "hint:"]);
    refused(daemon, &["invoke", "pyy"], 3, &["hint: did you mean py?"]);
    let raising = ["invoke", "py", "-d", "{\"queryStringParameters\": {\"do\": \"raise\"}}"];
    let raised = daemon.hearth(&raising);
    expect(&raised, &raising, 8, &["py raised ValueError: asked to raise", "hint: `hearth logs py`"]);
    assert_eq!(json(&printed(&raised))["errorType"], "ValueError");
}

fn changes(daemon: &Daemon) {
    let app = small_app("one");
    let path = app.path().to_string_lossy().into_owned();
    let plan_file = app.path().join("plan");
    let plan_path = plan_file.to_string_lossy().into_owned();
    refused(daemon, &["plan", &path, "--exit-code"], 10, &[]);
    let plan = daemon.succeed(&["plan", &path, "-o", "json"]);
    assert_eq!((&json(&plan)["index"], &json(&plan)["functions"][0]["change"]), (&0.into(), &"created".into()));
    fs::write(&plan_file, &plan).expect("the plan can be written");

    // Another handler is another plan: what was not planned is not deployed.
    write_handler(app.path(), "two");
    refused(daemon, &["apply", &path, "--plan", &plan_path], 4, &["not what was planned", "hint: `hearth plan`"]);
    refused(daemon, &["get", "function", "small"], 3, &[]);
    write_handler(app.path(), "one");
    daemon.succeed(&["apply", &path, "--plan", &plan_path]);
    refused(daemon, &["apply", &path, "--plan", &plan_path], 4, &["hint:"]);
    assert_eq!(printed(&daemon.hearth(&["plan", &path, "--exit-code"])), "unchanged small\n");
    refused(daemon, &["apply", &path, "--check-index", "1"], 4, &["the index of app small", "hint:"]);

    // Code alone is a change too.
    write_handler(app.path(), "two");
    let told = daemon.hearth(&["plan", &path, "--exit-code"]);
    assert_eq!(told.status.code(), Some(10), "{}", said(&told));
    assert!(printed(&told).contains("revision.image"), "{}", printed(&told));
    daemon.succeed(&["apply", &path, "--detach"]);
    eventually("the second revision is live", SOON, || {
        (json(&daemon.succeed(&["describe", "function", "small", "-o", "json"]))["live"] == 2).then_some(())
    });
    let rolled = daemon.hearth(&["rollback", "small"]);
    expect(&rolled, &["rollback"], 0, &["small@1 is live"]);
    assert_eq!(daemon.get("/function/small").body, "one");
    refused(daemon, &["rollback", "small", "--to", "9"], 3, &["hint: `hearth versions small`"]);
    daemon.succeed(&["scale", "small", "--max", "3"]);
    refused(daemon, &["scale", "small"], 2, &["--min"]);
    refused(daemon, &["scale", "small", "--min", "9"], 2, &["min 9 is above max 3"]);
    let events = daemon.succeed(&["get", "events", "small"]);
    for part in ["promoted", "small@1 became live", "scaled", "instance_ready"] {
        assert!(events.contains(part), "{part:?} is not in:\n{events}");
    }

    // A revision that does not start is told with its reason, and what served before serves on.
    fs::write(app.path().join("src/app.py"), "raise OSError('no such thing')\n").expect("the handler can be written");
    refused(daemon, &["apply", &path], 1, &["small@3 does not start", "no such thing", "hint: what served before"]);
    assert_eq!(daemon.get("/function/small").body, "one");
    assert!(daemon.succeed(&["describe", "function", "small"]).contains("no such thing"));
    fs::remove_file(app.path().join("src/app.py")).expect("the handler can be deleted");
    refused(daemon, &["apply", &path], 2, &["hearth.toml:6:11", "there is no module app", "^"]);
    fs::remove_dir(app.path().join("src")).expect("the source can be deleted");
    refused(daemon, &["apply", &path], 2, &["hearth.toml:5:10", "hint: the source is a path"]);
    daemon.succeed(&["delete", "--app", "small"]);
    refused(daemon, &["delete", "small"], 3, &["hint:"]);
}

fn asks_over_http(daemon: &Daemon) {
    let token = fs::read_to_string(daemon.data_dir().join("token")).expect("the token can be read");
    let token = Some(token.trim());
    let code = |method: &str, path: &str, token: Option<&str>, body: &str| {
        let reply = daemon.operate(method, path, token, body.as_bytes());
        (reply.status, json(&reply.body)["code"].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(code("GET", "/v1/functions", None, ""), (401, "unauthenticated".into()));
    assert_eq!(code("GET", "/v1/functions", Some("hearth_00"), ""), (401, "unauthenticated".into()));
    assert_eq!(daemon.operate("GET", "/v1/functions", token, b"").status, 200);
    assert_eq!(code("GET", "/v1/nothing", token, ""), (404, "not_found".into()));
    assert_eq!(code("POST", "/v1/functions", token, ""), (405, "method_not_allowed".into()));
    assert_eq!(code("PUT", "/v1/functions/py/scale", token, &" ".repeat(1 << 17)), (413, "too_large".into()));
    let reply = daemon.operate("PUT", "/v1/functions/py/scale", token, b"{\n \"min\": }");
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("line 2 column 9"), "the place is told: {reply:?}");

    // What machines ask needs no token.
    let metrics = daemon.operator("/metrics");
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    for line in ["# TYPE hearth_invocations_total counter", "hearth_queue_length_invocations{function=\"py\"} 0"] {
        assert!(metrics.body.contains(line), "{line:?} is not in:\n{}", metrics.body);
    }
    assert_eq!((daemon.operator("/healthz").status, daemon.operator("/readyz").status), (200, 200));
}

fn restarts(daemon: &mut Daemon) {
    let process = json(&daemon.get("/function/py").body)["pid"].clone();
    quiet(daemon);
    let url = daemon.url("/function/py?do=sleep&seconds=2.5");
    let call = thread::spawn(move || ureq::get(&url).call().map(|reply| reply.status().as_u16()));
    eventually("the call is in flight", SOON, || {
        let busy = |instance: &Value| instance["function"] == "py" && instance["in_flight"] == 1;
        daemon.instances().iter().any(busy).then_some(())
    });
    daemon.signal("TERM");
    let told = eventually("the node is not ready while it stops", SOON, || {
        let reply = daemon.operator("/readyz");
        (reply.status == 503).then_some(reply.body)
    });
    assert!(told.contains("the node is stopping"), "{told}");
    assert_eq!(daemon.wait(), Some(0), "{}", daemon.log());
    assert_eq!(call.join().expect("the caller does not panic").expect("it is answered"), 200);
    refused(daemon, &["get", "nodes"], 7, &["no node answers", "hint:"]);

    // Instances outlive an agent that is asked to stop, as they outlive one that is killed.
    daemon.start();
    assert_eq!(json(&daemon.get("/function/py").body)["pid"], process);
}

fn a_full_disk_refuses_changes_and_serves_on() {
    let daemon = Daemon::agent_on_disk(400);
    let app = small_app("before");
    let path = app.path().to_string_lossy().into_owned();
    daemon.apply(app.path());
    assert_eq!(daemon.get("/function/small").body, "before");
    daemon.disk().fill();
    write_handler(app.path(), "after");
    refused(&daemon, &["apply", &path], 1, &["nothing was deployed", "has no room", "hint: make room"]);
    refused(&daemon, &["scale", "small", "--min", "1"], 1, &["is full", "hint: make room"]);
    assert_eq!(daemon.get("/function/small").body, "before");

    // An instance that dies meanwhile is replaced: neither its sandbox nor the log needs room that is not there already.
    let dying = ["invoke", "small", "-d", "{\"exit\": true}"];
    expect(&daemon.hearth(&dying), &dying, 8, &[]);
    assert_eq!(daemon.get("/function/small").body, "before");
    assert_eq!(daemon.operator("/readyz").status, 200);

    let pid = daemon.pid();
    daemon.disk().empty();
    daemon.apply(app.path());
    assert_eq!(daemon.get("/function/small").body, "after");
    assert_eq!(pid, daemon.pid(), "nobody started it again");
}
