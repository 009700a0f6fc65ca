//! A cluster of mixed versions: what an older node cannot read waits for it, and goes on once it is upgraded.

use tests::{Rack, eventually, repository};

use crate::Test;
use crate::cluster::{PATIENCE, until_serving};
use crate::operator::json;

pub(crate) const TESTS: &[Test] =
    &[("an_older_node_holds_back_what_it_cannot_read", an_older_node_holds_back_what_it_cannot_read)];

/// How a node says that it is older than it is.
const OLDER: [&str; 2] = ["--feature-level", "0"];

/// Three hosts form a cluster once, the first of them as an older version; a fourth wants to join.
fn an_older_node_holds_back_what_it_cannot_read() {
    let mut rack = Rack::new(4);
    rack.found_with(&OLDER, 3);
    let token = rack.token();

    holds_back(&rack);
    serves(&rack);
    rises(&mut rack);
    stays(&mut rack, &token);
}

fn label(host: &str) -> [&str; 4] {
    ["node", "label", host, "disk=ssd"]
}

fn level(rack: &Rack, host: usize, name: &str) -> u64 {
    let node = json(&rack.succeed(host, &["describe", "node", name, "-o", "json"]));
    node["feature_level"].as_u64().unwrap_or_else(|| panic!("{node}"))
}

/// Whoever is asked, and whoever leads, names the node that must be upgraded.
fn holds_back(rack: &Rack) {
    assert_eq!((level(rack, 2, "host-1"), level(rack, 1, "host-2")), (0, 1));
    let status = rack.succeed(3, &["cluster", "status"]);
    assert!(status.lines().any(|line| line.contains("feature level") && line.ends_with('0')), "{status}");
    for leader in [1, 2] {
        if rack.until_led(&[1, 2, 3]) != leader {
            rack.succeed(3, &["cluster", "transfer-leader", "--to", &format!("host-{leader}")]);
            assert_eq!(rack.until_led(&[1, 2, 3]), leader);
        }
        for host in 1..=3 {
            let told = rack.refused(host, &label("host-2"));
            assert!(told.contains("needs feature level 1, the cluster has 0: node-1 reads no more"), "{told}");
            assert!(told.contains("hint: upgrade node-1"), "{told}");
        }
    }
}

/// What older nodes read goes on.
fn serves(rack: &Rack) {
    rack.succeed(2, &["apply", &repository().join("tests/functions/steady").to_string_lossy()]);
    (1..=3).for_each(|host| until_serving(rack, host));
    rack.succeed(3, &["scale", "steady", "--min", "2"]);
    let function = json(&rack.succeed(1, &["describe", "function", "steady", "-o", "json"]));
    assert_eq!((&function["scaling"]["min"], &function["scaling"]["idle_max_ms"]), (&2.into(), &3_600_000.into()));
    eventually("two are kept", PATIENCE, || {
        let listed = json(&rack.succeed(1, &["get", "instances", "-o", "json"]));
        let kept = listed.as_array().expect("a list").iter();
        (kept.filter(|one| one["purpose"] == "minimum" && one["phase"] == "ready").count() == 2).then_some(())
    });
}

fn rises(rack: &mut Rack) {
    rack.stop(1);
    rack.start(1, &[]);
    assert_eq!(rack.cluster(1)["feature_level"], 1);
    rack.succeed(2, &label("host-2"));
}

/// The log may hold what an older version cannot read: none comes back, and none comes new.
fn stays(rack: &mut Rack, token: &str) {
    rack.stop(1);
    rack.launch(1, &OLDER);
    assert_eq!(rack.until_ended(1), Some(1));
    let log = rack.log(1);
    assert!(log.contains("node-1 reads feature level 0 of the log, the cluster has 1"), "{log}");
    assert!(log.contains("hint: start a version that reads feature level 1"), "{log}");

    let contact = format!("{}:8100", rack.address(2));
    rack.launch(4, &[&["--join", &contact, "--token", token], &OLDER[..]].concat());
    assert_eq!(rack.until_ended(4), Some(1));
    let log = rack.log(4);
    assert!(log.contains("the machine reads feature level 0 of the log, the cluster has 1"), "{log}");
    assert_eq!(rack.cluster(2)["members"].as_array().map(Vec::len), Some(3), "it left nothing behind");

    rack.launch(4, &["--feature-level", "99"]);
    assert_eq!(rack.until_ended(4), Some(2));
    assert!(rack.log(4).contains("feature-level is 99, this version reads at most 1"), "{}", rack.log(4));
    rack.start(1, &[]);
}
