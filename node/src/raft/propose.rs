//! Commands into the log and reads out of it, from any node: who does not lead asks who does.

use std::error::Error;
use std::time::Duration;

use control_plane::codec;
use control_plane::model::{Epoch, NodeId};
use control_plane::raft::{Proposal, write};
use control_plane::state::{Command, Rejection, Reply, Ticket};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use proto::v1;
use tokio::time::timeout;
use tonic::{Request, Status};

use super::session::Numbered;
use super::{Raft, T};

/// How long a proposal waits for its answer.
pub const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// How long a read waits until it may see all that was acknowledged before it.
pub const READ_MAX: Duration = Duration::from_secs(5);

/// How long what no leader takes rests at most before it is tried again; it is at once when another leader is known.
const HELD_MAX: Duration = Duration::from_millis(50);

/// Why a proposal has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state refused it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// There is no leader to take it; nothing was done.
    #[error("no leader took the proposal: {0}")]
    Unavailable(String),
    /// No answer came in time: it may be applied or not.
    #[error("no answer within {PROPOSE_MAX:?}; the proposal may have been applied")]
    Timeout,
    /// The way to the leader broke: it may be applied or not.
    #[error("the leader's answer got lost ({0}); the proposal may have been applied")]
    Lost(String),
    /// The node is stopping, or its disk has failed.
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
}

/// Why a read cannot be sure to see all that was acknowledged before it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader that has a quorum answered in time.
    #[error("no leader with a quorum within {READ_MAX:?}")]
    Unavailable,
    /// The node is stopping, or its disk has failed.
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
}

/// What one attempt came to.
enum Attempt<R> {
    /// It is done.
    Done(R),
    /// Nothing was done, for this reason: it may be tried again.
    Held(String),
}

