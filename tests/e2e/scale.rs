//! Functions go to zero and come back.

use std::time::Duration;

use tests::{Daemon, Load, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("down_to_zero_and_back_a_hundred_times_under_load", down_to_zero_and_back)];

/// How many times the function has to go to zero and come back.
const ROUNDS: f64 = 100.0;

/// How long that may take.
const LOAD_MAX: Duration = Duration::from_secs(120);

fn cold_starts(daemon: &Daemon) -> f64 {
    let metrics = daemon.operator("/metrics").body;
    metrics
        .lines()
        .filter(|line| line.starts_with("hearth_cold_starts_total") && line.contains("flash"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn down_to_zero_and_back() {
    let mut daemon = Daemon::agent();
    daemon.apply(&repository().join("tests/functions/flash"));
    let load = Load::start(&daemon.url("/function/flash"), 20, LOAD_MAX);
    // An instance that goes after 5 ms of idling rarely serves two calls that are 50 ms apart, unless the machine is slow.
    tests::eventually("the function has come back often enough", LOAD_MAX, || {
        (cold_starts(&daemon) >= ROUNDS).then_some(())
    });
    let report = load.finish();
    assert_eq!(report.failed_since(Duration::ZERO).next(), None);
    daemon.wait_for_zero(Duration::from_secs(10));

    // The daemon dies in the middle of the same load and comes back: from then on nothing fails either.
    let load = Load::start(&daemon.url("/function/flash"), 20, Duration::from_secs(60));
    tests::eventually("the load runs", Duration::from_secs(20), || (load.ended() >= 20).then_some(()));
    daemon.kill();
    daemon.start();
    let back = load.now();
    let reached = load.ended();
    tests::eventually("calls go on", Duration::from_secs(20), || (load.ended() >= reached + 40).then_some(()));
    let report = load.finish();
    let failed: Vec<_> = report.failed_since(back).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(report.succeeded >= 40, "{report:?}");
}
