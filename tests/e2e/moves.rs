//! Certificates that end under load, hosts that come back after theirs has, and hosts that come back at another address.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use tests::{Rack, eventually};

use crate::Test;
use crate::cluster::{Life, PATIENCE, instances, others, platform_on, until_serving};

pub(crate) const TESTS: &[Test] = &[
    ("certificates_end_and_whoever_belongs_goes_on", certificates_end_and_whoever_belongs_goes_on),
    (
        "a_host_that_comes_back_at_another_address_is_found_again",
        a_host_that_comes_back_at_another_address_is_found_again,
    ),
];

/// How long certificates are good for where they are to end soon.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(15);

/// The hosts of a rack on which one does not vote.
const FOUR: [usize; 4] = [1, 2, 3, 4];

/// Four hosts form a cluster once: that is the slow part.
fn certificates_end_and_whoever_belongs_goes_on() {
    let life = format!("{}s", CERTIFICATE_LIFE.as_secs());
    let mut rack = platform_on(Rack::new(4).with_environment("HEARTH_PEERS_CERTIFICATE_LIFE", &life));
    until_serving(&rack, 4);
    renews(&rack);
    comes_back(&mut rack);
    removes(&mut rack);
}

/// Returns when the certificate of a host ends; none while it does not answer.
fn certificate_end(rack: &Rack, host: usize) -> Option<SystemTime> {
    let reply = rack.operate(host, "GET", "/v1/cluster", b"").ok()?;
    let cluster: serde_json::Value = serde_json::from_str(&reply.body).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(cluster["certificate_ends_at_ms"].as_u64()?))
}

fn votes(rack: &Rack, asked: usize, host: usize) -> bool {
    rack.voters(asked).contains(&format!("{}:8100", rack.address(host)))
}

/// Returns how often hosts have given another one a certificate in the place of one that had ended.
fn returned(rack: &Rack, hosts: &[usize]) -> usize {
    let told = hosts.iter().map(|host| rack.log(*host).matches("a node came back whose certificate had ended").count());
    told.sum()
}

/// Waits until the certificates that some hosts have are good no more.
fn until_over(ends: &[SystemTime]) {
    eventually("the certificates have ended", PATIENCE, || {
        ends.iter().all(|end| SystemTime::now() > *end + Duration::from_secs(1)).then_some(())
    });
}

