//! A machine of its own for tests of the network: a namespace in which daemons run, and others that lie beyond it.
//!
//! ```text
//!   machine                                   outside
//!   eth0 203.0.113.1 ───────────────────────── 203.0.113.2, 203.0.113.3, 169.254.169.254
//!   eth1 198.51.100.1 ──── 198.51.100.2  far
//! ```
//!
//! Nothing here touches the network of the machine that the tests run on.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// How long anything may take that the kernel or a daemon does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a connection may take that nobody answers.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Where servers listen, on every address of their machine.
pub(crate) const PORT: u16 = 7000;

/// Counts the machines of this process.
static MACHINES: AtomicU32 = AtomicU32::new(0);

/// A machine, what lies beyond it, and a server on each.
pub(crate) struct Machine {
    name: String,
    servers: Vec<Server>,
}

/// Which of the namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where the daemons run.
    Machine,
    /// What sandboxes may reach.
    Outside,
    /// What lies behind the machine's other interface.
    Far,
}

impl Place {
    const fn letter(self) -> char {
        match self {
            Self::Machine => 'm',
            Self::Outside => 'o',
            Self::Far => 'f',
        }
    }
}

/// Runs an asynchronous test whose every thread is on a machine.
pub(crate) fn on_machine<F: Future<Output = ()>>(test: impl FnOnce(Arc<Machine>) -> F + Send) {
    let machine = Arc::new(Machine::new());
    let namespace = machine.namespace(Place::Machine);
    let enter = move || {
        let file = std::fs::File::open(&namespace).expect("the namespace is there");
        setns(file, CloneFlags::CLONE_NEWNET).expect("root enters namespaces");
    };
    // Not on the thread of all tests: it would have to come back.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter();
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(enter.clone())
                .build()
                .expect("threads can be made")
                .block_on(test(machine));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Machine {
    fn new() -> Self {
        let name = format!("he{}n{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed));
        let mut machine = Self { name, servers: Vec::new() };
        for place in [Place::Machine, Place::Outside, Place::Far] {
            ip(&["netns", "add", &machine.netns(place)]);
            machine.ip(place, &["link", "set", "lo", "up"]);
        }
        machine.connect("eth0", "203.0.113.1/24", Place::Outside, "203.0.113.2/24");
        machine.connect("eth1", "198.51.100.1/24", Place::Far, "198.51.100.2/24");
        machine.ip(Place::Outside, &["addr", "add", "203.0.113.3/32", "dev", "lo"]);
        machine.ip(Place::Outside, &["addr", "add", "169.254.169.254/32", "dev", "lo"]);
        machine.ip(Place::Machine, &["route", "add", "203.0.113.3/32", "via", "203.0.113.2"]);
        machine.ip(Place::Machine, &["route", "add", "169.254.0.0/16", "via", "203.0.113.2"]);
        machine.ip(Place::Machine, &["route", "add", "default", "via", "203.0.113.2"]);
        for place in [Place::Machine, Place::Outside, Place::Far] {
            let server = machine.within(place, Server::start);
            machine.servers.push(server);
        }
        machine
    }

    fn connect(&self, link: &str, address: &str, place: Place, theirs: &str) {
        let (own, other) = (self.netns(Place::Machine), self.netns(place));
        ip(&["-n", &own, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &other]);
        for (place, link, address) in [(Place::Machine, link, address), (place, "eth0", theirs)] {
            self.ip(place, &["addr", "add", address, "dev", link]);
            self.ip(place, &["link", "set", link, "up"]);
        }
    }

    fn netns(&self, place: Place) -> String {
        format!("{}{}", self.name, place.letter())
    }

    fn namespace(&self, place: Place) -> String {
        format!("/run/netns/{}", self.netns(place))
    }

    /// Runs `ip` at a place.
    pub(crate) fn ip(&self, place: Place, arguments: &[&str]) {
        ip(&[&["-n", &self.netns(place)], arguments].concat());
    }

    /// Does something in the network namespace of a place.
    pub(crate) fn within<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = std::fs::File::open(self.namespace(place)).expect("the namespace is there");
                setns(file, CloneFlags::CLONE_NEWNET).expect("root enters namespaces");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Returns what a server says to whoever connects from a place.
    pub(crate) fn fetch(&self, from: Place, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().expect("it is an address");
        self.within(from, || {
            let mut stream = TcpStream::connect_timeout(&address, CONNECT_MAX)?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Returns what the kernel says of the network at a place: links, routes and tables, by the words of what is asked.
    pub(crate) fn told(&self, place: Place, arguments: &[&str]) -> String {
        let netns = self.netns(place);
        let output = Command::new("ip").args(["-n", &netns]).args(arguments).output().expect("ip is there");
        String::from_utf8(output.stdout).expect("ip says text")
    }

    /// Returns a setting of the machine's kernel.
    pub(crate) fn setting(&self, name: &str) -> String {
        self.within(Place::Machine, || {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("it is there").trim().to_owned()
        })
    }

    /// Changes a setting of the machine's kernel.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.within(Place::Machine, || {
            std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).expect("it can be changed");
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.servers.clear();
        for place in [Place::Machine, Place::Outside, Place::Far] {
            let _ = Command::new("ip").args(["netns", "del", &self.netns(place)]).status();
        }
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await; // between two looks
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().expect("ip is there");
    assert!(status.success(), "ip {arguments:?} failed");
}

/// Tells everybody by which address it sees them, over TCP and UDP.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    wake: UdpSocket,
    listener: TcpListener,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("nobody else is there");
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("nobody else is there");
        let wake = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        let stop = Arc::new(AtomicBool::new(false));
        let (taking, held) = (listener.try_clone().expect("descriptors can be copied"), Arc::clone(&stop));
        let streams = std::thread::spawn(move || {
            while let Ok((mut stream, caller)) = taking.accept() {
                if held.load(Ordering::Relaxed) {
                    break;
                }
                // Whoever only tries has gone already.
                let _ = stream.write_all(text(caller.ip()).as_bytes());
            }
        });
        let held = Arc::clone(&stop);
        let packets = std::thread::spawn(move || {
            let mut packet = [0; 64];
            while let Ok((_, caller)) = socket.recv_from(&mut packet) {
                if held.load(Ordering::Relaxed) {
                    break;
                }
                let _ = socket.send_to(text(caller.ip()).as_bytes(), caller);
            }
        });
        Self { stop, threads: vec![streams, packets], wake, listener }
    }
}

fn text(caller: IpAddr) -> String {
    format!("seen as {caller}")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It was made where the server is, so that it leads there from anywhere.
        let _ = self.wake.send_to(b"end", ("127.0.0.1", PORT));
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.listener),
            nix::sys::socket::Shutdown::Both,
        );
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
