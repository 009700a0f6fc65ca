//! Builds the rooms, wires them, and stops them in reverse.
//!
//! ```text
//! data_dir → telemetry → cluster, raft → image, sandbox → gateway → presence → leader, agent → api
//! ```

mod capacity;
mod failed;
mod history;
mod image_failure;
mod image_work;
mod observer;
mod platform;
mod reach;
mod readiness;
mod room;
mod start_error;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{Epoch, FeatureLevel};
use control_plane::raft::Timing;
use proto::json::{Event, EventKind};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Instances, Means, SandboxTools, stop_all};
use crate::api::{Api, Server};
use crate::auth::{JoinToken, Token};
use crate::clock::Clock;
use crate::cluster::{self, Cluster, Entered, Presence, Refused, Standing};
use crate::config::{Build, Config};
use crate::data_dir::DataDir;
use crate::gateway::{Gateway, QUEUE_MAX, Traffic};
use crate::image::{self, Store, ToolSettings};
use crate::leader;
use crate::net;
use crate::peering::PeerStream;
use crate::raft::{self, Raft};
use crate::sandbox::{self, Sandboxes};
use crate::telemetry::logs::{self, LogStore};
use crate::telemetry::{EventLog, Metrics};

pub use self::failed::Failed;
use self::observer::Counter;
use self::platform::Local;
use self::readiness::Readiness;
use self::room::Room;
pub use self::start_error::StartError;

/// Reports to the leader that may wait.
const REPORTS_MAX: usize = 1024;

/// Connections of callers that may wait to be taken.
const BACKLOG: u32 = 1024;

/// Beats of nodes that may wait for the controller.
const BEATS_MAX: usize = 1024;

/// How long requests to the API may take to finish at the end.
const API_PATIENCE: Duration = Duration::from_secs(2);

/// What becomes of instances when a daemon stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They go on; the next daemon adopts them.
    Running,
    /// They end.
    Nothing,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    gateway_address: SocketAddr,
    api_address: SocketAddr,
    socket: PathBuf,
    token: Token,
    raft: Raft,
    cluster: Cluster,
    sandboxes: Sandboxes,
    logs: LogStore,
    instances: Instances,
    agent: Agent,
    leader: JoinHandle<()>,
    gateway: JoinHandle<()>,
    api: Server,
    readiness: Readiness,
    refused: watch::Receiver<Option<Refused>>,
    /// Ends the gateway, then everything that decides.
    stop_gateway: CancellationToken,
    stop: CancellationToken,
    // Held to the end: the lock goes with it.
    _data_dir: DataDir,
}

impl Daemon {
    /// Starts everything; returns once it serves.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let data_dir = DataDir::open(&config.data_dir, &config.run_dir)?;
        let token = Token::load_or_make(&data_dir.token())?;
        let (gateway_socket, gateway_address) = reserve(config.gateway_address())?;
        let api_bound = Server::bind(&data_dir.socket(), config.api_address()).await?;
        let api_address = api_bound.address();

        let clock = Clock::system();
        let metrics = Arc::new(Metrics::new());
        let events = EventLog::new();
        let index = open_index(&data_dir)?;
        let limits = logs::Limits { function_max_bytes: config.logs.function_max.0, age_max: config.logs.age_max.0 };
        let logs = LogStore::open(data_dir.logs(), &index, limits, clock.clone(), Arc::clone(&metrics))?;
        let stop = CancellationToken::new();
        let instances = Instances::default();
        let (traffic, demands) = Traffic::new(clock.clone(), QUEUE_MAX);
        let peers_listener = listen(config.peers_address()).await?;
        let (standing, seen) = stand(&config, &data_dir.cluster(), &clock).await?;
        let address = cluster::advertised(&config.advertise, local(&peers_listener)?, seen);
        let (beats_tx, beats) = mpsc::channel(BEATS_MAX);
        let life = config.peers.certificate_life.0;
        let cluster =
            Cluster::new(standing, address, (clock.clone(), life), (instances.clone(), traffic.clone()), beats_tx);
        let node = cluster.node();
        let raft_config = raft::Config { dir: data_dir.raft(), node, timing: Timing::default() };
        let raft = Raft::open(raft_config, Some(cluster.raft_peers()), clock.clone()).await?;
        let images = Store::open(&data_dir.images(), image_settings(&config)).map_err(StartError::Images)?;
        let handed_over = cluster.serve(&raft, &images, peers_listener, &stop);
        let peers = reach::follow(raft.clone(), api_address.port(), stop.clone());
        let (sandboxes, adopted) = Sandboxes::start(sandbox_config(&config, &data_dir, peers)?)?;

