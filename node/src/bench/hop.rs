//! `hearth bench hop`: what the way through a second node adds to a warm call.
//!
//! Both gateways run in this process, each with threads of its own, and speak over a TCP connection of the loopback
//! interface without TLS; the instance is a process beside them. One call at a time goes each way in turn.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_plane::model::{
    Bytes, Concurrency, Constraints, Digest, Epoch, InstanceId, MilliCpu, Network, Node, NodeId, NodeSpec, Purpose,
    Resources, RevisionId, RevisionNumber, RevisionSpec, Runtime, Scaling, Timestamp,
};
use control_plane::state::{Function, Placement, Revision, RevisionStatus, State};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::http::{Connection, get};
use super::program::{Address, install, server};
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::subject::free_address;
use super::{Bench, BenchError, folder_in, io_at, until};
use crate::clock::Clock;
use crate::contract::{Capture, Channel, Http, OutputLimits, log_queue};
use crate::gateway::{Dial, Dialing, Gateway, Limits, PeerIo, QUEUE_MAX, StartPhases, Traffic, Unobserved};

/// How often each way is measured unless told otherwise.
const ROUNDS: usize = 30;

/// Calls of one turn over one connection; then it is another's turn.
const CALLS: usize = 200;

/// Calls before those that count.
const WARM_UP: usize = 1000;

/// What a hop may add to the median, in microseconds.
const ADDED_MAX: f64 = 150.0;

/// The node that has no instance, and the one that has it.
const NODES: [NodeId; 2] = [NodeId(1), NodeId(2)];

const INSTANCE: InstanceId = InstanceId { origin: 0, epoch: Epoch(0), sequence: 1 };

