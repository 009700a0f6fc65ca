//! Hosts whose power goes or whose disk is full: nothing that was acknowledged is lost.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tests::{Rack, Writers, eventually, repository};

use crate::Test;
use crate::cluster::{Life, OPERATIONS, PATIENCE, agree, others, platform_on};

pub(crate) const TESTS: &[Test] = &[
    ("hosts_that_lose_their_power_lose_nothing_acknowledged", hosts_that_lose_their_power_lose_nothing_acknowledged),
    ("a_full_disk_is_the_trouble_of_one_host", a_full_disk_is_the_trouble_of_one_host),
];

/// How many power cuts there are unless the environment says otherwise.
const CUTS: u32 = 4;

/// Where the environment says how many.
const CUTS_VARIABLE: &str = "HEARTH_POWER_CUTS";

/// Deploys and reads through all hosts while the power of some goes again and again; after each time one order must explain
/// everything, and all hosts must hold the last that was acknowledged.
fn hosts_that_lose_their_power_lose_nothing_acknowledged() {
    let cuts = std::env::var(CUTS_VARIABLE).map_or(CUTS, |text| text.parse().expect("it is a number"));
    let mut rack = Rack::with_disks(3);
    rack.found();
    rack.succeed(1, &["apply", &repository().join("tests/functions/idle").to_string_lossy()]);
    let (mut acknowledged, mut unknown) = (0, 0);
    for cut in 1..=cuts {
        let chance = RandomState::new().build_hasher().finish();
        // Any of the seven sets that are not empty, any instant of the first second.
        let hosts: Vec<usize> = (1..=3).filter(|host| (chance % 7 + 1) >> (host - 1) & 1 == 1).collect();
        let instant = Duration::from_millis(chance / 7 % 1000);
        let writers = Writers::start(&rack, &[1, 2, 3], "idle", 2 * OPERATIONS);
        eventually("deployments are acknowledged", PATIENCE, || (writers.acknowledged() > 0).then_some(()));
        let began = std::time::Instant::now();
        eventually("the instant has come", PATIENCE, || (began.elapsed() >= instant).then_some(()));
        rack.cut_power(&hosts);
        hosts.iter().for_each(|host| rack.launch(*host, &[]));
        hosts.iter().for_each(|host| rack.until_ready(*host));
        let reached = writers.acknowledged();
        eventually("deployments are acknowledged again", PATIENCE, || {
            (writers.acknowledged() >= reached + 5).then_some(())
        });
        let report = writers.finish();
        println!(
            "power cut {cut} of {cuts}: hosts {hosts:?}, {} deployments acknowledged, {} operations unknown, longest pause {:?}",
            report.acknowledged, report.unknown, report.longest_pause
        );
        assert_eq!(report.violations, Vec::<String>::new(), "power cut {cut} of hosts {hosts:?}");
        agree(&rack, "idle", &[1, 2, 3], &report);
        acknowledged += report.acknowledged;
        unknown += report.unknown;
    }
    println!("{cuts} power cuts: {acknowledged} deployments acknowledged, 0 lost; {unknown} operations unknown");
}

/// A host that has no room takes no changes and says so; whoever asks another goes on, though the full one leads.
fn a_full_disk_is_the_trouble_of_one_host() {
    let rack = platform_on(Rack::with_disks(3));
    let leader = rack.until_led(&[1, 2, 3]);
    let life = Life::begin(&rack, &others(leader));
    rack.disk(leader).fill();
    let scale = || rack.operate(leader, "PUT", "/v1/functions/steady/scale", br#"{"max": 50}"#).expect("it answers");
    let refused = scale();
    assert!(refused.status == 507 && refused.body.contains("is full"), "{}: {}", refused.status, refused.body);
    assert_eq!(rack.call(leader, "/function/steady").expect("it answers").status, 200, "what runs there goes on");
    life.go_on(60);
    rack.disk(leader).empty();
    assert_eq!(scale().status, 200, "nobody started it again");
    life.go_on(20);
    life.end("a full disk", &rack, &[1, 2, 3]);
}
