//! Clients that change and read one function through all hosts, and whether one order of everything explains what they saw.
//!
//! Every write deploys the app with an idle limit of the function that no other write gives it, and is answered with the index
//! of the cluster's state after it; a read tells both. So every operation knows its place, and whether the history is linearizable is a sweep over
//! time: whoever begins after another has ended must stand behind it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::request_with;
use crate::{Rack, eventually};

/// How long one operation may take before nobody knows what came of it.
const OPERATION_MAX: Duration = Duration::from_secs(8);

/// How long a host may take to say what is deployed; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first limit that is written, in milliseconds of idling: nothing idles for so long here.
const LIMIT_FIRST: u64 = 3_600_001;

/// Clients at work.
#[derive(Debug)]
pub struct Writers {
    stop: Arc<AtomicBool>,
    operations: Arc<Mutex<Vec<Operation>>>,
    threads: Vec<JoinHandle<()>>,
}

/// One operation.
#[derive(Clone, Debug)]
struct Operation {
    began: Instant,
    ended: Instant,
    /// The limit that it writes; none for a read.
    written: Option<u64>,
    /// The index and the limit it was told; none where nobody knows.
    told: Option<(u64, u64)>,
}

/// What the clients saw.
#[derive(Debug)]
pub struct WritersReport {
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Operations of which nobody knows what came of them, refused ones included.
    pub unknown: usize,
    /// The longest pause between two acknowledged writes.
    pub longest_pause: Duration,
    /// The limit that the last acknowledged write gave, and its index.
    pub last: Option<(u64, u64)>,
    /// What no order of the operations explains, in words; empty where one does.
    pub violations: Vec<String>,
}

impl Writers {
    /// Lets one client per host deploy and read, `per_second` operations in all, until it is finished: of three, two deploy.
    ///
    /// The function is the only one of its app, and is deployed already.
    pub fn start(rack: &Rack, hosts: &[usize], function: &str, per_second: u32) -> Self {
        let (stop, operations) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let path = format!("/v1/functions/{function}");
        let known: Value = eventually("a host says what is deployed", PATIENCE, || {
            let reply = rack.operate(hosts[0], "GET", &path, b"").ok().filter(|reply| reply.status == 200)?;
            Some(serde_json::from_str(&reply.body).expect("the API answers in JSON"))
        });
        let app = known["app"].as_str().expect("a function has an app");
        let part = |name: &str| (name.to_owned(), known[name].clone());
        let spec = Value::Object(["name", "revision", "scaling", "triggers"].map(part).into_iter().collect());
        let next = Arc::new(AtomicU64::new(LIMIT_FIRST));
        let pause = Duration::from_secs(1) * u32::try_from(hosts.len()).expect("a rack is small") / per_second;
        let client = |host: &usize| {
            let client = Client {
                agent: ureq::Agent::config_builder()
                    .http_status_as_error(false)
                    .timeout_global(Some(OPERATION_MAX))
                    .build()
                    .new_agent(),
                function: format!("http://{}:8090/v1/functions/{function}", rack.address(*host)),
                app: format!("http://{}:8090/v1/apps/{app}?detach=1", rack.address(*host)),
                spec: spec.clone(),
                token: rack.api_token(*host),
                next: Arc::clone(&next),
            };
            let (stop, operations): (_, Arc<Mutex<Vec<Operation>>>) = (Arc::clone(&stop), Arc::clone(&operations));
            std::thread::spawn(move || {
                for number in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let began = Instant::now();
                    let written = (number % 3 != 2).then(|| client.next.fetch_add(1, Ordering::Relaxed));
                    let told = client.operate(written);
                    let operation = Operation { began, ended: Instant::now(), written, told };
                    operations.lock().expect("no holder panics").push(operation);
                    std::thread::sleep(pause.saturating_sub(began.elapsed())); // the pace of the load
                }
            })
        };
        let threads = hosts.iter().map(client).collect();
        Self { stop, operations, threads }
    }

    /// Returns how many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        let operations = self.operations.lock().expect("no holder panics");
        operations.iter().filter(|operation| operation.written.is_some() && operation.told.is_some()).count()
    }

    /// Stops the clients and returns what they saw.
    pub fn finish(self) -> WritersReport {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        let operations = self.operations.lock().expect("no holder panics").clone();
        report(operations)
    }
}

struct Client {
    agent: ureq::Agent,
    /// Where the function is read.
    function: String,
    /// Where its app is deployed.
    app: String,
    /// The function as it is deployed, but for the limit.
    spec: Value,
    token: String,
    next: Arc<AtomicU64>,
}