/// One way to the instance, and what calls took that way.
struct Way {
    name: &'static str,
    role: Role,
    connection: Connection,
    request: Vec<u8>,
    samples: Samples,
}

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let instance = Instance::start()?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let failed = io_at("the gateways cannot be started");
    let [entry, home] = gateways(instance.address, &stop).await.map_err(&failed)?;
    let mut ways = ways(entry, home, instance.address).map_err(&failed)?;
    let failed = io_at("a warm call failed");
    for way in &mut ways {
        let answer = way.connection.send(&way.request).map_err(&failed)?;
        if answer.status != 200 {
            let reason = format!("{} answered {}", way.name, answer.status);
            return Err(BenchError::Program { program: "a gateway".to_owned(), reason });
        }
        for _ in 0..WARM_UP {
            way.connection.exchange(&way.request).map_err(&failed)?;
        }
    }
    for round in 0..rounds {
        bench.go_on()?;
        bench.say(&format!("{round} of {rounds} rounds"));
        for way in &mut ways {
            for _ in 0..CALLS {
                let start = Instant::now();
                way.connection.exchange(&way.request).map_err(&failed)?;
                way.samples.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    let rows = ways.iter().map(|way| Row::new(way.name, way.role, &way.samples)).collect();
    let whole = Section::new("one call at a time over one connection", "µs", rows);
    let difference = |one: Option<f64>, other: Option<f64>| one.zip(other).map(|(one, other)| one - other);
    let [through, local] = [&whole.rows[0], &whole.rows[1]];
    let added = Row {
        samples: through.samples,
        p50: difference(through.p50, local.p50),
        p99: difference(through.p99, local.p99),
        ..Row::missing("hearth", Role::Ours, "difference of the percentiles")
    };
    let added = Section::new("added to a call by the hop", "µs", vec![added]);
    let median = added.median("hearth");
    Ok(bench.report("hop", rounds, vec![added.goal("median", median, Side::AtMost, ADDED_MAX), whole]))
}

fn ways(entry: SocketAddr, home: SocketAddr, instance: SocketAddr) -> io::Result<Vec<Way>> {
    let way = |name, role, address, path: &str| -> io::Result<Way> {
        let connection = Connection::tcp(address)?;
        Ok(Way { name, role, connection, request: get(path, ""), samples: Samples::default() })
    };
    Ok(vec![
        way("through a node without an instance", Role::Ours, entry, "/function/static")?,
        way("through the node that has it", Role::Ours, home, "/function/static")?,
        way("directly at the instance", Role::Floor, instance, "/")?,
    ])
}

/// A server that answers every request alike; ends when dropped.
struct Instance {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Instance {
    fn start() -> Result<Self, BenchError> {
        let failed = io_at("the instance cannot be started");
        let folder = folder_in(std::env::temp_dir()).map_err(&failed)?;
        let port = free_address().map_err(&failed)?.port();
        let path = folder.path().join("server");
        server(Address::Port(port)).and_then(|program| install(&program, &path)).map_err(&failed)?;
        let child = Command::new(&path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(&failed)?;
        let instance = Self { child, address: (Ipv4Addr::LOCALHOST, port).into(), _folder: folder };
        until("the instance listens", || Connection::tcp(instance.address).is_ok())?;
        Ok(instance)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The way to the second node.
#[derive(Debug)]
struct ToHome(SocketAddr);

impl Dial for ToHome {
    fn dial(&self, _node: NodeId) -> Dialing<'_> {
        Box::pin(async {
            let socket = TcpStream::connect(self.0).await?;
            socket.set_nodelay(true)?;
            Ok(Box::new(socket) as Box<dyn PeerIo>)
        })
    }
}

/// Starts both gateways and returns where callers reach them.
async fn gateways(instance: SocketAddr, stop: &CancellationToken) -> io::Result<[SocketAddr; 2]> {
    let peers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let dial: Arc<dyn Dial> = Arc::new(ToHome(peers.local_addr()?));
    let mut fronts = [SocketAddr::from(([0, 0, 0, 0], 0)); 2];
    let mut home = None;
    for (node, front) in NODES.into_iter().zip(&mut fronts) {
        let clock = Clock::system();
        let (traffic, mut demands) = Traffic::new(clock.clone(), QUEUE_MAX);
        // Nothing is ever wanted: each call finds what it needs.
        tokio::spawn(async move { while demands.recv().await.is_some() {} });
        let (limits, observer) = (Limits::default(), Arc::new(Unobserved));
        let gateway = Gateway::among_peers(traffic.clone(), clock, limits, observer, node, Arc::clone(&dial));
        gateway.set_state(&state());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        *front = listener.local_addr()?;
        if node == NODES[1] {
            let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
            let channel = Arc::new(Channel::Http(Http::new(move || TcpStream::connect(instance), capture)));
            traffic.instance_ready(&revision(), INSTANCE, channel, None, StartPhases::default());
            home = Some(gateway.clone());
        }
        let stop = stop.clone();
        tokio::spawn(async move { gateway.serve(listener, stop, Duration::ZERO).await });
    }
    let home = home.ok_or(io::ErrorKind::NotFound)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = peers.accept().await {
            // An answer that waits for the acknowledgement of its head costs 40 ms.
            if socket.set_nodelay(true).is_ok() {
                let (home, stop) = (home.clone(), stop.clone());
                tokio::spawn(async move { home.serve_peer(socket, NODES[0], stop).await });
            }
        }
    });
    Ok(fronts)
}

fn revision() -> RevisionId {
    RevisionId { function: "static".parse().expect("the name is valid"), number: RevisionNumber(1) }
}

/// Returns what both nodes have applied: one function, whose only instance is on the second.
fn state() -> State {
    let at = Timestamp::from_millis(0);
    let resources = Resources { cpu: MilliCpu(100), memory: Bytes::mebi(64), disk: Bytes(0), pids: 16 };
    let spec = RevisionSpec {
        runtime: Runtime::Http,
        image: Digest::from_bytes([0; 32]),
        command: Vec::new(),
        handler: None,
        environment: BTreeMap::new(),
        resources,
        timeout: Duration::from_secs(30),
        concurrency: Concurrency::ONE,
        network: Network::None,
        placement: Constraints::default(),
        user: None,
    };
    let created = Revision { spec, created_at: at, status: RevisionStatus::Proved };
    let function = Function {
        app: "bench".parse().expect("the name is valid"),
        index: 1,
        scaling: Scaling::DEFAULT,
        triggers: Vec::new(),
        revisions: BTreeMap::from([(revision().number, created)]),
        live: Some(revision().number),
        candidate: None,
    };
    let mut state = State::default();
    state.functions.insert(revision().function, function);
    for node in NODES {
        let spec = NodeSpec { name: node.to_string(), capacity: resources, labels: BTreeMap::new() };
        state.nodes.insert(node, Node::new(spec, Epoch(1)));
    }
    let placement = Placement { revision: revision(), node: NODES[1], resources, purpose: Purpose::Demand, since: at };
    state.placements.insert(INSTANCE, placement);
    state
}
