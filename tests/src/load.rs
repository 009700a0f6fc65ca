//! A steady load: calls begin at fixed times, whether or not earlier ones have ended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one call may take before it counts as failed.
const CALL_MAX: Duration = Duration::from_secs(30);

/// A load that runs until it is stopped, or until its bound.
#[derive(Debug)]
pub struct Load {
    start: Instant,
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    pacer: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Outcome {
    began: Instant,
    took: Duration,
    result: Result<String, String>,
}

/// What became of the calls.
#[derive(Debug)]
pub struct LoadReport {
    /// Calls that were answered with status 200.
    pub succeeded: usize,
    /// What went wrong with each of the others, and how far into the load it began.
    pub failed: Vec<(Duration, String)>,
    /// The longest that an answered call took.
    pub slowest: Duration,
    /// The bodies of answered calls, in the order in which the calls began.
    pub bodies: Vec<String>,
}

impl LoadReport {
    /// Returns what went wrong with calls that began that far into the load or later.
    pub fn failed_since(&self, since: Duration) -> impl Iterator<Item = &(Duration, String)> {
        self.failed.iter().filter(move |(began, _)| *began >= since)
    }
}

impl Load {
    /// Calls `url` `per_second` times a second, for at most `bound`.
    pub fn start(url: &str, per_second: u32, bound: Duration) -> Self {
        Self::over(&[url.to_owned()], per_second, bound)
    }

    /// Calls one of `urls` after the other, as a balancer in front of them does: where a port refuses, nothing was sent, and the
    /// next one is called.
    pub fn over(urls: &[String], per_second: u32, bound: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let (urls, stopped, results) = (urls.to_vec(), Arc::clone(&stop), Arc::clone(&outcomes));
        let start = Instant::now();
        let pacer = std::thread::spawn(move || {
            let mut calls = Vec::new();
            for number in 0.. {
                let due = start + Duration::from_secs(1) * number / per_second;
                if due - start > bound || stopped.load(Ordering::Relaxed) {
                    break;
                }
                if let Some(pause) = due.checked_duration_since(Instant::now()) {
                    std::thread::sleep(pause); // the pace of the load
                }
                let (mut urls, results) = (urls.clone(), Arc::clone(&results));
                let first = usize::try_from(number).unwrap_or(0) % urls.len();
                urls.rotate_left(first);
                calls.push(std::thread::spawn(move || {
                    let outcome = call(&urls);
                    results.lock().expect("no holder panics").push(outcome);
                }));
            }
            for call in calls {
                call.join().expect("a call does not panic");
            }
        });
        Self { start, stop, outcomes, pacer: Some(pacer) }
    }

    /// Returns how far into the load this is.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns how many calls have ended so far.
    pub fn ended(&self) -> usize {
        self.outcomes.lock().expect("no holder panics").len()
    }

    /// Begins no more calls, waits for those in flight and returns what became of all.
    pub fn finish(mut self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pacer) = self.pacer.take() {
            pacer.join().expect("the pacer does not panic");
        }
        let mut outcomes = self.outcomes.lock().expect("no holder panics").clone();
        outcomes.sort_by_key(|outcome| outcome.began);
        let mut report = LoadReport { succeeded: 0, failed: Vec::new(), slowest: Duration::ZERO, bodies: Vec::new() };
        for outcome in outcomes {
            match outcome.result {
                Ok(body) => {
                    report.succeeded += 1;
                    report.slowest = report.slowest.max(outcome.took);
                    report.bodies.push(body);
                }
                Err(error) => report.failed.push((outcome.began - self.start, error)),
            }
        }
        report
    }
}

/// Makes one call on a connection of its own, to the first of `urls` that takes one.
fn call(urls: &[String]) -> Outcome {
    let began = Instant::now();
    let agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(CALL_MAX)).build().new_agent();
    let mut last = "there is no URL".to_owned();
    for url in urls {
        let result = match agent.get(url).call() {
            Err(error) if is_refused(&error) => {
                last = format!("{url}: {error}");
                continue;
            }
            Err(error) => Err(format!("{url}: {error}")),
            Ok(mut reply) => match reply.body_mut().read_to_string() {
                Ok(body) if reply.status() == 200 => Ok(body),
                Ok(body) => Err(format!("{url}: {}: {body}", reply.status())),
                Err(error) => Err(format!("{url}: {error}")),
            },
        };
        return Outcome { began, took: began.elapsed(), result };
    }
    Outcome { began, took: began.elapsed(), result: Err(last) }
}

/// Returns whether a port refused the connection.
fn is_refused(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::ConnectionFailed => true,
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}
