//! What operators say about hosts: labels, who votes, and what is told of both.

use std::fs;

use serde_json::Value;
use tests::{Rack, eventually, repository};

use crate::Test;
use crate::cluster::PATIENCE;
use crate::operator::json;

pub(crate) const TESTS: &[Test] =
    &[("an_operator_says_what_a_host_is_and_who_votes", an_operator_says_what_a_host_is_and_who_votes)];

/// Four hosts form a cluster once: that is the slow part.
fn an_operator_says_what_a_host_is_and_who_votes() {
    let mut rack = Rack::new(4);
    rack.found();
    promotes(&rack);
    labels(&mut rack);
    tells(&mut rack);
}

/// Returns the host that does not vote.
fn learner(rack: &Rack) -> usize {
    (1..=4).find(|host| !rack.votes(1, *host)).expect("of four, three vote")
}

fn promotes(rack: &Rack) {
    let (learner, leader) = (learner(rack), rack.until_led(&[1, 2, 3, 4]));
    let name = format!("host-{learner}");
    let voter = (1..=4).find(|host| *host != leader && rack.votes(1, *host)).expect("three vote");
    for _ in 0..2 {
        let member = json(&rack.succeed(1, &["cluster", "promote", &format!("host-{voter}"), "-o", "json"]));
        assert_eq!((&member["role"], &member["is_promoted"]), (&"voter".into(), &true.into()), "{member}");
    }
    assert!(rack.refused(1, &["cluster", "promote", "host-9"]).contains("there is no node host-9"));
    let member = json(&rack.succeed(2, &["cluster", "promote", &name, "-o", "json"]));
    assert_eq!((&member["role"], &member["is_promoted"]), (&"voter".into(), &true.into()), "{member}");
    let both_vote = || (rack.voters(1).len() == 3 && rack.votes(1, learner) && rack.votes(1, voter)).then_some(());
    eventually("room is made by a voter that nobody promoted", PATIENCE, both_vote);
    // It stays so, also when somebody else decides.
    rack.succeed(1, &["cluster", "transfer-leader", "--to", &format!("host-{voter}")]);
    assert_eq!(rack.until_led(&[1, 2, 3, 4]), voter);
    eventually("those that were promoted vote", PATIENCE, both_vote);
}

fn labels(rack: &mut Rack) {
    let app = tempfile::tempdir().expect("a directory can be made");
    let code = repository().join("tests/functions/steady/fn/app.py");
    fs::create_dir(app.path().join("fn")).expect("a directory can be made");
    fs::copy(code, app.path().join("fn/app.py")).expect("the handler can be copied");
    let manifest = "app = \"picky\"\n\n[function.picky]\nruntime = \"python3\"\nsource = \"./fn\"\nhandler = \"app.handler\"\n\
                    memory = \"64Mi\"\n\n[function.picky.scale]\nmin = 2\n\n[function.picky.placement]\n\
                    require = { disk = \"ssd\" }\n";
    fs::write(app.path().join("hearth.toml"), manifest).expect("the manifest can be written");
    rack.succeed(1, &["apply", &app.path().to_string_lossy(), "--detach"]);
    eventually("it is told that it fits nowhere", PATIENCE, || {
        let kinds = |host: usize| events(rack, host, "picky");
        (1..=4).any(|host| kinds(host).contains("lack the label disk=ssd")).then_some(())
    });

    assert!(rack.refused(1, &["node", "label", "host-3", "disk-"]).contains("nobody has set label disk"));
    assert!(rack.refused(1, &["node", "label", "host-3", "arch=other"]).contains("what the machine is"));
    let labels = json(&rack.succeed(1, &["node", "label", "host-3", "disk=ssd", "zone=cellar", "-o", "json"]));
    assert_eq!((&labels["labels"]["zone"], &labels["labels_set"]["disk"]), (&"cellar".into(), &"ssd".into()));
    // Two are wanted, beside the one that proved the function.
    eventually("all instances run where the label is", PATIENCE, || {
        let nodes = running(rack);
        (nodes.len() >= 3).then(|| assert!(nodes.iter().all(|node| *node == labels["id"]), "{nodes:?}"))
    });
    // What an operator has said outlives the agent.
    rack.stop(3);
    rack.start(3, &[]);
    let node = json(&rack.succeed(1, &["describe", "node", "host-3", "-o", "json"]));
    assert_eq!((&node["labels"]["zone"], &node["labels"]["disk"]), (&"cellar".into(), &"ssd".into()), "{node}");
    let labels = json(&rack.succeed(1, &["node", "label", "host-3", "zone-", "-o", "json"]));
    assert_eq!(labels["labels"]["zone"], "zone-3", "what its own configuration says holds again");
}

/// Returns the node of each instance of the function that is ready.
fn running(rack: &Rack) -> Vec<Value> {
    let listed = json(&rack.succeed(1, &["get", "instances", "-o", "json"]));
    let listed = listed.as_array().expect("a list").iter();
    let ready = listed.filter(|one| one["function"] == "picky" && one["phase"] == "ready");
    ready.map(|one| one["node"].clone()).collect()
}

fn events(rack: &Rack, host: usize, name: &str) -> String {
    rack.succeed(host, &["get", "events", name])
}

fn tells(rack: &mut Rack) {
    rack.succeed(1, &["node", "drain", "host-4"]);
    rack.succeed(1, &["node", "undrain", "host-4"]);
    let node = json(&rack.succeed(1, &["describe", "node", "host-4", "-o", "json"]));
    let id = node["id"].as_str().expect("a node has an id");
    let own = json(&rack.succeed(1, &["describe", "node", "host-1", "-o", "json"]))["id"].clone();
    let told = json(&rack.succeed(1, &["get", "events", own.as_str().expect("a node has an id"), "-o", "json"]));
    assert_eq!(json(&rack.succeed(1, &["get", "events", "host-1", "-o", "json"])), told, "by its name too");
    let told = told.as_array().expect("a list");
    assert!(!told.is_empty() && told.iter().all(|event| event["about"] == own), "what it tells of others: {told:?}");
    rack.kill(4);
    // Reads that would lack what a living node runs are refused until it is given up.
    eventually("it is given up", PATIENCE, || {
        let told = rack.succeed(1, &["get", "events", id]);
        told.contains("node_dead").then_some(())
    });
    rack.succeed(1, &["get", "instances"]);
    rack.start(4, &[]);
    let all = eventually("it is back", PATIENCE, || {
        let told = rack.succeed(1, &["get", "events"]);
        told.contains("node_back").then_some(told)
    });
    for kind in
        ["node_joined", "node_drained", "node_undrained", "voter_added", "voter_removed", "leader_changed", "placed"]
    {
        assert!(all.contains(kind), "{kind} is not told:\n{all}");
    }
}
