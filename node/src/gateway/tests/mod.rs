//! Calls through real gateways, over real sockets, to instances made for the occasion.

mod hop;
mod reach;
mod refusals;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use control_plane::dispatch::DeclineReason;
use control_plane::model::{
    self, Concurrency, Constraints, Digest, Epoch, FeatureLevel, InstanceFailure, InstanceId, MilliCpu, Network,
    NodeId, NodeSpec, Purpose, Resources, RevisionId, RevisionNumber, RevisionSpec, Runtime, Scaling, Timestamp,
};
use control_plane::state::{Function, Placement, Revision, RevisionStatus, State};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{CallRecord, Demand, Dial, Dialing, Gateway, Limits, Observer, PeerIo, QUEUE_MAX, StartPhases, Traffic};
use crate::clock::Clock;
use crate::contract::{Capture, Channel, EventChannel, Framed, Http, Identity, OutputLimits, log_queue};

/// How long anything in these tests may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer of a handler here.
const ANSWER_MAX: usize = 1 << 20;

/// A function that serves HTTP, and one that takes events.
const FUNCTIONS: [(&str, Runtime); 2] = [("web", Runtime::Http), ("py", Runtime::Python3)];

fn revision(function: &str) -> RevisionId {
    RevisionId { function: function.parse().unwrap(), number: RevisionNumber(1) }
}

fn memory(mebi: u64) -> Resources {
    Resources { memory: model::Bytes::mebi(mebi), cpu: MilliCpu(0), disk: model::Bytes(0), pids: 0 }
}

/// Makes a state in which an instance needs 100 MiB and each node has this grant and this many instances of each function.
fn state(nodes: &[(u32, u64, u32)]) -> State {
    let mut state = State::default();
    for (name, runtime) in FUNCTIONS {
        let spec = RevisionSpec {
            runtime,
            image: Digest::from_bytes([0; 32]),
            command: Vec::new(),
            handler: None,
            environment: BTreeMap::new(),
            resources: memory(100),
            timeout: PATIENCE,
            concurrency: Concurrency::new(10).unwrap(),
            network: Network::None,
            placement: Constraints::default(),
            user: None,
        };
        let created = Revision { spec, created_at: Timestamp::from_millis(0), status: RevisionStatus::Proved };
        let function = Function {
            app: "shop".parse().unwrap(),
            index: 1,
            scaling: Scaling::DEFAULT,
            triggers: Vec::new(),
            revisions: BTreeMap::from([(RevisionNumber(1), created)]),
            live: Some(RevisionNumber(1)),
            candidate: None,
        };
        state.functions.insert(name.parse().unwrap(), function);
    }
    for (id, grant, instances) in nodes {
        let node = NodeId(*id);
        let spec = NodeSpec {
            name: node.to_string(),
            capacity: memory(10_000),
            labels: BTreeMap::new(),
            features: FeatureLevel::NEWEST,
        };
        let mut known = model::Node::new(spec, Epoch(1));
        known.grant = memory(*grant);
        state.nodes.insert(node, known);
        for (name, _) in FUNCTIONS {
            for _ in 0..*instances {
                state.placed_last += 1;
                let placement = Placement {
                    revision: revision(name),
                    node,
                    resources: memory(100),
                    purpose: Purpose::Demand,
                    since: Timestamp::from_millis(0),
                };
                state.placements.insert(InstanceId::placed(state.placed_last), placement);
            }
        }
    }
    state
}

/// Where the gateways of the nodes listen for each other.
#[derive(Debug, Default)]
struct Loopback {
    addresses: Mutex<HashMap<NodeId, SocketAddr>>,
    dialed: AtomicUsize,
    suspected: Mutex<HashSet<NodeId>>,
}

impl Loopback {
    fn set(&self, node: u32, address: SocketAddr) {
        self.addresses.lock().unwrap().insert(NodeId(node), address);
    }
}

