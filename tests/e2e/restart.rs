//! A daemon that dies or is asked to stop, under load.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use tests::{Daemon, Load, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a_killed_daemon_comes_back_to_its_instances", a_killed_daemon_comes_back_to_its_instances),
    ("sigterm_finishes_the_calls_in_flight_first", sigterm_finishes_the_calls_in_flight_first),
    ("two_daemons_never_share_a_data_directory", two_daemons_never_share_a_data_directory),
];

fn contracts() -> std::path::PathBuf {
    repository().join("tests/functions/contracts")
}

fn ids(daemon: &Daemon) -> BTreeSet<String> {
    daemon.instances().iter().map(|instance| instance["id"].to_string()).collect()
}

fn a_killed_daemon_comes_back_to_its_instances() {
    let mut daemon = Daemon::agent();
    daemon.apply(&contracts());
    let before = ids(&daemon);

    let load = Load::start(&daemon.url("/function/py"), 20, Duration::from_secs(60));
    eventually("the load runs", Duration::from_secs(20), || (load.ended() > 20).then_some(()));
    daemon.kill();
    daemon.start();
    let reached = load.ended();
    eventually("calls go on", Duration::from_secs(20), || (load.ended() > reached + 40).then_some(()));
    let report = load.finish();
    assert!(report.succeeded > 40, "{report:?}");

    // What was deployed is there without being deployed again, and what ran was adopted, not replaced. Others may have started
    // beside it, where the machine is slow and the load asked for more.
    let after = ids(&daemon);
    assert!(before.is_subset(&after), "{before:?} are not all among {after:?}");
    for function in ["py", "node", "web"] {
        let reply = daemon.get(&format!("/function/{function}"));
        assert_eq!(reply.status, 200, "{function}: {reply:?}");
    }
    let printed = daemon.succeed(&["get", "functions", "-o", "name"]);
    assert_eq!(printed.lines().count(), 3, "{printed}");
}

fn sigterm_finishes_the_calls_in_flight_first() {
    let mut daemon = Daemon::agent();
    daemon.apply(&contracts());
    assert_eq!(daemon.get("/function/py").status, 200);
    let url = daemon.url("/function/py?do=sleep&seconds=2");
    let in_flight = thread::spawn(move || ureq::get(&url).call().map(|reply| reply.status().as_u16()));
    eventually("the call is in flight", Duration::from_secs(5), || {
        daemon.succeed(&["logs", "py"]).contains("falls asleep").then_some(())
    });
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert_eq!(in_flight.join().expect("the caller does not panic").expect("the call is answered"), 200);
    daemon.start();
}

fn two_daemons_never_share_a_data_directory() {
    let daemon = Daemon::agent();
    let second = daemon.hearth(&["agent", "--gateway-port", "0", "--api-port", "0"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&daemon.pid().to_string()) && said.contains("hint:"), "{said}");
}