        let observer = Arc::new(Counter::new(Arc::clone(&metrics)));
        let gateway = Gateway::among_peers(
            traffic.clone(),
            clock.clone(),
            observer::limits(&config),
            observer,
            node,
            Arc::new(cluster.clone()),
        );
        let stop_gateway = CancellationToken::new();
        let (reports_tx, reports) = mpsc::channel(REPORTS_MAX);

        let spec = capacity::describe(&config, &data_dir).map_err(StartError::Capacity)?;
        let name = spec.name.clone();
        let presence = Presence::new(cluster.clone(), raft.clone(), spec, reports);
        let (registered, refused) = (presence.registered(), presence.refused());
        tokio::spawn(presence.run(stop.clone()));
        let means = Means {
            node,
            clock: clock.clone(),
            raft: raft.clone(),
            images: images.clone(),
            peers: Arc::new(cluster.clone()),
            sandboxes: sandboxes.clone(),
            traffic: traffic.clone(),
            gateway: gateway.clone(),
            logs: logs.clone(),
            events: events.clone(),
        };
        let suspects = cluster.suspects().clone();
        let leader = leader::start(node, raft.clone(), clock.clone(), events.clone(), beats, suspects, stop.clone());
        let (serves, serving_in) = watch::channel(None);
        let readiness = Readiness::new(config.sandbox.pool > 0, serving_in);
        readiness.follow(sandboxes.clone(), stop.clone());
        let agent =
            Agent::start(means, instances.clone(), demands, adopted, reports_tx, registered.clone(), stop.clone());
        observer::follow(
            Arc::clone(&metrics),
            raft.clone(),
            sandboxes.clone(),
            instances.clone(),
            images.clone(),
            traffic.clone(),
            stop.clone(),
        );
        history::follow(events.clone(), raft.clone(), node, clock.clone(), stop.clone());

