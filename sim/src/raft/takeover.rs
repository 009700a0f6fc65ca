//! How long a cluster is without a leader, in virtual time and with nothing else going wrong.

use std::time::Duration;

use super::check::Oracle;
use super::cluster::{Cluster, Crash};
use super::runtime;
use super::swarm::Swarm;

/// How many seeds are played.
const SEEDS: u64 = 40;

/// How long the cluster runs before its leader is lost.
const BEFORE: Duration = Duration::from_secs(2);

/// Returns how long after the loss of the leader another one leads.
fn takeover(seed: u64, crash: Crash) -> Duration {
    runtime::begin(seed);
    let cluster = Cluster::new(seed, Swarm::calm(3), Oracle::default(), std::sync::Arc::new(()));
    cluster.nodes().into_iter().for_each(|node| cluster.boot(node));
    runtime::run_until(BEFORE, || false);
    let lost = cluster.agreed_leader().expect("nothing has gone wrong");
    cluster.crash(&[lost], crash);
    let leads = || cluster.leader().is_some_and(|leader| leader != lost);
    runtime::run_until(BEFORE + Duration::from_secs(5), leads);
    let took = Duration::from_nanos(runtime::now()) - BEFORE;
    cluster.end();
    runtime::end();
    took
}

#[test]
fn a_leader_whose_followers_are_down_asks_for_them_at_a_pace() {
    runtime::begin(1);
    let cluster = Cluster::new(1, Swarm::calm(3), Oracle::default(), std::sync::Arc::new(()));
    cluster.nodes().into_iter().for_each(|node| cluster.boot(node));
    runtime::run_until(BEFORE, || false);
    let leader = cluster.agreed_leader().expect("nothing has gone wrong");
    let others: Vec<u64> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    cluster.crash(&others, Crash::Process);
    runtime::run_until(BEFORE + Duration::from_secs(10), || false);
    let refusals = cluster.network().wires().refusals;
    cluster.end();
    runtime::end();
    // Two followers, every fifty milliseconds, and at once whenever it leads anew; without a pause it is a hundred times that.
    assert!((100..=1000).contains(&refusals), "{refusals} times in ten seconds");
}

fn worst(crash: Crash) -> Duration {
    (0..SEEDS).map(|seed| takeover(seed, crash)).max().unwrap_or_default()
}

#[test]
fn a_process_that_ends_is_replaced_at_once() {
    let worst = worst(Crash::Process);
    assert!(worst <= Duration::from_millis(50), "it took {worst:?}");
}

#[test]
fn a_host_that_says_nothing_is_replaced_after_a_timeout() {
    let least = (0..SEEDS).map(|seed| takeover(seed, Crash::Power)).min().unwrap_or_default();
    let lease = Duration::from_millis(control_plane::raft::Timing::default().election_max_ms);
    assert!(least > lease / 2, "silence proves nothing, and yet it took {least:?}");
    let worst = worst(Crash::Power);
    assert!(worst <= Duration::from_secs(2), "it took {worst:?}");
}
