//! Functions go to zero and come back.

use std::time::Duration;

use tests::{Daemon, Load, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[("down_to_zero_and_back_a_hundred_times_under_load", down_to_zero_and_back)];

/// How many times the function has to go to zero and come back.
const ROUNDS: usize = 100;

fn down_to_zero_and_back() {
    let daemon = Daemon::agent();
    daemon.apply(&repository().join("tests/functions/flash"));
    let load = Load::start(&daemon.url("/function/flash"), 20, Duration::from_secs(60));
    tests::eventually("enough calls have ended", Duration::from_secs(60), || {
        (load.ended() >= ROUNDS * 2).then_some(())
    });
    let report = load.finish();
    assert!(report.failed.is_empty(), "{:?}", report.failed);

    // An instance that goes after 5 ms of idling never serves two calls that are 50 ms apart: each answer is another start.
    let starts = daemon
        .operator("/metrics")
        .body
        .lines()
        .filter(|line| line.starts_with("hearth_cold_starts_total") && line.contains("flash"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>();
    assert!(starts >= 100.0, "only {starts} cold starts for {} calls", report.succeeded);
    daemon.wait_for_zero(Duration::from_secs(10));
}