        let serving = tokio::spawn({
            let (gateway, stop, grace) = (gateway.clone(), stop_gateway.clone(), config.gateway.drain.0);
            let raft = raft.clone();
            let for_peers = take_calls(gateway.clone(), handed_over, stop.clone(), grace);
            let for_callers = async move {
                // Before that it knows neither what holds nor what it may do: whoever balances calls goes elsewhere.
                let Some(epoch) = until_registered(registered, &stop).await else { return };
                raft.read(|state| gateway.set_state(state));
                let listener = match gateway_socket.listen(BACKLOG) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "calls cannot be taken"),
                };
                serves.send_replace(Some(epoch));
                let drained = gateway.serve(listener, stop, grace).await;
                if drained.connections_aborted > 0 {
                    tracing::warn!(connections = drained.connections_aborted, "calls were cut off");
                }
            };
            async move {
                tokio::join!(for_callers, for_peers);
            }
        });
        let platform = Local {
            raft: raft.clone(),
            gateway,
            readiness: readiness.clone(),
            room: Room::new(data_dir.root()),
            metrics: Arc::clone(&metrics),
            images,
            tools: SandboxTools { sandboxes: sandboxes.clone(), settings: tool_settings(&config.build) },
            cluster: cluster.clone(),
            identity: crate::api::Identity { node, name: name.clone(), gateway: gateway_address, api: api_address },
            work: data_dir.uploads(),
        };
        events.push(Event {
            at_ms: clock.now().as_millis(),
            kind: EventKind::NodeStarted,
            node: node.to_string(),
            about: Some(node.to_string()),
            function: None,
            revision: None,
            instance: None,
            message: format!("{name} started"),
        });
        let api = Api {
            platform: Arc::new(platform),
            logs: logs.clone(),
            events,
            metrics,
            clock,
            uploads: Arc::new(data_dir.uploads()),
            limits: crate::api::Limits {
                upload_max_bytes: config.build.source_max.0,
                image_max_bytes: config.build.image_max.0,
                payload_max_bytes: config.gateway.body_max.0,
            },
        };
        let api = api_bound.serve(api, token.clone());
        Ok(Self {
            config,
            gateway_address,
            api_address,
            socket: data_dir.socket(),
            token,
            raft,
            cluster,
            sandboxes,
            logs,
            instances,
            agent,
            leader,
            gateway: serving,
            api,
            readiness,
            refused,
            stop_gateway,
            stop,
            _data_dir: data_dir,
        })
    }

    /// Returns where callers reach functions.
    pub fn gateway_address(&self) -> SocketAddr {
        self.gateway_address
    }

    /// Returns where the operator's API listens over TCP.
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// Returns the socket of the operator's API.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Returns the token that callers of the API over TCP show.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Waits for an error after which the process must end; there may never be one.
    pub async fn failed(&self) -> Failed {
        let mut refused = self.refused.clone();
        let refusal = async move {
            match refused.wait_for(Option::is_some).await.ok().and_then(|refused| refused.clone()) {
                Some(reason) => reason,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = self.raft.failed() => Failed::Consensus(reason),
            reason = refusal => Failed::Refused(reason),
        }
    }

    /// Finishes the calls in flight, then stops everything in reverse of its start; once `hurry` ends, calls are cut off.
    pub async fn stop(mut self, leave: Leave, hurry: impl Future<Output = ()>) {
        tracing::info!(drain = ?self.config.gateway.drain.0, "stopping: calls in flight finish first");
        self.readiness.stopping();
        self.stop_gateway.cancel();
        tokio::select! {
            result = &mut self.gateway => ended("gateway", result),
            () = hurry => {
                tracing::warn!("in a hurry: calls in flight are cut off");
                self.gateway.abort();
            }
        }
        self.api.stop(API_PATIENCE).await;
        if leave == Leave::Nothing {
            stop_all(&self.instances).await;
        }
        // So that nothing waits for an election; where nobody else votes, nobody can take over.
        if self.raft.is_leader()
            && let Err(error) = self.cluster.hand_over(&self.raft, None).await
        {
            tracing::debug!(%error, "leadership was not handed over");
        }
        self.stop.cancel();
        ended("leader", self.leader.await);
        self.agent.join().await;
        self.sandboxes.shutdown().await;
        self.raft.shutdown().await;
        self.logs.close();
    }
}

/// Returns which node this machine is: what it was, what a cluster makes it, or the first of one that it founds.
///
/// With it comes the address of this machine that leads to the cluster, where that is known.
async fn stand(config: &Config, folder: &Path, clock: &Clock) -> Result<(Standing, Option<IpAddr>), StartError> {
    let life = config.peers.certificate_life.0;
    if let Some(mut standing) = Standing::load(folder)? {
        if !config.join.address.is_empty() {
            tracing::info!(node = %standing.peer().node, "this machine belongs to a cluster already: it does not join");
        }
        cluster::return_if_ended(&mut standing, clock, life).await?;
        return Ok((standing, None));
    }
    if config.join.address.is_empty() {
        let standing = Standing::found(folder, clock.now(), life)?;
        tracing::info!(cluster = %standing.peer().cluster, "founded a cluster");
        return Ok((standing, None));
    }
    let token: JoinToken = config.join.token.parse()?;
    let level = FeatureLevel(config.feature_level);
    let Entered { standing, seen } = cluster::enter(folder, &config.join.address, &token, level, clock).await?;
    tracing::info!(node = %standing.peer().node, cluster = %standing.peer().cluster, "joined");
    Ok((standing, seen))
}

