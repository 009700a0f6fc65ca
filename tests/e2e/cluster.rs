//! Several hosts, one platform: what holds while machines die, hang, are cut off and come back.

use std::time::Duration;

use tests::{Load, LoadReport, Rack, Writers, WritersReport, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("three_hosts_form_one_platform", three_hosts_form_one_platform),
    ("a_leader_that_is_killed_takes_nothing_with_it", a_leader_that_is_killed_takes_nothing_with_it),
    ("a_follower_that_is_killed_is_missed_by_nobody", a_follower_that_is_killed_is_missed_by_nobody),
    ("a_leader_that_is_cut_off_leads_no_more", a_leader_that_is_cut_off_leads_no_more),
    ("a_leader_that_is_heard_but_does_not_hear_gives_way", a_leader_that_is_heard_but_does_not_hear_gives_way),
    ("a_host_that_hangs_for_half_a_minute_comes_back", a_host_that_hangs_for_half_a_minute_comes_back),
    ("a_host_that_lost_everything_joins_anew", a_host_that_lost_everything_joins_anew),
    ("two_of_three_come_back", two_of_three_come_back),
    ("all_hosts_are_restarted_one_after_the_other", all_hosts_are_restarted_one_after_the_other),
    ("a_host_that_is_drained_goes_on_answering", a_host_that_is_drained_goes_on_answering),
];

/// Calls a second.
const CALLS: u32 = 200;

/// Changes and reads a second: of three, two are changes.
pub(crate) const OPERATIONS: u32 = 30;

/// How long anything may take; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a load may run.
const LOAD_MAX: Duration = Duration::from_secs(180);

/// Three hosts that serve one function, which is warm on each.
fn platform() -> Rack {
    platform_on(Rack::new(3))
}

/// Makes a platform of hosts that have nothing running on them.
pub(crate) fn platform_on(mut rack: Rack) -> Rack {
    rack.found();
    rack.succeed(1, &["apply", &repository().join("tests/functions/steady").to_string_lossy()]);
    (1..=3).for_each(|host| until_serving(&rack, host));
    rack
}

pub(crate) fn until_serving(rack: &Rack, host: usize) {
    eventually("the function answers", PATIENCE, || {
        rack.call(host, "/function/steady").ok().filter(|reply| reply.status == 200).map(drop)
    });
}

/// Calls and changes that go on while something happens.
pub(crate) struct Life {
    calls: Vec<(usize, Load)>,
    writers: Writers,
}

impl Life {
    /// Calls the function at each of `hosts`, and changes it through each of them.
    pub(crate) fn begin(rack: &Rack, hosts: &[usize]) -> Self {
        let share = CALLS / u32::try_from(hosts.len()).expect("a rack is small");
        let load = |host: &usize| (*host, Load::start(&rack.url(*host, "/function/steady"), share, LOAD_MAX));
        let this = Self {
            calls: hosts.iter().map(load).collect(),
            writers: Writers::start(rack, hosts, "steady", OPERATIONS),
        };
        this.go_on(20);
        this
    }

    /// Waits until so many more changes were acknowledged.
    pub(crate) fn go_on(&self, more: usize) {
        let reached = self.writers.acknowledged();
        eventually("changes are acknowledged", PATIENCE, || {
            (self.writers.acknowledged() >= reached + more).then_some(())
        });
    }

    /// Ends it: no call failed, one order explains all changes and reads, and the hosts agree about what holds.
    pub(crate) fn end(self, what: &str, rack: &Rack, hosts: &[usize]) -> WritersReport {
        for (host, load) in self.calls {
            assert!(load.now() < LOAD_MAX, "{what}: calls ended before it was over");
            let LoadReport { succeeded, failed, slowest, .. } = load.finish();
            println!("{what}: host {host}: {succeeded} calls answered, {} failed, slowest {slowest:?}", failed.len());
            assert_eq!(failed, [], "{what}: calls failed at host {host}");
            assert!(succeeded > 0, "{what}: nobody called host {host}");
        }
        let report = self.writers.finish();
        println!(
            "{what}: {} changes acknowledged, {} operations unknown, longest pause {:?}",
            report.acknowledged, report.unknown, report.longest_pause
        );
        assert_eq!(report.violations, Vec::<String>::new(), "{what}");
        agree(rack, "steady", hosts, &report);
        report
    }
}

