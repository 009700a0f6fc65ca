//! openraft on this machine: the replicated state, our own write-ahead log under it.
//!
//! ```text
//! propose ─▶ openraft ─▶ LogStore ─▶ Wal (one thread: batch, write, sync)  ─▶ acknowledged
//!                └─────▶ Machine ─▶ State::apply ─▶ changes()
//! ```
//! A cluster has one voter; other peers join with the transport of a later version.

mod frame;
mod network;
mod segment;
mod snapshot;
mod wal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::NodeId;
use control_plane::raft::{LogStore, Machine, Proposal, RecoverError, SnapshotError, Types, View, settings};
use control_plane::state::{Command, Rejection, Reply, State};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::{BasicNode, TokioRuntime};
use tokio::sync::watch;

pub use self::segment::DamageError;

use self::network::Alone;
use self::wal::Wal;
use crate::clock::Clock;

/// How long a proposal waits for its answer.
pub const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// How long the node waits at its start until it leads its own cluster.
const LEAD_MAX: Duration = Duration::from_secs(10);

type Core = openraft::Raft<Types<TokioRuntime>, Machine<TokioRuntime, Wal>>;

/// What a node's Raft is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the log and the snapshots lie.
    pub dir: PathBuf,
    /// This node.
    pub node: NodeId,
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

/// Why a proposal has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no leader to take it.
    #[error("no leader took the proposal: {0}")]
    Unavailable(String),
    /// No answer came in time: it may be applied or not.
    #[error("no answer within {PROPOSE_MAX:?}; the proposal may have been applied")]
    Timeout,
    /// The node is stopping, or its disk has failed.
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
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
    clock: Clock,
    changes: watch::Receiver<u64>,
    leadership: watch::Receiver<bool>,
}

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raft").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}

impl Raft {
    /// Opens the state of this node; an empty folder founds a cluster of one. Returns once this node leads.
    pub async fn open(config: Config, clock: Clock) -> Result<Self, OpenError> {
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
        let settings = Arc::new(settings().validate().map_err(|error| OpenError::Core(error.to_string()))?);
        let id = u64::from(config.node.0);
        let core =
            Core::new(id, settings, Alone, log, machine).await.map_err(|error| OpenError::Core(error.to_string()))?;
        if is_pristine {
            let members = BTreeMap::from([(id, BasicNode::default())]);
            core.initialize(members).await.map_err(|error| OpenError::Core(error.to_string()))?;
        } else {
            // Nobody else stands: there is nothing to wait for.
            core.trigger().elect(false).await.map_err(|error| OpenError::Core(error.to_string()))?;
        }
        let leadership = follow_leadership(&core);
        let raft = Self(Arc::new(Shared { core, view, wal, clock, changes, leadership }));
        let mut leads = raft.leadership();
        let waited = tokio::time::timeout(LEAD_MAX, leads.wait_for(|leads| *leads)).await;
        if !matches!(waited, Ok(Ok(_))) {
            return Err(OpenError::NoLeader);
        }
        // What is committed is applied before anybody reads.
        let applied = raft.0.core.ensure_linearizable(openraft::raft::ReadPolicy::ReadIndex);
        tokio::time::timeout(LEAD_MAX, applied)
            .await
            .map_err(|_| OpenError::NoLeader)?
            .map_err(|error| OpenError::Core(error.to_string()))?;
        Ok(raft)
    }

    /// Proposes a command and waits until it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        let proposal = Proposal { at: self.0.clock.now(), command };
        let written = tokio::time::timeout(PROPOSE_MAX, self.0.core.client_write(proposal)).await;
        match written.map_err(|_| ProposeError::Timeout)? {
            Ok(response) => match response.data {
                Some(answer) => Ok(answer?),
                None => Err(ProposeError::Unavailable("the entry was one of Raft's own".to_owned())),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::Unavailable(forward.to_string()))
            }
            Err(RaftError::APIError(error)) => Err(ProposeError::Unavailable(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(ProposeError::Stopped(error.to_string())),
        }
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
mod tests {
    use std::collections::BTreeMap;

    use control_plane::model::{Bytes, MilliCpu, NodeSpec, Resources};

    use super::*;

    fn register() -> Command {
        let capacity = Resources { cpu: MilliCpu(1000), memory: Bytes(1 << 30), disk: Bytes(1 << 30), pids: 100 };
        let spec = NodeSpec { name: "one".to_owned(), capacity, labels: BTreeMap::new() };
        Command::RegisterNode { node: NodeId(1), spec }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_acknowledged_is_applied_again_after_a_restart() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let config = Config { dir: folder.path().to_path_buf(), node: NodeId(1) };
        for start in 1..=3 {
            let raft = Raft::open(config.clone(), Clock::system()).await.expect("the state opens");
            let epochs = raft.read(|state| state.nodes.get(&NodeId(1)).map_or(0, |node| node.epoch.0));
            assert_eq!(epochs, start - 1, "what the process before was told is there");
            let reply = raft.propose(register()).await.expect("the proposal is taken");
            assert!(matches!(reply, Reply::Registered { epoch } if epoch.0 == start));
            raft.shutdown().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_refused_command_is_told_and_changes_nothing() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let config = Config { dir: folder.path().to_path_buf(), node: NodeId(1) };
        let raft = Raft::open(config, Clock::system()).await.expect("the state opens");
        let before = raft.read(State::clone);
        let app = "nothing".parse().expect("a name");
        let refused = raft.propose(Command::DeleteApp { app }).await;
        assert!(matches!(refused, Err(ProposeError::Rejected(Rejection::NoApp(_)))), "{refused:?}");
        assert_eq!(raft.read(State::clone), before);
        raft.shutdown().await;
    }
}