/// Serves the calls that peers hand over until `stop`, each connection of theirs in a task of its own, and then for as long
/// as those in flight take, `grace` at most.
async fn take_calls(
    gateway: Gateway,
    mut handed_over: mpsc::Receiver<PeerStream>,
    stop: CancellationToken,
    grace: Duration,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            stream = handed_over.recv() => {
                let Some(stream) = stream else { break };
                let Some(peer) = stream.peer() else { continue };
                let (gateway, stop) = (gateway.clone(), stop.clone());
                connections.spawn(async move { gateway.serve_peer(stream, peer.node, stop).await });
            }
        }
    }
    if timeout(grace, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = connections.len(), "calls that peers passed on were cut off");
    }
}

/// Logs a task that ended by a panic.
fn ended(task: &'static str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        tracing::error!(task, %error, "a task did not end cleanly");
    }
}

/// Takes a port without listening on it yet; returns which it is.
fn reserve(address: SocketAddr) -> Result<(TcpSocket, SocketAddr), StartError> {
    let reserving = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    reserving().map_err(|source| StartError::Listen { address, source })
}

/// Waits until the node has registered; returns nothing if it stops before.
async fn until_registered(mut registered: watch::Receiver<Option<Epoch>>, stop: &CancellationToken) -> Option<Epoch> {
    tokio::select! {
        () = stop.cancelled() => None,
        waited = registered.wait_for(Option::is_some) => waited.ok().and_then(|epoch| *epoch),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { address: ([0, 0, 0, 0], 0).into(), source })
}

/// Opens the rebuildable index; one that cannot be opened is set aside and made anew.
fn open_index(data_dir: &DataDir) -> Result<sled::Db, StartError> {
    /// What the index keeps in memory: it is small and read rarely.
    const CACHE_BYTES: u64 = 4 << 20;
    let folder = data_dir.index();
    let open = || sled::Config::new().path(&folder).cache_capacity(CACHE_BYTES).open();
    open().or_else(|error| {
        tracing::error!(%error, "the index is damaged and is made anew");
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::error!(%error, "the damaged index cannot be removed");
        }
        open().map_err(StartError::Index)
    })
}

fn tool_settings(build: &Build) -> ToolSettings {
    ToolSettings {
        pip_index: build.pip_index.clone(),
        pip_find_links: build.pip_find_links.clone(),
        pip_offline: build.pip_offline,
        npm_registry: build.npm_registry.clone(),
        ca_file: given(&build.ca_file),
        deadline: build.timeout.0,
    }
}

/// Returns a path of the configuration, where an empty one stands for none.
fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_path_buf())
}

fn image_settings(config: &Config) -> image::Settings {
    image::Settings {
        insecure_registries: config.build.insecure_registries.clone(),
        auth_file: given(&config.build.registry_auth_file),
        ca_file: given(&config.build.ca_file),
        image_max: config.build.image_max.0,
        peer: image::PeerLimits::default(),
    }
}

fn sandbox_config(
    config: &Config,
    data_dir: &DataDir,
    peers: watch::Receiver<BTreeSet<SocketAddrV4>>,
) -> Result<sandbox::Config, StartError> {
    let executable = std::env::current_exe().map_err(StartError::Executable)?;
    let name = data_dir.run().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let count = |number: u32| usize::try_from(number).unwrap_or(1);
    Ok(sandbox::Config {
        run_dir: data_dir.run().to_path_buf(),
        executable,
        spawners: count(config.sandbox.spawners),
        pool_size: count(config.sandbox.pool),
        cgroup_parent: format!("hearth-{name}"),
        egress: net::Config {
            name,
            folder: data_dir.run().join("egress"),
            subnet: config.egress.subnet,
            dns: config.egress.dns.clone(),
            peers,
        },
    })
}