/// Checks that hosts hold the last acknowledged change, or a later one, and that none of them holds an instance twice.
pub(crate) fn agree(rack: &Rack, function: &str, hosts: &[usize], report: &WritersReport) {
    let (index, limit) = report.last.expect("something was acknowledged");
    let (path, mut held) = (format!("/v1/functions/{function}"), Vec::new());
    for host in hosts {
        let mut said = "nothing".to_owned();
        let began = std::time::Instant::now();
        let found = eventually("a host says what holds", 2 * PATIENCE, || {
            match rack.operate(*host, "GET", &path, b"") {
                Ok(reply) if reply.status == 200 => return serde_json::from_str::<serde_json::Value>(&reply.body).ok(),
                Ok(reply) => said = format!("{}: {}", reply.status, reply.body),
                Err(error) => said = error,
            }
            assert!(began.elapsed() < PATIENCE, "host {host} does not say what holds: {said}\n{}", rack.cluster(*host));
            None
        });
        let place = (found["index"].as_u64().unwrap_or(0), found["scaling"]["idle_max_ms"].as_u64().unwrap_or(0));
        assert!(
            place.0 > index || place == (index, limit),
            "host {host} holds {place:?}, acknowledged was {index}: {limit}"
        );
        held.push(place);
    }
    assert!(held.windows(2).all(|pair| pair[0] == pair[1]), "hosts hold different things: {held:?}");
}

/// Returns the hosts that are not `host`.
pub(crate) fn others(host: usize) -> Vec<usize> {
    (1..=3).filter(|other| *other != host).collect()
}

fn three_hosts_form_one_platform() {
    let mut rack = Rack::new(3);
    let took = rack.found();
    println!("three hosts formed a cluster in {took:?}");
    rack.succeed(2, &["apply", &repository().join("tests/functions/steady").to_string_lossy()]);
    for host in 1..=3 {
        until_serving(&rack, host);
        println!("host {host} holds {} MiB", rack.resident_kib(host) >> 10);
    }
    // Anybody may be asked, and everybody knows everything.
    for host in 1..=3 {
        let listed = rack.succeed(host, &["get", "instances", "-o", "json"]);
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("the CLI prints JSON");
        let nodes: std::collections::BTreeSet<&str> = listed.iter().filter_map(|one| one["node"].as_str()).collect();
        assert_eq!(nodes.len(), 3, "host {host} lists {listed:?}");
        assert_eq!(rack.voters(host).len(), 3);
    }
    let ready = rack.succeed(3, &["get", "nodes", "-o", "json"]);
    assert_eq!(ready.matches("\"ready\"").count(), 3, "{ready}");
}

fn a_leader_that_is_killed_takes_nothing_with_it() {
    let mut rack = platform();
    let leader = rack.until_led(&[1, 2, 3]);
    let rest = others(leader);
    let life = Life::begin(&rack, &rest);
    rack.kill(leader);
    life.go_on(40);
    rack.start(leader, &[]);
    until_serving(&rack, leader);
    life.go_on(20);
    life.end("a killed leader", &rack, &[1, 2, 3]);
}

