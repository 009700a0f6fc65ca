//! What functions reach: nothing but themselves, unless their manifest asks for a way out.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tests::{Daemon, repository};

use crate::Test;

pub(crate) const TESTS: &[Test] =
    &[("only_functions_with_a_way_out_reach_the_network", only_functions_with_a_way_out_reach_the_network)];

/// A server outside of every sandbox that answers anything with `outside`.
struct Outside {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut stream = stream.expect("a connection is taken");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).expect("a request is read");
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\noutside").expect("an answer is written");
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

fn only_functions_with_a_way_out_reach_the_network() {
    let outside = Outside::start();
    let mut daemon = Daemon::agent();
    let output = daemon.hearth(&["apply", &repository().join("tests/functions/network").to_string_lossy()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", daemon.log());
    assert!(said.contains("outside: network \"egress\" shares the network of its node"), "{said}");
    assert!(!said.contains("inside: network"), "{said}");

    let call = |daemon: &Daemon, function: &str| {
        daemon.get(&format!("/function/{function}?url=http://127.0.0.1:{}/", outside.port))
    };
    let reply = call(&daemon, "inside");
    assert!(reply.status == 502 && reply.body.contains("refused"), "{reply:?}");
    // Two instances of each: their ports are no one else's.
    for function in ["outside", "web", "polling"] {
        for _ in 0..4 {
            let reply = call(&daemon, function);
            assert!(reply.status == 200 && reply.body.contains("outside"), "{function}: {reply:?}");
        }
    }

    // Ports outlive the daemon with the instances that listen on them.
    daemon.kill();
    daemon.start();
    for function in ["outside", "web", "polling"] {
        let reply = call(&daemon, function);
        assert!(reply.status == 200 && reply.body.contains("outside"), "{function}: {reply:?}");
    }
}