impl Dial for Loopback {
    fn dial(&self, node: NodeId) -> Dialing<'_> {
        Box::pin(async move {
            self.dialed.fetch_add(1, Ordering::Relaxed);
            let address = self.addresses.lock().unwrap().get(&node).copied();
            let socket = TcpStream::connect(address.ok_or(io::ErrorKind::NotFound)?).await?;
            socket.set_nodelay(true)?;
            Ok(Box::new(socket) as Box<dyn PeerIo>)
        })
    }

    fn is_suspected(&self, node: NodeId) -> bool {
        self.suspected.lock().unwrap().contains(&node)
    }
}

/// Every call that is over.
#[derive(Debug, Default)]
struct Records(Mutex<Vec<CallRecord>>);

impl Observer for Records {
    fn on_done(&self, record: &CallRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Records {
    /// Waits for the first record and returns it.
    async fn first(&self) -> CallRecord {
        until(|| !self.0.lock().unwrap().is_empty()).await;
        self.0.lock().unwrap().remove(0)
    }
}

/// What a node does about instances that are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// It has no room.
    Full,
    /// It starts them.
    Roomy,
    /// It starts them, and they fail.
    Failing,
}

/// A node: a gateway with an agent behind it, callers before it and peers beside it.
struct Node {
    gateway: Gateway,
    traffic: Traffic,
    front: SocketAddr,
    records: Arc<Records>,
    /// How often instances were wanted.
    wanted: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Node {
    /// Starts a node that has applied `state`; all its peers believe to be node 1.
    async fn start(id: u32, agent: Agent, state: &State, loopback: &Arc<Loopback>) -> Self {
        let clock = Clock::system();
        let (traffic, mut demands) = Traffic::new(clock.clone(), QUEUE_MAX);
        let (records, wanted, stop) =
            (Arc::<Records>::default(), Arc::<AtomicUsize>::default(), CancellationToken::new());
        let dial = Arc::clone(loopback) as Arc<dyn Dial>;
        let observer = Arc::clone(&records) as Arc<dyn Observer>;
        let limits = Limits::default();
        let gateway = Gateway::among_peers(traffic.clone(), clock, limits, observer, NodeId(id), dial);
        gateway.set_state(state);
        tokio::spawn({
            let (traffic, wanted) = (traffic.clone(), Arc::clone(&wanted));
            async move {
                while let Some(demand) = demands.recv().await {
                    let Demand::Wanted { revision, starting: 1.. } = demand else { continue };
                    let number = wanted.fetch_add(1, Ordering::Relaxed);
                    match agent {
                        Agent::Full => traffic.declined(&revision, DeclineReason::NoCapacity("it is full".to_owned())),
                        Agent::Failing => {
                            let failure = InstanceFailure::Init("no module".to_owned());
                            traffic.declined(&revision, DeclineReason::Failing(failure));
                        }
                        Agent::Roomy => {
                            let (channel, _seen) = web("started").await;
                            let instance =
                                InstanceId::granted(NodeId(id), Epoch(1), u32::try_from(number).unwrap() + 1);
                            traffic.instance_ready(&revision, instance, channel, None, StartPhases::default());
                        }
                    }
                }
            }
        });
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front_address = front.local_addr().unwrap();
        let serving = (gateway.clone(), stop.clone());
        tokio::spawn(async move { serving.0.serve(front, serving.1, Duration::ZERO).await });
        let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        loopback.set(id, peers.local_addr().unwrap());
        let accepting = (gateway.clone(), stop.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = peers.accept().await {
                socket.set_nodelay(true).unwrap();
                let (gateway, stop) = accepting.clone();
                tokio::spawn(async move { gateway.serve_peer(socket, NodeId(1), stop).await });
            }
        });
        Self { gateway, traffic, front: front_address, records, wanted, stop }
    }

    /// Gives the node an instance.
    fn seat(&self, function: &str, number: u32, channel: Arc<Channel>) {
        let instance = InstanceId::placed(number);
        self.traffic.instance_ready(&revision(function), instance, channel, None, StartPhases::default());
    }

    fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }
}

/// What an instance tells of the calls it has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Came(String),
    /// A call ended that would not have ended by itself.
    Gone,
}

struct Guard(mpsc::UnboundedSender<Seen>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send(Seen::Gone);
    }
}

type Answer = UnsyncBoxBody<Bytes, hyper::Error>;

fn text(text: String) -> Answer {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// Answers `/echo` with the body, `/hang` never, `/fail` with 500, `/long-head` with a long head, and everything else with its name and what it was told.
async fn answer(
    name: &str,
    seen: mpsc::UnboundedSender<Seen>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    let _ = seen.send(Seen::Came(path.clone()));
    Ok(match path.as_str() {
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/hang" => {
            let _guard = Guard(seen);
            pending().await
        }
        "/long-head" => {
            let response = Response::builder().header("x-long", "l".repeat(30_000)).header("x-hearth-hop", "answered");
            response.body(text(name.to_owned())).unwrap()
        }
        "/fail" => {
            let response = Response::builder().status(500).header("x-hearth-hop", "turned no-capacity");
            response.body(text("failed".to_owned())).unwrap()
        }
        _ => {
            let mut names: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
            names.sort_unstable();
            let told = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
            let told = ["host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-prefix"].map(told);
            let leaked = names.iter().any(|name| name.starts_with("x-hearth-hop"));
            Response::new(text(format!("{name} {path} {} {leaked}", told.join(" "))))
        }
    })
}

/// Starts an instance that serves HTTP, and returns the way to it and what it sees.
async fn web(name: &'static str) -> (Arc<Channel>, mpsc::UnboundedReceiver<Seen>) {
    let (tell, seen) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |request| answer(name, tell.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
    (Arc::new(Channel::Http(Http::new(move || TcpStream::connect(address), capture))), seen)
}

/// Starts an instance that answers each event with the event, except `"fail"`, for which it fails.
fn echo() -> Arc<Channel> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        // The frames are those of `contract::frame`.
        while let Ok(length) = theirs.read_u32_le().await {
            let mut frame = vec![0; length as usize];
            theirs.read_exact(&mut frame).await.unwrap();
            if frame[0] != 1 {
                continue;
            }
            let header = u32::from_le_bytes(frame[9..13].try_into().unwrap()) as usize;
            let event = &frame[13 + header..];
            let (kind, answer) = match event {
                b"\"fail\"" => (19, &br#"{"errorType":"E","errorMessage":"as asked"}"#[..]),
                event => (18, event),
            };
            let mut reply = BytesMut::new();
            reply.put_u32_le(u32::try_from(answer.len() + 9).unwrap());
            reply.put_u8(kind);
            reply.put_slice(&frame[1..9]);
            reply.put_slice(answer);
            theirs.write_all(&reply).await.unwrap();
        }
    });
    let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
    let identity = Identity {
        function: "py".to_owned(),
        version: "1".to_owned(),
        memory_mb: 100,
        arn: "arn".to_owned(),
        log_stream: "i-1".to_owned(),
    };
    let framed = Framed::over(ours, identity, capture, ANSWER_MAX);
    Arc::new(Channel::Event(EventChannel::Framed(framed)))
}

/// Sends a request over a connection of its own.
async fn ask<B>(address: SocketAddr, request: Request<B>) -> Response<Incoming>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    timeout(PATIENCE, sender.send_request(request)).await.expect("the gateway answers").unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "shop.example").body(Full::default()).unwrap()
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "shop.example").body(Full::new(body.into())).unwrap()
}

async fn body(response: Response<Incoming>) -> String {
    let collected = timeout(PATIENCE, response.into_body().collect()).await.expect("the answer ends");
    String::from_utf8(collected.unwrap().to_bytes().to_vec()).unwrap()
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    timeout(PATIENCE, receiver.recv()).await.expect("it is told").expect("somebody tells")
}

/// Waits for a condition.
async fn until(mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, looking).await.expect("it comes true");
}