fn a_follower_that_is_killed_is_missed_by_nobody() {
    let mut rack = platform();
    rack.succeed(1, &["scale", "steady", "--min", "2"]);
    let follower = others(rack.until_led(&[1, 2, 3]))[0];
    let rest = others(follower);
    let own = |rack: &Rack| {
        let here = instances(rack, rest[0], follower).into_iter();
        here.filter(|instance| !instance.starts_with("instance-0-")).collect::<Vec<_>>()
    };
    let before = own(&rack);
    assert!(!before.is_empty(), "a call has started one there");
    let life = Life::begin(&rack, &rest);
    rack.kill(follower);
    life.go_on(40);
    // Its node is given up, and comes back.
    eventually("it is given up", PATIENCE, || {
        rack.succeed(rest[0], &["get", "nodes", "-o", "json"]).contains("\"dead\"").then_some(())
    });
    // What the state holds no more counts nowhere: there are as many as must be on those that live.
    let living = || rest.iter().map(|host| instances(&rack, rest[0], *host).len()).sum::<usize>();
    eventually("the least number of instances runs on those that live", PATIENCE, || (living() >= 2).then_some(()));
    rack.start(follower, &[]);
    eventually("it is back", PATIENCE, || {
        (!rack.succeed(rest[0], &["get", "nodes", "-o", "json"]).contains("\"dead\"")).then_some(())
    });
    until_serving(&rack, follower);
    assert_eq!(own(&rack), before, "what it had started by itself has run on");
    life.end("a killed follower", &rack, &[1, 2, 3]);
}

fn a_leader_that_is_cut_off_leads_no_more() {
    let rack = platform();
    let leader = rack.until_led(&[1, 2, 3]);
    let rest = others(leader);
    let life = Life::begin(&rack, &rest);
    rack.cut(leader);
    rack.until_led(&rest);
    life.go_on(40);
    rack.mend(leader);
    rack.until_led(&[1, 2, 3]);
    life.go_on(20);
    life.end("a leader cut off", &rack, &[1, 2, 3]);
}

fn a_leader_that_is_heard_but_does_not_hear_gives_way() {
    let rack = platform();
    let leader = rack.until_led(&[1, 2, 3]);
    let rest = others(leader);
    let life = Life::begin(&rack, &rest);
    // What it sends arrives; no answer does.
    rest.iter().for_each(|other| rack.mute(*other, leader));
    rack.until_led(&rest);
    life.go_on(40);
    rest.iter().for_each(|other| rack.unmute(*other, leader));
    rack.until_led(&[1, 2, 3]);
    life.go_on(20);
    life.end("an asymmetric cut", &rack, &[1, 2, 3]);
}

fn a_host_that_hangs_for_half_a_minute_comes_back() {
    let rack = platform();
    let leader = rack.until_led(&[1, 2, 3]);
    let rest = others(leader);
    let life = Life::begin(&rack, &rest);
    rack.pause(leader);
    rack.until_led(&rest);
    let hung = std::time::Instant::now();
    eventually("half a minute has passed", PATIENCE, || (hung.elapsed() >= Duration::from_secs(30)).then_some(()));
    life.go_on(20);
    rack.resume(leader);
    rack.until_led(&[1, 2, 3]);
    until_serving(&rack, leader);
    life.go_on(20);
    life.end("a leader that hung", &rack, &[1, 2, 3]);
}

fn a_host_that_lost_everything_joins_anew() {
    let mut rack = platform();
    let lost = others(rack.until_led(&[1, 2, 3]))[0];
    let rest = others(lost);
    let life = Life::begin(&rack, &rest);
    rack.kill(lost);
    rack.wipe(lost);
    let token = rack.succeed(rest[0], &["token", "create", "--uses", "1", "-o", "name"]);
    rack.succeed(rest[0], &["cluster", "remove", &format!("host-{lost}")]);
    let contact = format!("{}:8100", rack.address(rest[0]));
    rack.start(lost, &["--join", &contact, "--token", token.trim()]);
    eventually("it votes", PATIENCE, || {
        let voters = rack.voters(rest[0]);
        (voters.len() == 3 && voters.iter().any(|voter| voter.starts_with(&rack.address(lost)))).then_some(())
    });
    until_serving(&rack, lost);
    life.go_on(20);
    life.end("a host that lost everything", &rack, &[1, 2, 3]);
}

