//! openraft on this machine: the replicated state, our own write-ahead log under it.
//!
//! ```text
//! propose ─▶ openraft ─▶ LogStore ─▶ Wal (one thread: batch, write, sync)  ─▶ acknowledged
//!                ├─────▶ Machine ─▶ State::apply ─▶ changes()
//!                └─────▶ Channels ─HTTP/2─▶ service of a peer
//! ```
//! A node founds a cluster of one voter, or waits to be taken in by one that there is.

mod death;
mod frame;
mod members;
mod propose;
mod segment;
mod service;
mod session;
mod snapshot;
mod transport;
mod wal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::NodeId;
use control_plane::raft::{
    self as generic, LogStore, Machine, Network, RecoverError, Replica, SnapshotError, Timing, Types, View,
};
use control_plane::state::State;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::impls::{BasicNode, TokioRuntime};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Channel;

pub use self::members::{HAND_OVER_MAX, MEMBERS_MAX, Members, MembersError};
pub use self::propose::{PROPOSE_MAX, ProposeError, READ_MAX, ReadError};
pub use self::segment::DamageError;
pub use self::service::{MESSAGE_MAX_BYTES, ServeError, serve};

use self::session::Session;
use self::transport::Channels;
use self::wal::Wal;
use crate::clock::Clock;
use crate::peering::Dialer;

/// How long the node waits at its start until it leads its own cluster.
const LEAD_MAX: Duration = Duration::from_secs(10);

type T = Types<TokioRuntime>;

type Core = control_plane::raft::Core<TokioRuntime, Wal>;

/// What a node's Raft is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the snapshots lie.
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
    /// How soon voters take a silent leader for gone.
    pub timing: Timing,
}

/// How this node and its peers reach each other.
#[derive(Debug)]
pub struct Peers {
    /// What connects to them.
    pub dialer: Dialer,
    /// Where they connect to: a host and a port.
    pub address: String,
    /// Whether a node whose folder is empty waits to be taken in, instead of founding a cluster.
    pub is_joining: bool,
}

