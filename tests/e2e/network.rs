//! What functions reach: nothing but themselves, unless their manifest asks for a way out; and then what lies beyond their node.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tests::{Rack, Reply, eventually, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] = &[
    ("only_functions_with_a_way_out_reach_the_network", only_functions_with_a_way_out_reach_the_network),
    ("a_way_out_outlives_its_daemon_and_ends_with_the_last_instance", {
        a_way_out_outlives_its_daemon_and_ends_with_the_last_instance
    }),
    ("a_node_that_cannot_make_a_way_out_says_why", a_node_that_cannot_make_a_way_out_says_why),
];

/// How long something may take that a node does by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server beyond the rack that tells everybody by which address it sees them.
struct Outside {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("there is a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, caller)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).expect("a request is read");
                write!(stream, "HTTP/1.0 200 OK\r\n\r\nseen as {}", caller.ip()).expect("an answer is written");
            }
        });
        Self { port, stop, thread: Some(thread) }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Lets a function of the first host fetch from a place.
fn fetch(rack: &Rack, function: &str, place: &str) -> Reply {
    rack.call(1, &format!("/function/{function}?url=http://{place}/")).expect("the gateway answers")
}

fn apply(rack: &Rack) {
    rack.succeed(1, &["apply", &repository().join("tests/functions/network").to_string_lossy()]);
}

fn only_functions_with_a_way_out_reach_the_network() {
    let outside = Outside::start();
    let mut rack = Rack::new(3);
    rack.found();
    apply(&rack);
    let place = format!("{}:{}", rack.own_address(), outside.port);
    let reply = fetch(&rack, "inside", &place);
    assert!(reply.status == 502 && reply.body.contains("Network is unreachable"), "{reply:?}");
    for function in ["outside", "web", "polling"] {
        let reply = fetch(&rack, function, &place);
        // Which of the hosts runs it is the platform's to say.
        let seen = [1, 2, 3].map(|host| format!("seen as {}", rack.address(host)));
        assert!(reply.status == 200 && seen.iter().any(|seen| reply.body.contains(seen)), "{function}: {reply:?}");
    }

    // Where nodes speak to each other and to operators, nobody else does, on whichever host.
    for host in [1, 2, 3] {
        for port in [8090, 8100] {
            let reply = fetch(&rack, "outside", &format!("{}:{port}", rack.address(host)));
            assert!(reply.status == 502 && reply.body.contains("Connection refused"), "{host} {port}: {reply:?}");
        }
    }
}

fn a_way_out_outlives_its_daemon_and_ends_with_the_last_instance() {
    let outside = Outside::start();
    let mut rack = Rack::new(1);
    rack.found();
    let place = format!("{}:{}", rack.own_address(), outside.port);
    let seen = format!("seen as {}", rack.address(1));
    assert_eq!(rack.wires(1), 0, "nothing is touched before a function asks");
    apply(&rack);
    let reaches = |rack: &Rack, function: &str| {
        let reply = fetch(rack, function, &place);
        assert!(reply.status == 200 && reply.body.contains(&seen), "{function}: {reply:?}");
    };
    ["outside", "web", "polling"].iter().for_each(|function| reaches(&rack, function));
    let web = |rack: &Rack| -> Vec<String> {
        let listed = rack.operate(1, "GET", "/v1/instances", b"").expect("the API answers");
        let listed: Vec<Value> = serde_json::from_str(&listed.body).expect("it is a list");
        let ours = listed.iter().filter(|instance| instance["function"] == "web");
        let mut names: Vec<String> = ours.map(|instance| instance["id"].to_string()).collect();
        names.sort();
        names
    };
    let before = web(&rack);
    assert!(before.len() >= 2, "{before:?}");

    rack.kill(1);
    rack.start(1, &[]);
    assert_eq!(web(&rack), before, "the instances are those of before");
    // One answer of each, so that none of them has lost its way.
    for _ in 0..4 {
        reaches(&rack, "web");
    }
    reaches(&rack, "outside");

    // What a stopped agent leaves is what its instances need.
    rack.stop(1);
    assert!(rack.wires(1) >= before.len());
    rack.start(1, &[]);
    reaches(&rack, "web");
    rack.succeed(1, &["delete", "--all", "--yes"]);
    eventually("every instance is gone", PATIENCE, || {
        let listed = rack.operate(1, "GET", "/v1/instances", b"").expect("the API answers");
        (listed.body.trim() == "[]").then_some(())
    });
    rack.stop(1);
    eventually("every wire is gone", PATIENCE, || (rack.wires(1) == 0).then_some(()));
}

fn a_node_that_cannot_make_a_way_out_says_why() {
    let mut rack = Rack::new(1);
    let range = format!("{}.0.0/16", rack.address(1).split('.').take(2).collect::<Vec<_>>().join("."));
    let config = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(config.path(), format!("[egress]\nsubnet = \"{range}\"\n")).expect("it can be written");
    rack.start(1, &["--config", &config.path().to_string_lossy()]);
    let told = rack.refused(1, &["apply", &repository().join("tests/functions/network").to_string_lossy()]);
    let expected = format!("egress.subnet {range} overlaps the route to");
    assert!(told.contains(&expected) && told.contains("set egress.subnet to a range that is free"), "{told}");
    // The node itself is as well as ever.
    rack.until_ready(1);
}
