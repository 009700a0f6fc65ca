//! `hearth bench hop`: what the way through a second node adds to a warm call.
//!
//! All gateways run in this process, each with threads of its own. Two have no instance: one passes its calls on as nodes do, over
//! mutual TLS to the port that peers come to; the other over plain TCP, which tells what TLS costs. The instance is a process
//! beside them. One call at a time goes each way in turn.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{
    Bytes, Concurrency, Constraints, Digest, Epoch, FeatureLevel, InstanceId, MilliCpu, Network, Node, NodeId,
    NodeSpec, Purpose, Resources, RevisionId, RevisionNumber, RevisionSpec, Runtime, Scaling, Timestamp,
};
use control_plane::state::{Function, Placement, Revision, RevisionStatus, State};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::http::Connection;
use super::program::{Address, install, server};
use super::report::{Report, Role, Section, Side};
use super::subject::free_address;
use super::way::{Way, added, take_turns};
use super::{Bench, BenchError, folder_in, io_at, until};
use crate::auth::{Authority, CERTIFICATE_LIFE, ClusterId, NewKey, PeerTls, Protocol};
use crate::clock::Clock;
use crate::contract::{Capture, Channel, Http, OutputLimits, log_queue};
use crate::gateway::{Dial, Dialing, Gateway, Limits, PeerIo, QUEUE_MAX, StartPhases, Traffic, Unobserved};
use crate::peering::{Dialer, Door, take_plain};

/// How often each way is measured unless told otherwise.
const ROUNDS: usize = 30;

/// What a hop may add to the median, in microseconds.
const ADDED_MAX: f64 = 150.0;

/// The node that has the instance.
const HOME: NodeId = NodeId(1);

/// The node that passes calls on over mutual TLS.
const GUARDED: NodeId = NodeId(2);

/// The node that passes calls on over plain TCP.
const PLAIN: NodeId = NodeId(3);

const INSTANCE: InstanceId = InstanceId { origin: 0, epoch: Epoch(0), sequence: 1 };

pub(super) async fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let instance = Instance::start()?;
    let folder = folder_in(std::env::temp_dir()).map_err(io_at("keys cannot be kept"))?;
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let fronts = gateways(folder.path(), instance.address, &stop).await?;
    let way = |name, role, address, path: &str| -> Result<Way, BenchError> {
        let connection = Connection::tcp(address).map_err(io_at("a gateway cannot be reached"))?;
        Ok(Way::new(name, role, connection, path))
    };
    let path = format!("/function/{}", revision().function);
    let ways = vec![
        way("through a second node, over mutual TLS", Role::Ours, fronts.guarded, &path)?,
        way("through a second node, over plain TCP", Role::Ours, fronts.plain, &path)?,
        way("through the node that has it", Role::Ours, fronts.home, &path)?,
        way("directly at the instance", Role::Floor, instance.address, "/")?,
    ];
    let whole = take_turns(bench, ways, rounds)?;
    let hop = |name, through| added(&whole, name, Role::Ours, through, "through the node that has it");
    let rows = [
        hop("over mutual TLS, as nodes do", "through a second node, over mutual TLS"),
        hop("over plain TCP", "through a second node, over plain TCP"),
    ];
    let added = Section::new("added to a call by the hop", "µs", rows.into_iter().flatten().collect());
    let median = added.median("over mutual TLS, as nodes do");
    let added = added.goal("median over mutual TLS", median, Side::AtMost, ADDED_MAX);
    Ok(bench.report("hop", rounds, vec![added, whole]))
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

/// The way to the node that has the instance.
#[derive(Debug)]
struct ToHome {
    dialer: Dialer,
    address: SocketAddr,
}

impl Dial for ToHome {
    fn dial(&self, node: NodeId) -> Dialing<'_> {
        Box::pin(async move {
            let stream = self.dialer.dial(node, &self.address.to_string(), Protocol::Calls).await?;
            Ok(Box::new(stream) as Box<dyn PeerIo>)
        })
    }
}

/// Where callers reach the gateways.
struct Fronts {
    home: SocketAddr,
    guarded: SocketAddr,
    plain: SocketAddr,
}

