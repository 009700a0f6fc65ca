//! Commands into the log from any node: who does not lead asks who does, as `node` does it.

use std::future::pending;
use std::time::Duration;

use control_plane::raft::{self, Answer, Proposal};
use control_plane::state::{Command, Rejection, Reply, Ticket};
use futures_util::future::{Either, select};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft_rt::AsyncRuntime;

use super::ask::ask;
use crate::raft::Cluster;
use crate::raft::runtime::Virtual;
use crate::session::{Numbered, Session};

/// How long a proposal waits for its answer.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// How long what no leader takes rests before it is tried again.
pub(super) const HELD: Duration = Duration::from_millis(50);

/// How often it is looked whether what a leader has applied is applied here.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a proposal came to; none where nobody knows, or where it was never made.
pub(super) type Outcome = Option<Result<Reply, Rejection>>;

/// What one attempt came to.
#[derive(Clone)]
enum Attempt {
    /// It is applied, and what came of it; the index is that of its entry.
    Applied(u64, Answer),
    /// It does not get into the log.
    Refused(Rejection),
    /// Nothing was done; perhaps this node leads.
    Held(Option<u64>),
    /// Nobody knows.
    Unknown,
}

/// Proposes a command through whoever leads, and waits until it is applied at `node`.
///
/// One whose answer got lost is sent again, and applied once all the same, as soon as this process has registered.
pub(super) async fn propose(replicas: Cluster, node: u64, session: Session, command: Command) -> Outcome {
    // A registration begins a session, and is of none itself.
    let is_registration = matches!(command, Command::RegisterNode { .. });
    let numbered = if is_registration { None } else { session.number() };
    let proposing = async {
        loop {
            let ticket = numbered.as_ref().map(Numbered::ticket);
            match Box::pin(propose_once(&replicas, node, &command, ticket)).await {
                Attempt::Applied(index, answer) => {
                    until_applied(&replicas, node, index).await;
                    // Whether it was applied before its session ended nobody knows.
                    let answer = answer.filter(|answer| !matches!(answer, Err(Rejection::NoSession { .. })));
                    replicas.oracle().acknowledged(index, ticket, answer.as_ref());
                    return answer;
                }
                Attempt::Refused(rejection) => return Some(Err(rejection)),
                Attempt::Held(_) => replicas.oracle().count("proposals held"),
                Attempt::Unknown if ticket.is_some() => replicas.oracle().count("proposals sent again"),
                Attempt::Unknown => return None,
            }
            Virtual::sleep(HELD).await;
        }
    };
    Virtual::timeout(PROPOSE_MAX, proposing).await.unwrap_or(None)
}

async fn propose_once(replicas: &Cluster, node: u64, command: &Command, ticket: Option<Ticket>) -> Attempt {
    let leader = match Box::pin(write(replicas, node, command.clone(), ticket)).await {
        Attempt::Held(Some(leader)) if leader != node => leader,
        other => return other,
    };
    replicas.oracle().count("proposed elsewhere");
    let (there, command) = (replicas.clone(), command.clone());
    let asked = ask(replicas, node, leader, async move { Box::pin(write(&there, leader, command, ticket)).await });
    let replaced = async {
        match ticket {
            // Whoever was asked may have gone without a word.
            Some(_) => until_not_led_by(replicas, node, leader).await,
            None => pending().await,
        }
    };
    match select(std::pin::pin!(asked), std::pin::pin!(replaced)).await {
        Either::Left((None | Some(Attempt::Held(_)), _)) => Attempt::Held(None),
        Either::Left((Some(attempt), _)) => attempt,
        Either::Right(_) => Attempt::Unknown,
    }
}

/// Proposes a command if `node` leads, and not through anybody else: what only a leader may want.
pub(super) async fn propose_as_leader(replicas: Cluster, node: u64, command: Command) -> Outcome {
    match Virtual::timeout(PROPOSE_MAX, Box::pin(write(&replicas, node, command, None))).await {
        Ok(Attempt::Applied(index, answer)) => {
            replicas.oracle().acknowledged(index, None, answer.as_ref());
            answer
        }
        Ok(Attempt::Refused(rejection)) => Some(Err(rejection)),
        Ok(Attempt::Held(_) | Attempt::Unknown) | Err(_) => None,
    }
}

/// Writes a command into the log of a node that leads, if every node can read it.
async fn write(replicas: &Cluster, node: u64, command: Command, ticket: Option<Ticket>) -> Attempt {
    let (Some(core), Some(view)) = (replicas.core(node), replicas.view(node)) else { return Attempt::Held(None) };
    let proposal = Proposal { at: replicas.time(node), command, ticket };
    match raft::write(&core, &view, proposal).await {
        Ok(Err(rejection)) => {
            replicas.oracle().count("refused as too new");
            Attempt::Refused(rejection)
        }
        Ok(Ok(written)) => Attempt::Applied(written.log_id.index, written.data),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Attempt::Held(forward.leader_id),
        Err(_) => Attempt::Unknown,
    }
}

/// Waits until a node knows that `leader` leads no more.
pub(super) async fn until_not_led_by(replicas: &Cluster, node: u64, leader: u64) {
    let Some(core) = replicas.core(node) else { return pending().await };
    let mut metrics = core.server_metrics();
    drop(core);
    while metrics.borrow_watched().current_leader == Some(leader) {
        if metrics.changed().await.is_err() {
            pending::<()>().await;
        }
    }
}

/// Waits until a node has applied an entry.
pub(super) async fn until_applied(replicas: &Cluster, node: u64, index: u64) {
    let is_applied = || {
        let last = replicas.view(node).and_then(|view| view.last_applied());
        last.is_some_and(|last| last.index >= index)
    };
    while !is_applied() {
        Virtual::sleep(LOOK_EVERY).await;
    }
}