/// Why the replicated state cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log cannot be read.
    #[error("the write-ahead log cannot be read")]
    Log(#[source] DamageError),
    /// The log's records contradict each other.
    #[error("the write-ahead log makes no sense")]
    Records(#[source] RecoverError),
    /// No snapshot is whole.
    #[error("the snapshots cannot be read")]
    Snapshot(#[source] SnapshotError),
    /// openraft refused to start.
    #[error("the consensus did not start: {0}")]
    Core(String),
    /// The node did not come to lead its own cluster.
    #[error("no leader within {LEAD_MAX:?}")]
    NoLeader,
}

/// Figures about the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// The election in which the leader was chosen.
    pub term: u64,
    /// The last entry in the log.
    pub last: u64,
    /// The last entry that was applied.
    pub applied: u64,
    /// The last entry that a snapshot covers.
    pub snapshot: u64,
    /// What the log takes on disk, in bytes.
    pub wal_bytes: u64,
}

/// The replicated state on this node; cheap to clone.
#[derive(Clone)]
pub struct Raft(Arc<Shared>);

struct Shared {
    core: Core,
    view: View,
    wal: Wal,
    channels: Channels,
    clock: Clock,
    changes: watch::Receiver<u64>,
    leadership: watch::Receiver<bool>,
    session: Session,
}

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raft").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}

impl Raft {
    /// Opens the state of this node.
    ///
    /// An empty folder founds a cluster of one, unless the node is to be taken in by another. A node that votes alone leads when
    /// this returns; any other follows whoever leads.
    ///
    /// Peers are answered once somebody serves its [routes](Self::routes).
    pub async fn open(config: Config, peers: Option<Peers>, clock: Clock) -> Result<Self, OpenError> {
        let dir = config.dir.clone();
        let opened = tokio::task::spawn_blocking(move || Wal::open(&dir)).await;
        let (wal, records) = opened.map_err(|error| OpenError::Core(error.to_string()))?.map_err(OpenError::Log)?;
        let log = LogStore::open(wal.clone(), records).map_err(OpenError::Records)?;
        let is_pristine = log.is_pristine();
        let (applied, changes) = watch::channel(0);
        let machine = Machine::open(
            wal.clone(),
            Arc::new(move |index| {
                applied.send_replace(index);
            }),
        )
        .map_err(OpenError::Snapshot)?;
        let view = machine.view();
        let settings =
            Arc::new(generic::settings(config.timing).validate().map_err(|error| OpenError::Core(error.to_string()))?);
        let id = u64::from(config.node.0);
        let (dialer, address, is_joining) = match peers {
            Some(Peers { dialer, address, is_joining }) => (dialer, address, is_joining),
            None => (Dialer::Plain, String::new(), false),
        };
        let channels = Channels::new(dialer);
        let network = Network::new(channels.clone(), view.clone());
        let core =
            Core::new(id, settings, network, log, machine).await.map_err(|error| OpenError::Core(error.to_string()))?;
        let members = core.metrics();
        channels.look_up(move |peer| {
            let metrics = members.borrow_watched();
            let known = metrics.membership_config.membership().get_node(&peer);
            known.map(|known| known.addr.clone()).filter(|address| !address.is_empty())
        });
        let told = |leader| tracing::warn!(leader, "the leader's process has ended");
        tokio::spawn(generic::watch_leader(core.clone(), channels.clone(), told));
        tokio::spawn(generic::tick_while_voting(core.clone()));
        if is_pristine && !is_joining {
            let members = BTreeMap::from([(id, BasicNode::new(address))]);
            core.initialize(members).await.map_err(|error| OpenError::Core(error.to_string()))?;
        }
        let leadership = follow_leadership(&core);
        let raft =
            Self(Arc::new(Shared { core, view, wal, channels, clock, changes, leadership, session: Session::new() }));
        let votes_alone = raft.0.core.with_raft_state(move |state| {
            let mut voters = state.membership_state.effective().voter_ids();
            voters.next() == Some(id) && voters.next().is_none()
        });
        if votes_alone.await.map_err(|error| OpenError::Core(error.to_string()))? {
            raft.lead_alone(is_pristine).await?;
        }
        Ok(raft)
    }

    /// Returns what answers peers.
    pub fn routes(&self) -> Routes {
        service::routes(
            Replica::new(self.0.core.clone()),
            service::Leader::new(self.0.core.clone(), self.0.view.clone(), self.0.clock.clone()),
        )
    }

    /// Returns the connection to another node for what is not consensus; it is made when it is needed.
    pub fn peer(&self, node: NodeId, address: &str) -> Channel {
        self.0.channels.peer_channel(u64::from(node.0), address)
    }

    /// Returns the connection to another node for blobs of images, which hold up nothing else there.
    pub fn peer_for_bulk(&self, node: NodeId, address: &str) -> Channel {
        self.0.channels.bulk_channel(u64::from(node.0), address)
    }

    /// Waits until the only voter leads and has applied what is committed.
    async fn lead_alone(&self, is_standing: bool) -> Result<(), OpenError> {
        if !is_standing {
            // Nobody else stands: there is nothing to wait for.
            self.0.core.trigger().elect(false).await.map_err(|error| OpenError::Core(error.to_string()))?;
        }
        let mut leads = self.leadership();
        // What it returns locks the channel: kept past the next wait, it would stop whoever tells of leadership, and with one
        // thread everything.
        let waited = tokio::time::timeout(LEAD_MAX, leads.wait_for(|leads| *leads)).await;
        let leads = matches!(waited, Ok(Ok(_)));
        drop(waited);
        if !leads {
            return Err(OpenError::NoLeader);
        }
        // What is committed is applied before anybody reads.
        let applied = self.0.core.ensure_linearizable(openraft::raft::ReadPolicy::ReadIndex);
        let waited = tokio::time::timeout(LEAD_MAX, applied).await.map_err(|_| OpenError::NoLeader)?;
        waited.map(drop).map_err(|error| OpenError::Core(error.to_string()))
    }

    /// Reads the state as far as it is applied here; the reader must be short, because nothing is applied meanwhile.
    pub fn read<R>(&self, reader: impl FnOnce(&State) -> R) -> R {
        self.0.view.read(reader)
    }

    /// Returns a channel that changes whenever more of the log is applied.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.clone()
    }

    /// Returns a channel that tells whether this node leads.
    pub fn leadership(&self) -> watch::Receiver<bool> {
        self.0.leadership.clone()
    }

    /// Returns whether this node leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        *self.0.leadership.borrow()
    }

    /// Returns the error after which the log takes nothing any more, once there is one; the process must end then.
    pub async fn failed(&self) -> String {
        let mut failure = self.0.wal.failure();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the log has stopped".to_owned(),
        }
    }

    /// Returns figures about the log.
    pub fn metrics(&self) -> Metrics {
        let watched = self.0.core.metrics();
        let core = watched.borrow_watched();
        Metrics {
            term: core.current_term,
            last: core.last_log_index.unwrap_or(0),
            applied: core.last_applied.map_or(0, |id| id.index),
            snapshot: core.snapshot.map_or(0, |id| id.index),
            wal_bytes: self.0.wal.bytes(),
        }
    }

    /// Stops; what was acknowledged is on disk already.
    pub async fn shutdown(&self) {
        if let Err(error) = self.0.core.shutdown().await {
            tracing::warn!(%error, "the consensus did not stop cleanly");
        }
        let wal = self.0.wal.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || wal.stop()).await {
            tracing::warn!(%error, "the log did not stop cleanly");
        }
    }
}

/// Returns a channel that follows whether openraft says that this node leads.
fn follow_leadership(core: &Core) -> watch::Receiver<bool> {
    let mut metrics = core.metrics();
    let (leads, leadership) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let is_leader = metrics.borrow_watched().state == ServerState::Leader;
            leads.send_if_modified(|leads| std::mem::replace(leads, is_leader) != is_leader);
            if metrics.changed().await.is_err() {
                return;
            }
        }
    });
    leadership
}

#[cfg(test)]
mod tests;