fn two_of_three_come_back() {
    let mut rack = platform();
    let leader = rack.until_led(&[1, 2, 3]);
    let rest = others(leader);
    let life = Life::begin(&rack, &[rest[0]]);
    rack.kill(leader);
    rack.kill(rest[1]);
    // Nothing can be decided, nor read as what holds; what is warm goes on.
    let unanswered = std::time::Instant::now();
    let told = rack.operate(rest[0], "GET", "/v1/functions/steady", b"").expect("the API answers");
    assert_eq!(told.status, 503, "{}", told.body);
    let stale = rack.operate(rest[0], "GET", "/v1/functions/steady?stale=1", b"").expect("the API answers");
    assert_eq!(stale.status, 200, "{}", stale.body);
    let (calls, acknowledged) = (life.calls[0].1.ended(), life.writers.acknowledged());
    eventually("calls go on", PATIENCE, || {
        let is_long = unanswered.elapsed() >= Duration::from_secs(10);
        (is_long && life.calls[0].1.ended() >= calls + 100).then_some(())
    });
    assert_eq!(life.writers.acknowledged(), acknowledged, "one of three decides nothing");
    assert_eq!(rack.cluster(rest[0])["members"].as_array().map(Vec::len), Some(3), "who is there can be asked");
    rack.launch(leader, &[]);
    rack.launch(rest[1], &[]);
    rack.until_ready(leader);
    rack.until_ready(rest[1]);
    life.go_on(20);
    life.end("two of three lost", &rack, &[1, 2, 3]);
}

fn all_hosts_are_restarted_one_after_the_other() {
    let mut rack = platform();
    let urls: Vec<String> = (1..=3).map(|host| rack.url(host, "/function/steady")).collect();
    let load = Load::over(&urls, CALLS, LOAD_MAX);
    let writers = Writers::start(&rack, &[1, 2, 3], "steady", OPERATIONS);
    for host in 1..=3 {
        let before = load.ended();
        rack.stop(host);
        rack.start(host, &[]);
        until_serving(&rack, host);
        eventually("calls go on", PATIENCE, || (load.ended() >= before + 100).then_some(()));
    }
    let LoadReport { succeeded, failed, slowest, .. } = load.finish();
    println!("a rolling restart: {succeeded} calls answered, {} failed, slowest {slowest:?}", failed.len());
    assert_eq!(failed, [], "calls failed");
    let report = writers.finish();
    println!("a rolling restart: {} changes acknowledged, {} operations unknown", report.acknowledged, report.unknown);
    assert_eq!(report.violations, Vec::<String>::new());
    agree(&rack, "steady", &[1, 2, 3], &report);
}

fn a_host_that_is_drained_goes_on_answering() {
    let rack = platform();
    let drained = others(rack.until_led(&[1, 2, 3]))[0];
    let other = others(drained)[0];
    let name = format!("host-{drained}");
    let load = Load::start(&rack.url(drained, "/function/steady"), CALLS / 4, LOAD_MAX);
    rack.succeed(other, &["node", "drain", &name]);
    eventually("nothing is left on it", PATIENCE, || instances(&rack, other, drained).is_empty().then_some(()));
    let before = load.ended();
    eventually("calls cross to the others", PATIENCE, || (load.ended() >= before + 100).then_some(()));
    let timing = rack.traced(drained, "/function/steady");
    assert!(timing.contains("hop;dur="), "it is served elsewhere: {timing}");
    assert_eq!(instances(&rack, other, drained), Vec::<String>::new());
    rack.succeed(other, &["node", "undrain", &name]);
    let LoadReport { succeeded, failed, slowest, .. } = load.finish();
    println!("a drained host: {succeeded} calls answered, {} failed, slowest {slowest:?}", failed.len());
    assert_eq!(failed, [], "calls failed at the host that is drained");
}

/// Returns the instances of the function on a host, as `asked` lists them; a host that died a moment ago has none.
pub(crate) fn instances(rack: &Rack, asked: usize, host: usize) -> Vec<String> {
    let list = |what: &str| -> Vec<serde_json::Value> {
        serde_json::from_str(&rack.succeed(asked, &["get", what, "--stale", "-o", "json"]))
            .expect("the CLI prints JSON")
    };
    let name = format!("host-{host}");
    let nodes = list("nodes");
    let node = nodes.iter().find(|node| node["name"] == name.as_str()).expect("the host is a node");
    let listed = list("instances");
    let here = listed.iter().filter(|instance| instance["node"] == node["id"]);
    here.map(|instance| instance["id"].as_str().expect("an instance has an id").to_owned()).collect()
}