/// Waits until a host has a certificate that is good, takes work and answers.
fn until_back(rack: &Rack, asked: usize, host: usize) {
    eventually("it has another certificate", PATIENCE, || {
        certificate_end(rack, host).filter(|end| *end > SystemTime::now()).map(drop)
    });
    let name = format!("host-{host}");
    eventually("it takes work", PATIENCE, || {
        let members = rack.cluster(asked)["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|member| member["name"] == name.as_str() && member["status"] == "ready").then_some(())
    });
    until_serving(rack, host);
}

/// More than two lives go by under calls and changes at every host.
fn renews(rack: &Rack) {
    let (began, load) = (Instant::now(), Life::begin(rack, &FOUR));
    let mut seen: BTreeMap<usize, Vec<SystemTime>> = BTreeMap::new();
    eventually("every certificate is renewed again and again", 2 * PATIENCE, || {
        for host in FOUR {
            let known = seen.entry(host).or_default();
            known.extend(certificate_end(rack, host).filter(|end| !known.contains(end)));
        }
        let is_renewed = seen.values().all(|ends| ends.len() >= 4);
        (is_renewed && began.elapsed() > 2 * CERTIFICATE_LIFE).then_some(())
    });
    println!(
        "each host had {:?} certificates in {:?}",
        seen.values().map(Vec::len).collect::<Vec<_>>(),
        began.elapsed()
    );
    for ends in seen.values() {
        // Each came before the one before it had ended: two thirds of a life are over, or less.
        let gaps = ends.windows(2).map(|pair| pair[1].duration_since(pair[0]).expect("a later one ends later"));
        assert!(gaps.max() < Some(CERTIFICATE_LIFE), "{ends:?}");
    }
    load.end("certificates that end", rack, &FOUR);
}

/// A voter is off, and a host that does not vote is cut off, for longer than their certificates are good.
fn comes_back(rack: &mut Rack) {
    let leader = rack.until_led(&FOUR);
    let learner = FOUR.into_iter().find(|host| !votes(rack, leader, *host)).expect("of four, three vote");
    let voters: Vec<usize> = FOUR.into_iter().filter(|host| ![leader, learner].contains(host)).collect();
    let (off, rest) = (voters[0], [leader, voters[1]]);
    let load = Life::begin(rack, &rest);
    let ends = [off, learner].map(|host| certificate_end(rack, host).expect("the API answers"));
    rack.stop(off);
    rack.cut(learner);
    // It may have been about to renew.
    until_over(&ends.map(|end| end + CERTIFICATE_LIFE));
    rack.mend(learner);
    rack.start(off, &[]);
    until_back(rack, leader, off);
    until_back(rack, leader, learner);
    assert!(returned(rack, &rest) > 0, "a host that does not vote cannot do it by itself");
    load.go_on(20);
    // It votes, and whoever votes may lead.
    assert!(votes(rack, leader, off), "{}", rack.cluster(leader));
    rack.succeed(leader, &["cluster", "transfer-leader", "--to", &format!("host-{off}")]);
    assert_eq!(rack.until_led(&FOUR), off);
    load.go_on(20);
    load.end("hosts that come back after their certificates have ended", rack, &FOUR);
}

/// Two hosts are off for longer than their certificates are good, and one of them is removed meanwhile.
fn removes(rack: &mut Rack) {
    let leader = rack.until_led(&FOUR);
    let learner = FOUR.into_iter().find(|host| !votes(rack, leader, *host)).expect("of four, three vote");
    let voters: Vec<usize> = FOUR.into_iter().filter(|host| ![leader, learner].contains(host)).collect();
    let (removed, rest) = (voters[0], [leader, voters[1]]);
    let load = Life::begin(rack, &rest);
    // Instances outlive agents, and nobody would come to end these.
    rack.succeed(leader, &["node", "drain", &format!("host-{removed}")]);
    eventually("nothing is left on it", PATIENCE, || instances(rack, leader, removed).is_empty().then_some(()));
    let ends = [removed, learner].map(|host| certificate_end(rack, host).expect("the API answers"));
    rack.stop(removed);
    rack.stop(learner);
    rack.succeed(leader, &["cluster", "remove", &format!("host-{removed}")]);
    until_over(&ends.map(|end| end + CERTIFICATE_LIFE));
    let before = returned(rack, &rest);
    rack.launch(removed, &[]);
    rack.launch(learner, &[]);
    assert_eq!(rack.until_ended(removed), Some(1));
    let told = rack.log(removed);
    let told: Vec<&str> = told.lines().rev().take(2).collect();
    println!("a host that was removed is told {told:?}");
    assert!(told.iter().any(|line| line.contains("is not a member")), "{told:?}");
    assert!(told.iter().any(|line| line.contains("hint: ") && line.contains("new token")), "{told:?}");
    rack.wipe(removed);
    rack.until_ready(learner);
    until_back(rack, leader, learner);
    assert!(returned(rack, &rest) > before, "a host that does not vote cannot do it by itself");
    eventually("it votes in the place of the one that was removed", PATIENCE, || {
        (rack.voters(leader).len() == 3 && votes(rack, leader, learner)).then_some(())
    });
    load.go_on(20);
    load.end("a host that was removed while it was off", rack, &[leader, voters[1], learner]);
}

fn a_host_that_comes_back_at_another_address_is_found_again() {
    let mut rack = platform_on(Rack::new(3));
    let follower = others(rack.until_led(&[1, 2, 3]))[0];
    moves(&mut rack, follower, 101, "a follower that moved");
    let leader = others(follower)[0];
    rack.succeed(leader, &["cluster", "transfer-leader", "--to", &format!("host-{leader}")]);
    assert_eq!(rack.until_led(&[1, 2, 3]), leader);
    moves(&mut rack, leader, 102, "a leader that moved");
}

/// Brings a host back elsewhere, under calls and changes at the others.
fn moves(rack: &mut Rack, host: usize, place: usize, what: &str) {
    let rest = others(host);
    // Whoever had connections to it must not go on looking where it was.
    crosses(rack, host);
    let load = Life::begin(rack, &rest);
    let before = format!("{}:8100", rack.address(host));
    rack.stop(host);
    load.go_on(20);
    rack.relocate(host, place);
    let began = Instant::now();
    rack.start(host, &[]);
    println!("{what}: ready after {:?}", began.elapsed());
    let after = format!("{}:8100", rack.address(host));
    for asked in 1..=3 {
        eventually("everybody knows where it is", PATIENCE, || {
            let voters = rack.voters(asked);
            (voters.len() == 3 && voters.contains(&after) && !voters.contains(&before)).then_some(())
        });
    }
    println!("{what}: known everywhere after {:?}", began.elapsed());
    rack.until_led(&[1, 2, 3]);
    (1..=3).for_each(|host| until_serving(rack, host));
    crosses(rack, host);
    load.go_on(40);
    load.end(what, rack, &[1, 2, 3]);
    // It may be asked to lead, and is followed.
    rack.succeed(rest[0], &["cluster", "transfer-leader", "--to", &format!("host-{host}")]);
    assert_eq!(rack.until_led(&[1, 2, 3]), host);
}

/// Lets a host answer what comes in at the others, which are drained for as long.
fn crosses(rack: &Rack, host: usize) {
    let rest = others(host);
    for other in &rest {
        rack.succeed(*other, &["node", "drain", &format!("host-{other}")]);
    }
    for other in &rest {
        eventually("nothing is left on it", PATIENCE, || instances(rack, *other, *other).is_empty().then_some(()));
        let timing = rack.traced(*other, "/function/steady");
        assert!(timing.contains("hop;dur="), "it is served elsewhere: {timing}");
    }
    for other in &rest {
        rack.succeed(*other, &["node", "undrain", &format!("host-{other}")]);
    }
    rest.iter().for_each(|other| until_serving(rack, *other));
}
