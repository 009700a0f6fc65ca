//! The replicated state as openraft's state machine: in memory, with snapshots on a [`Disk`].

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, RwLock};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};

use super::{Answer, Disk, LeaderId, LogId, Payload, StoredMembership, Types, wire};
use crate::codec::DecodeError;
use crate::planted::planted;
use crate::state::State;

/// What is known about a snapshot without reading it.
type SnapshotMeta = openraft::storage::SnapshotMeta<LeaderId, u64, openraft::impls::BasicNode>;

/// A snapshot: what is known about it, and its bytes.
type Snapshot = openraft::storage::Snapshot<LeaderId, u64, openraft::impls::BasicNode, Vec<u8>>;

/// Returns a snapshot with what is known about it, which stands in its bytes.
pub(super) fn whole_snapshot(bytes: Vec<u8>) -> Result<Snapshot, DecodeError> {
    Ok(Snapshot { meta: Applied::decode(&bytes)?.meta(), snapshot: bytes })
}

/// Why the state of a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk refused to hand it out.
    #[error("the snapshot cannot be read")]
    Io(#[source] io::Error),
    /// Its content means nothing to this version.
    #[error("the snapshot means nothing to this version")]
    Decode(#[source] DecodeError),
}

/// The state, and how far the log is in it.
#[derive(Clone, Default)]
struct Applied {
    state: State,
    last: Option<LogId>,
    members: StoredMembership,
}

impl Applied {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (last, members, state) = wire::decode_snapshot(bytes)?;
        Ok(Self { state, last, members })
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.members.clone() }
    }

    fn apply(&mut self, id: LogId, payload: Payload) -> Answer {
        self.last = Some(id);
        match payload {
            Payload::Blank => None,
            Payload::Normal(proposal) => Some(self.state.apply_once(proposal.at, proposal.ticket, proposal.command)),
            Payload::Membership(members) => {
                self.members = StoredMembership::new(Some(id), members);
                None
            }
        }
    }
}

/// Read access to the applied state; cheap to clone.
#[derive(Clone)]
pub struct View(Arc<RwLock<Applied>>);

impl View {
    /// Calls `f` with the state as far as this node has applied it; nothing is applied meanwhile, so `f` must be short.
    pub fn read<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.0.read().expect("apply does not panic").state)
    }

    /// Returns the place of the last applied entry.
    pub fn last_applied(&self) -> Option<LogId> {
        self.0.read().expect("apply does not panic").last
    }

    /// Returns the ids of the voters as of the last applied entry.
    pub fn voters(&self) -> Vec<u64> {
        self.0.read().expect("apply does not panic").members.voter_ids().collect()
    }

    /// Returns whether a node was a learner as of the last applied entry.
    pub(super) fn is_learner(&self, node: u64) -> bool {
        let applied = self.0.read().expect("apply does not panic");
        let members = applied.members.membership();
        members.get_node(&node).is_some() && members.voter_ids().all(|voter| voter != node)
    }

    fn update<T>(&self, f: impl FnOnce(&mut Applied) -> T) -> T {
        f(&mut self.0.write().expect("apply does not panic"))
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&self.last_applied()).finish()
    }
}

/// The state machine that openraft drives.
pub struct Machine<RT, D> {
    view: View,
    disk: D,
    /// Told the index of the last applied entry after each batch.
    on_applied: Arc<dyn Fn(u64) + Send + Sync>,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT, D> fmt::Debug for Machine<RT, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("view", &self.view).finish_non_exhaustive()
    }
}

impl<RT: AsyncRuntime, D: Disk> Machine<RT, D> {
    /// Starts from the newest snapshot of the disk, or from nothing; `on_applied` hears the last applied index after each batch.
    pub fn open(disk: D, on_applied: Arc<dyn Fn(u64) + Send + Sync>) -> Result<Self, SnapshotError> {
        let applied = match disk.snapshot().map_err(SnapshotError::Io)? {
            None => Applied::default(),
            Some(bytes) => Applied::decode(&bytes).map_err(SnapshotError::Decode)?,
        };
        Ok(Self { view: View(Arc::new(RwLock::new(applied))), disk, on_applied, runtime: PhantomData })
    }

    /// Returns read access to the state, which stays valid while openraft owns the machine.
    pub fn view(&self) -> View {
        self.view.clone()
    }
}

async fn put<RT: AsyncRuntime, D: Disk>(disk: &D, last: Option<LogId>, bytes: Vec<u8>) -> io::Result<()> {
    let (tx, rx) = RT::Oneshot::channel::<io::Result<()>>();
    let done = Box::new(move |result| {
        // Whoever waited may have been dropped at shutdown.
        let _ = tx.send(result);
    });
    disk.put_snapshot(last.map_or(0, |id| id.index), bytes, done);
    rx.await.map_err(|_| io::Error::other("the disk has stopped"))?
}

impl<RT: AsyncRuntime, D: Disk> RaftStateMachine<Types<RT>> for Machine<RT, D> {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder<RT, D>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok(self.view.update(|applied| (applied.last, applied.members.clone())))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types<RT>>>> + Unpin + OptionalSend,
    {
        let mut last = None;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            last = Some(entry.log_id.index);
            let answer = self.view.update(|applied| applied.apply(entry.log_id, entry.payload));
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        if let Some(last) = last {
            (self.on_applied)(last);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<RT, D> {
        // The copy is taken here, in order with the entries; encoding and writing it happen aside.
        Builder { applied: self.view.update(|applied| applied.clone()), disk: self.disk.clone(), runtime: PhantomData }
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, bytes: Vec<u8>) -> io::Result<()> {
        let applied = Applied::decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let last = applied.last;
        if !planted!(SnapshotNotKept) {
            put::<RT, D>(&self.disk, last, bytes).await?;
        }
        self.view.update(|current| *current = applied);
        (self.on_applied)(last.map_or(0, |id| id.index));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(bytes) = self.disk.snapshot()? else { return Ok(None) };
        whole_snapshot(bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// Writes one snapshot from a copy of the state.
pub struct Builder<RT, D> {
    applied: Applied,
    disk: D,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT, D> fmt::Debug for Builder<RT, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("last", &self.applied.last).finish_non_exhaustive()
    }
}

impl<RT: AsyncRuntime, D: Disk> RaftSnapshotBuilder<Types<RT>> for Builder<RT, D> {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let applied = &self.applied;
        let forgotten = StoredMembership::default();
        let members = if planted!(MembersForgotten) { &forgotten } else { &applied.members };
        let bytes = wire::encode_snapshot(applied.last, members, &applied.state);
        put::<RT, D>(&self.disk, applied.last, bytes.clone()).await?;
        Ok(Snapshot { meta: applied.meta(), snapshot: bytes })
    }
}