/// Starts the gateways, the keys of whose nodes lie in `folder`.
async fn gateways(folder: &Path, instance: SocketAddr, stop: &CancellationToken) -> Result<Fronts, BenchError> {
    let clock = Clock::system();
    let failed = io_at("the gateways cannot be started");
    let [home_tls, guarded_tls] = identities(folder, &clock)?;
    let listen = async || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(&failed);
    let (guarded_door, plain_door) = (listen().await?, listen().await?);
    let address = |listener: &TcpListener| listener.local_addr().map_err(&failed);
    let (to_guarded, to_plain) = (address(&guarded_door)?, address(&plain_door)?);
    let guarded = ToHome { dialer: Dialer::Mutual(guarded_tls), address: to_guarded };
    let plain = |address| ToHome { dialer: Dialer::Plain, address };

    let mut fronts = Vec::new();
    let mut gateways = Vec::new();
    for (node, dial) in [(HOME, plain(to_plain)), (GUARDED, guarded), (PLAIN, plain(to_plain))] {
        let (traffic, mut demands) = Traffic::new(clock.clone(), QUEUE_MAX);
        // Nothing is ever wanted: each call finds what it needs.
        tokio::spawn(async move { while demands.recv().await.is_some() {} });
        let (limits, observer) = (Limits::default(), Arc::new(Unobserved));
        let gateway = Gateway::among_peers(traffic.clone(), clock.clone(), limits, observer, node, Arc::new(dial));
        gateway.set_state(&state());
        if node == HOME {
            let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
            let channel = Arc::new(Channel::Http(Http::new(move || TcpStream::connect(instance), capture)));
            traffic.instance_ready(&revision(), INSTANCE, channel, None, StartPhases::default());
        }
        let listener = listen().await?;
        fronts.push(address(&listener)?);
        gateways.push(gateway.clone());
        let stop = stop.clone();
        tokio::spawn(async move { gateway.serve(listener, stop, Duration::ZERO).await });
    }
    let (door, mut visitors) = Door::new(guarded_door, home_tls);
    tokio::spawn(door.keep(stop.clone()));
    let (home, end) = (gateways[0].clone(), stop.clone());
    tokio::spawn(async move {
        let mut unguarded = std::pin::pin!(take_plain(plain_door));
        loop {
            let stream = tokio::select! {
                Some(stream) = visitors.calls.recv() => stream,
                Some(stream) = unguarded.next() => stream,
                () = end.cancelled() => return,
            };
            let peer = stream.peer().map_or(PLAIN, |peer| peer.node);
            let (home, end) = (home.clone(), end.clone());
            tokio::spawn(async move { home.serve_peer(stream, peer, end).await });
        }
    });
    Ok(Fronts { home: fronts[0], guarded: fronts[1], plain: fronts[2] })
}

/// Returns what the node that has the instance and the one that passes calls on over mutual TLS prove to be themselves with.
fn identities(folder: &Path, clock: &Clock) -> Result<[PeerTls; 2], BenchError> {
    let failed = |error: &dyn std::error::Error| BenchError::Program {
        program: "the authority of the cluster".to_owned(),
        reason: error.to_string(),
    };
    let now = clock.now();
    let authority =
        Authority::found(&folder.join("authority"), ClusterId::random(), now).map_err(|error| failed(&error))?;
    let identity = |node| {
        let key = NewKey::random();
        let issued = authority.issue(&key.request(), node, now, CERTIFICATE_LIFE).map_err(|error| failed(&error))?;
        let identity = key.accept(&issued, authority.certificate(), authority.digest(), now);
        Ok::<_, BenchError>(PeerTls::new(&identity.map_err(|error| failed(&error))?, clock, |_| true))
    };
    Ok([identity(HOME)?, identity(GUARDED)?])
}

fn revision() -> RevisionId {
    RevisionId { function: "static".parse().expect("the name is valid"), number: RevisionNumber(1) }
}

/// Returns what all nodes have applied: one function, whose only instance is at home.
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
    for node in [HOME, GUARDED, PLAIN] {
        let spec = NodeSpec {
            name: node.to_string(),
            capacity: resources,
            labels: BTreeMap::new(),
            features: FeatureLevel::NEWEST,
        };
        state.nodes.insert(node, Node::new(spec, Epoch(1)));
    }
    let placement = Placement { revision: revision(), node: HOME, resources, purpose: Purpose::Demand, since: at };
    state.placements.insert(INSTANCE, placement);
    state
}