impl Raft {
    /// Proposes a command, through the leader if that is another node, and waits until it is applied here.
    ///
    /// While no leader is known, as during an election or when leadership is handed over, the proposal is held. One whose answer
    /// got lost is sent again, and applied once all the same, as soon as this node has [begun](Self::begin_session) a session.
    pub async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        let mut fate = ProposeError::Unavailable("too many wait already".to_owned());
        let proposing = async {
            // A registration begins a session, and is of none itself.
            let is_registration = matches!(command, Command::RegisterNode { .. });
            let numbered = if is_registration { None } else { self.0.session.number().await };
            let mut was_lost = false;
            loop {
                let before = self.leads_here();
                // From here on it may be applied.
                fate = ProposeError::Timeout;
                match self.propose_once(&command, numbered.as_ref().map(Numbered::ticket)).await {
                    Ok(Attempt::Done(reply)) => return Ok(reply),
                    Ok(Attempt::Held(reason)) if !was_lost => fate = ProposeError::Unavailable(reason),
                    Ok(Attempt::Held(_)) => {}
                    Err(lost @ ProposeError::Lost(_)) if numbered.is_some() => (fate, was_lost) = (lost, true),
                    Err(ProposeError::Rejected(over @ Rejection::NoSession { .. })) => {
                        return Err(ProposeError::Lost(over.to_string()));
                    }
                    // Of this attempt nothing was done; of the one before nobody knows.
                    Err(ProposeError::Unavailable(reason)) if was_lost => return Err(ProposeError::Lost(reason)),
                    Err(error) => return Err(error),
                }
                self.until_led(before).await;
            }
        };
        timeout(PROPOSE_MAX, proposing).await.unwrap_or(Err(fate))
    }

    /// Lets proposals be sent again whose answers get lost, from the registration of this node on.
    pub fn begin_session(&self, node: NodeId, epoch: Epoch) {
        self.0.session.begin(node, epoch);
    }

    async fn propose_once(&self, command: &Command, ticket: Option<Ticket>) -> Result<Attempt<Reply>, ProposeError> {
        let proposal = Proposal { at: self.0.clock.now(), command: command.clone(), ticket };
        let forward = match write(&self.0.core, &self.0.view, proposal).await {
            Ok(written) => return done(written?.data),
            // openraft says this only of what it did not append.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => forward,
            // Another leader's log took the place of the entry, or holds it too.
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(other))) => {
                return Err(ProposeError::Lost(other.to_string()));
            }
            Err(RaftError::APIError(error)) => return Err(ProposeError::Unavailable(error.to_string())),
            Err(RaftError::Fatal(error)) => return Err(ProposeError::Stopped(error.to_string())),
        };
        let Some((id, address)) = self.leader_elsewhere(&forward) else {
            return Ok(Attempt::Held(forward.to_string()));
        };
        self.propose_at(id, &address, command, ticket).await
    }

    /// Proposes through the leader at an address.
    async fn propose_at(
        &self,
        id: u64,
        address: &str,
        command: &Command,
        ticket: Option<Ticket>,
    ) -> Result<Attempt<Reply>, ProposeError> {
        use v1::propose_reply::Result as Wire;
        let mut leader = self.0.channels.leader(id, address);
        let (command, carried) = (Some(codec::encode_command(command)), ticket.as_ref().map(codec::encode_ticket));
        let mut request = Request::new(v1::ProposeRequest { command, ticket: carried });
        request.set_timeout(PROPOSE_MAX);
        let lost = |reason: String| ProposeError::Lost(reason);
        let answered = tokio::select! {
            answered = leader.propose(request) => answered,
            // Whoever was asked may have gone without a word.
            () = self.until_not_led_by(id), if ticket.is_some() => return Err(lost("another node leads".to_owned())),
        };
        let reply = match answered {
            Ok(reply) => reply.into_inner(),
            Err(status) if was_never_sent(&status) => return Ok(Attempt::Held(status.message().to_owned())),
            Err(status) => return Err(lost(status.message().to_owned())),
        };
        match reply.result.ok_or_else(|| lost("it says nothing".to_owned()))? {
            Wire::NotLeader(other) => Ok(Attempt::Held(format!("{address} does not lead, node {} may", other.leader))),
            Wire::Refused(rejection) => {
                Err(codec::decode_rejection(rejection).map_err(|error| lost(error.to_string()))?.into())
            }
            Wire::Applied(applied) => {
                let answer = applied.answer.map(codec::decode_answer).transpose();
                let answer = answer.map_err(|error| lost(error.to_string()))?;
                self.until_applied(applied.index).await.map_err(ProposeError::Stopped)?;
                done(answer)
            }
        }
    }

    /// Proposes a command if this node leads, and not through anybody else: what only a leader may want.
    pub async fn propose_as_leader(&self, command: Command) -> Result<Reply, ProposeError> {
        let proposal = Proposal { at: self.0.clock.now(), command, ticket: None };
        let writing = write(&self.0.core, &self.0.view, proposal);
        match timeout(PROPOSE_MAX, writing).await.map_err(|_| ProposeError::Timeout)? {
            Ok(written) => match done(written?.data)? {
                Attempt::Done(reply) => Ok(reply),
                Attempt::Held(reason) => Err(ProposeError::Unavailable(reason)),
            },
            Err(RaftError::APIError(error)) => Err(ProposeError::Unavailable(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// Waits until this node has applied all that was acknowledged anywhere before the call.
    pub async fn catch_up(&self) -> Result<(), ReadError> {
        let catching_up = async {
            loop {
                let before = self.leads_here();
                if let Attempt::Done(index) = self.read_index().await? {
                    return self.until_applied(index).await.map_err(ReadError::Stopped);
                }
                self.until_led(before).await;
            }
        };
        timeout(READ_MAX, catching_up).await.unwrap_or(Err(ReadError::Unavailable))
    }

    async fn read_index(&self) -> Result<Attempt<u64>, ReadError> {
        use v1::read_index_reply::Result as Wire;
        let forward = match self.0.core.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((id, _)) => return Ok(Attempt::Done(id.index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => forward,
            Err(RaftError::APIError(error)) => return Ok(Attempt::Held(error.to_string())),
            Err(RaftError::Fatal(error)) => return Err(ReadError::Stopped(error.to_string())),
        };
        let Some((id, address)) = self.leader_elsewhere(&forward) else {
            return Ok(Attempt::Held(forward.to_string()));
        };
        let mut leader = self.0.channels.leader(id, &address);
        let mut request = Request::new(v1::ReadIndexRequest {});
        request.set_timeout(READ_MAX);
        let answered = tokio::select! {
            answered = leader.read_index(request) => answered,
            // Whoever was asked may have gone without a word; a read may be asked of anybody again.
            () = self.until_not_led_by(id) => return Ok(Attempt::Held("another node leads".to_owned())),
        };
        Ok(match answered.map(|reply| reply.into_inner().result) {
            Ok(Some(Wire::Index(index))) => Attempt::Done(index),
            Ok(Some(Wire::NotLeader(other))) => Attempt::Held(format!("node {} may lead", other.leader)),
            Ok(None) => Attempt::Held("the leader says nothing".to_owned()),
            Err(status) => Attempt::Held(status.message().to_owned()),
        })
    }

    /// Waits until this node has applied an entry; says why it never will.
    async fn until_applied(&self, index: u64) -> Result<(), String> {
        let applied = |_: &u64| self.0.view.last_applied().is_some_and(|last| last.index >= index);
        self.changes().wait_for(applied).await.map(drop).map_err(|_| "nothing is applied any more".to_owned())
    }

    /// Returns who leads, as far as this node knows.
    fn leads_here(&self) -> Option<u64> {
        self.0.core.server_metrics().borrow_watched().current_leader
    }

    /// Waits until this node knows that `leader` leads no more.
    async fn until_not_led_by(&self, leader: u64) {
        let mut metrics = self.0.core.server_metrics();
        while metrics.borrow_watched().current_leader == Some(leader) {
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until somebody else leads than did before an attempt, which may have happened during it.
    async fn until_led(&self, before: Option<u64>) {
        let mut metrics = self.0.core.server_metrics();
        let changed =
            async { while metrics.borrow_watched().current_leader == before && metrics.changed().await.is_ok() {} };
        // Who led before may lead on, and take it now.
        drop(timeout(HELD_MAX, changed).await);
    }

    /// Returns the leader and its address, if another node leads.
    fn leader_elsewhere(&self, forward: &ForwardToLeader<T>) -> Option<(u64, String)> {
        let id = forward.leader_id.filter(|leader| leader != self.0.core.node_id())?;
        forward.leader_node.as_ref().map(|node| (id, node.addr.clone()))
    }
}

/// Returns whether a request did not leave this node, because there was no connection to send it over.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn done(answer: Option<Result<Reply, Rejection>>) -> Result<Attempt<Reply>, ProposeError> {
    let answer = answer.ok_or_else(|| ProposeError::Unavailable("the entry was one of Raft's own".to_owned()))?;
    Ok(Attempt::Done(answer?))
}
