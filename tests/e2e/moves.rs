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

/// Who is what of four hosts.
struct Roles {
    leader: usize,
    learner: usize,
    /// The voters that do not lead.
    voters: [usize; 2],
}

fn roles(rack: &Rack) -> Roles {
    let leader = rack.until_led(&FOUR);
    let (votes, learns): (Vec<usize>, Vec<usize>) = FOUR.into_iter().partition(|host| rack.votes(leader, *host));
    let voters: Vec<usize> = votes.into_iter().filter(|host| *host != leader).collect();
    let (Ok(voters), [learner]) = (voters.try_into(), &learns[..]) else { panic!("of four, three vote") };
    Roles { leader, learner: *learner, voters }
}

/// Returns how often hosts have given another one, which was away, another certificate.
fn returned(rack: &Rack, hosts: &[usize], to: usize) -> usize {
    let name = format!("host-{to}");
    let members = rack.cluster(hosts[0])["members"].as_array().cloned().unwrap_or_default();
    let member = members.iter().find(|member| member["name"] == name.as_str()).expect("it is a member");
    let told = format!("a node that was away has another certificate node={}", member["id"].as_str().unwrap_or("?"));
    hosts.iter().map(|host| rack.log(*host).lines().filter(|line| line.ends_with(&told)).count()).sum()
}

/// Waits until every certificate that hosts have which get no others from now on is good no more.
fn until_over() {
    let end = Instant::now() + CERTIFICATE_LIFE + Duration::from_secs(1);
    eventually("the certificates have ended", PATIENCE, || (Instant::now() > end).then_some(()));
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

/// More than a life goes by under calls and changes at every host, and calls at one of them cross to others.
fn renews(rack: &Rack) {
    rack.succeed(1, &["node", "drain", "host-4"]);
    eventually("nothing is left on it", PATIENCE, || instances(rack, 1, 4).is_empty().then_some(()));
    let timing = rack.traced(4, "/function/steady");
    assert!(timing.contains("hop;dur="), "it is served elsewhere: {timing}");
    let (began, load) = (Instant::now(), Life::begin(rack, &FOUR));
    let mut seen: BTreeMap<usize, Vec<SystemTime>> = BTreeMap::new();
    eventually("every certificate is renewed again and again", 2 * PATIENCE, || {
        for host in FOUR {
            let known = seen.entry(host).or_default();
            known.extend(certificate_end(rack, host).filter(|end| !known.contains(end)));
        }
        let is_renewed = seen.values().all(|ends| ends.len() >= 3);
        // The last of the first ones has ended.
        (is_renewed && began.elapsed() > CERTIFICATE_LIFE + Duration::from_secs(5)).then_some(())
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
    rack.succeed(1, &["node", "undrain", "host-4"]);
    until_serving(rack, 4);
}

/// A voter is off, and a host that does not vote is cut off, for longer than their certificates are good.
fn comes_back(rack: &mut Rack) {
    let Roles { leader, learner, voters: [off, other] } = roles(rack);
    let rest = [leader, other];
    let load = Life::begin(rack, &rest);
    rack.stop(off);
    rack.cut(learner);
    until_over();
    rack.mend(learner);
    rack.start(off, &[]);
    until_back(rack, leader, off);
    until_back(rack, leader, learner);
    assert!(returned(rack, &[leader, off, other], learner) > 0, "a host that does not vote cannot do it by itself");
    load.go_on(20);
    // It votes, and whoever votes may lead.
    assert!(rack.votes(leader, off), "{}", rack.cluster(leader));
    rack.succeed(leader, &["cluster", "transfer-leader", "--to", &format!("host-{off}")]);
    assert_eq!(rack.until_led(&FOUR), off);
    load.go_on(20);
    load.end("hosts that come back after their certificates have ended", rack, &FOUR);
}

/// One host is off and one is cut off for longer than their certificates are good, and the second is removed meanwhile.
fn removes(rack: &mut Rack) {
    let Roles { leader, learner, voters: [removed, other] } = roles(rack);
    let rest = [leader, other];
    let load = Life::begin(rack, &rest);
    // Instances outlive agents, and nobody would come to end these.
    rack.succeed(leader, &["node", "drain", &format!("host-{removed}")]);
    eventually("nothing is left on it", PATIENCE, || instances(rack, leader, removed).is_empty().then_some(()));
    rack.cut(removed);
    rack.stop(learner);
    rack.succeed(leader, &["cluster", "remove", &format!("host-{removed}")]);
    until_over();
    let before = returned(rack, &rest, learner);
    rack.mend(removed);
    rack.launch(learner, &[]);
    // As it runs, and as it is started again.
    for time in 1..=2 {
        assert_eq!(rack.until_ended(removed), Some(1));
        let told = rack.log(removed);
        let count =
            |what: &str, why: &str| told.lines().filter(|line| line.contains(what) && line.contains(why)).count();
        assert_eq!(count("error: ", "is not a member"), time, "{told}");
        assert_eq!(count("hint: ", "new token"), time, "{told}");
        if time == 1 {
            rack.launch(removed, &[]);
        }
    }
    rack.wipe(removed);
    rack.until_ready(learner);
    until_back(rack, leader, learner);
    assert!(returned(rack, &rest, learner) > before, "a host that does not vote cannot do it by itself");
    eventually("it votes in the place of the one that was removed", PATIENCE, || {
        (rack.voters(leader).len() == 3 && rack.votes(leader, learner)).then_some(())
    });
    load.go_on(20);
    load.end("a host that was removed while it was off", rack, &[leader, other, learner]);
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
    }
    for other in &rest {
        let timing = rack.traced(*other, "/function/steady");
        assert!(timing.contains("hop;dur="), "it is served elsewhere: {timing}");
    }
    for other in &rest {
        rack.succeed(*other, &["node", "undrain", &format!("host-{other}")]);
    }
    rest.iter().for_each(|other| until_serving(rack, *other));
}