impl Client {
    /// Deploys a limit, or reads; returns the index and the limit, where they are known.
    fn operate(&self, written: Option<u64>) -> Option<(u64, u64)> {
        let header = Some(("authorization", format!("Bearer {}", self.token)));
        let reply = match written {
            Some(limit) => {
                let mut spec = self.spec.clone();
                spec["scaling"]["idle_max_ms"] = limit.into();
                let body = serde_json::json!({ "functions": [spec] }).to_string();
                request_with(&self.agent, "PUT", &self.app, header, body.as_bytes())
            }
            None => request_with(&self.agent, "GET", &self.function, header, b""),
        };
        let reply = reply.ok().filter(|reply| reply.status == 200)?;
        // A deployment is answered line by line; the first says where it stands.
        let answer: Value = serde_json::from_str(reply.body.lines().next()?).ok()?;
        let index = answer["index"].as_u64()?;
        Some((index, written.or_else(|| answer["scaling"]["idle_max_ms"].as_u64())?))
    }
}

fn report(mut operations: Vec<Operation>) -> WritersReport {
    operations.sort_by_key(|operation| operation.began);
    let known = |operation: &&Operation| operation.written.is_some() && operation.told.is_some();
    let mut ends: Vec<Instant> = operations.iter().filter(known).map(|operation| operation.ended).collect();
    ends.sort_unstable();
    let pauses = ends.windows(2).map(|pair| pair[1] - pair[0]);
    WritersReport {
        acknowledged: ends.len(),
        unknown: operations.iter().filter(|operation| operation.told.is_none()).count(),
        longest_pause: pauses.max().unwrap_or_default(),
        last: operations.iter().filter(known).filter_map(|operation| operation.told).max(),
        violations: violations(&operations),
    }
}

/// Returns what no order of the operations explains, in words.
fn violations(operations: &[Operation]) -> Vec<String> {
    let mut found = Vec::new();
    // What each place holds, as whoever was told of it says.
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut writers: BTreeMap<u64, u64> = BTreeMap::new();
    let began: BTreeMap<u64, Instant> =
        operations.iter().filter_map(|operation| Some((operation.written?, operation.began))).collect();
    for operation in operations {
        let Some((index, limit)) = operation.told else { continue };
        let known = *places.entry(index).or_insert(limit);
        if known != limit {
            found.push(format!("index {index} is told with the limits {known} and {limit}"));
        }
        if operation.written.is_some() && writers.insert(index, limit).is_some() {
            found.push(format!("two writes were acknowledged at index {index}"));
        }
        if began.get(&limit).is_some_and(|began| *began > operation.ended) {
            found.push(format!("the limit {limit} was seen before anybody wrote it"));
        }
    }
    // Whoever begins after another has ended stands behind it.
    let mut ended: Vec<(Instant, u64)> =
        operations.iter().filter_map(|operation| Some((operation.ended, operation.told?.0))).collect();
    ended.sort_unstable();
    let (mut next, mut reached) = (0, 0);
    for operation in operations {
        let Some((index, limit)) = operation.told else { continue };
        while let Some((at, place)) = ended.get(next)
            && *at < operation.began
        {
            reached = reached.max(*place);
            next += 1;
        }
        let is_behind = if operation.written.is_some() { index > reached } else { index >= reached };
        if !is_behind {
            let verb = if operation.written.is_some() { "write" } else { "read" };
            found.push(format!("a {verb} of {limit} stands at {index}, though {reached} was told before it began"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When an operation began and ended, what it wrote, what it was told.
    type Told = (u64, u64, Option<u64>, Option<(u64, u64)>);

    fn history(operations: &[Told]) -> Vec<String> {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let operation = |(began, ended, written, told): &Told| Operation {
            began: at(*began),
            ended: at(*ended),
            written: *written,
            told: *told,
        };
        violations(&operations.iter().map(operation).collect::<Vec<_>>())
    }

    #[test]
    fn an_order_is_found_where_there_is_one() {
        let sound = [
            (0, 10, Some(1000), Some((5, 1000))),
            (5, 15, Some(1001), Some((4, 1001))),
            // Its writer was told nothing, and it happened.
            (16, 20, Some(1002), None),
            (21, 25, None, Some((9, 1002))),
            (26, 30, None, Some((9, 1002))),
        ];
        assert_eq!(history(&sound), Vec::<String>::new());
    }

    #[test]
    fn what_no_order_explains_is_told() {
        let lost = [(0, 10, Some(1000), Some((5, 1000))), (11, 12, None, Some((4, 1)))];
        let twice = [(0, 10, Some(1000), Some((5, 1000))), (0, 10, Some(1001), Some((5, 1001)))];
        let early = [(0, 10, None, Some((5, 1000))), (11, 12, Some(1000), Some((5, 1000)))];
        let late = [(0, 10, Some(1000), Some((5, 1000))), (11, 12, Some(1001), Some((5, 1001)))];
        for broken in [&lost[..], &twice, &early, &late] {
            assert_ne!(history(broken), Vec::<String>::new(), "{broken:?}");
        }
    }
}
