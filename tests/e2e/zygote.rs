//! Python functions that are forked from a warmed interpreter: they cannot be told from executed ones, but by being fast.

use std::time::Duration;

use serde_json::Value;
use tests::{Daemon, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("a_forked_function_cannot_be_told_from_an_executed_one", a_forked_function_cannot_be_told_from_an_executed_one)];

fn ask(daemon: &Daemon, function: &str) -> Value {
    let reply = daemon.get(&format!("/function/{function}"));
    assert_eq!(reply.status, 200, "{reply:?}\n{}", daemon.log());
    serde_json::from_str(&reply.body).expect("the answer is JSON")
}

/// Ends an instance by a call to it, so that the next call starts another, and returns what its caller is told.
fn end(daemon: &Daemon, function: &str, how: &str) -> String {
    let reply = daemon.get(&format!("/function/{function}?do={how}"));
    assert_eq!((reply.status, reply.header("x-hearth-error")), (502, Some("instance")), "{reply:?}");
    reply.body
}

/// Returns a process's niceness (proc(5), the seventeenth field after the name of the program).
fn niceness(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let fields = stat.rsplit_once(") ").expect("the name ends in a bracket").1;
    fields.split(' ').nth(16).and_then(|field| field.parse().ok()).expect("a number")
}

/// Returns what a function answers that starts as a fork of a warm interpreter.
fn fork(daemon: &Daemon) -> Value {
    eventually("a start finds the interpreter warm", Duration::from_secs(30), || {
        let answer = ask(daemon, "forked");
        daemon.wait_for_zero_of("forked", Duration::from_secs(5));
        (answer["warm"] == true).then_some(answer)
    })
}

fn a_forked_function_cannot_be_told_from_an_executed_one() {
    let daemon = Daemon::agent();
    daemon.apply(&repository().join("tests/functions/twins"));
    // The first start of such a function is what has the interpreter warmed; every call here is another start.
    let forked = fork(&daemon);
    let executed = ask(&daemon, "executed");
    assert_eq!(executed["warm"], false, "the twin is to be executed: {executed}");
    let mut same = (forked["same"].clone(), executed["same"].clone());
    for answer in [&mut same.0, &mut same.1] {
        // Each has a cgroup of its own.
        answer["cgroups"].take();
    }
    assert_eq!(same.0, same.1);
    for (attempt, outcome) in forked["same"]["refusals"].as_object().expect("an object") {
        assert_ne!(outcome, "went through", "{attempt}");
    }
    assert_eq!(forked["same"]["status"]["Seccomp"][0], "2");
    // The node goes before what it runs, and what it runs with all others.
    assert_eq!((niceness(daemon.pid()), &forked["same"]["niceness"]), (-10, &Value::from(0)));

    // Of its namespaces it shares none with a sibling but the two of time, which nobody makes.
    let names = |answer: &Value| -> Vec<String> {
        let names = answer["namespaces"].as_array().expect("a list").iter();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let host: Vec<String> = std::fs::read_dir("/proc/self/ns")
        .expect("a process has namespaces")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .collect();
    let foreign = [names(&executed), host].concat();
    let shared: Vec<String> = names(&forked).into_iter().filter(|name| foreign.contains(name)).collect();
    assert!(shared.iter().all(|name| name.starts_with("time")), "{shared:?}");

    // Nothing that must be unpredictable is what a sibling of the same fork has.
    let sibling = fork(&daemon);
    for secret in ["random", "secret", "uuid"] {
        assert_ne!(forked["own"][secret], sibling["own"][secret], "{secret}");
    }
    let (told, expected) = (end(&daemon, "forked", "exit"), end(&daemon, "executed", "exit"));
    assert!(told.contains("code 7") && expected.contains("code 7"), "{told} {expected}");
    let told = end(&daemon, "forked", "kill");
    assert!(told.contains("signal 9"), "{told}");
}
