//! Commands into the log from any node: who does not lead asks who does, as `node` does it.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control_plane::raft::{Answer, Proposal};
use control_plane::state::{Command, Rejection, Reply};
use openraft::errors::{ClientWriteError, RaftError};
use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};

use crate::raft::runtime::{self, Virtual};
use crate::raft::{Cluster, Host};

/// How long a proposal waits for its answer.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// How long what no leader takes rests before it is tried again.
const HELD: Duration = Duration::from_millis(50);

/// How often it is looked whether what a leader has applied is applied here.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a proposal came to; none where nobody knows, or where it was never made.
pub(super) type Outcome = Option<Result<Reply, Rejection>>;

/// What one attempt came to.
#[derive(Clone)]
enum Attempt {
    /// It is applied, and what came of it; the index is that of its entry.
    Applied(u64, Answer),
    /// Nothing was done; perhaps this node leads.
    Held(Option<u64>),
    /// Nobody knows.
    Unknown,
}

/// Proposes a command through whoever leads, and waits until it is applied at `node`.
pub(super) async fn propose(replicas: Cluster, node: u64, command: Command) -> Outcome {
    let proposing = async {
        loop {
            let mut attempt = Box::pin(write(&replicas, node, command.clone())).await;
            if let Attempt::Held(Some(leader)) = attempt
                && leader != node
            {
                replicas.oracle().count("proposed elsewhere");
                attempt = Box::pin(ask(&replicas, node, leader, command.clone())).await;
            }
            match attempt {
                Attempt::Applied(index, answer) => {
                    until_applied(&replicas, node, index).await;
                    return answer;
                }
                Attempt::Held(_) => {
                    replicas.oracle().count("proposals held");
                    Virtual::sleep(HELD).await;
                }
                Attempt::Unknown => return None,
            }
        }
    };
    Virtual::timeout(PROPOSE_MAX, proposing).await.unwrap_or(None)
}

/// Proposes a command if `node` leads, and not through anybody else: what only a leader may want.
pub(super) async fn propose_as_leader(replicas: Cluster, node: u64, command: Command) -> Outcome {
    match Virtual::timeout(PROPOSE_MAX, Box::pin(write(&replicas, node, command))).await {
        Ok(Attempt::Applied(_, answer)) => answer,
        Ok(Attempt::Held(_) | Attempt::Unknown) | Err(_) => None,
    }
}

/// Writes a command into the log of a node that leads.
async fn write(replicas: &Cluster, node: u64, command: Command) -> Attempt {
    let Some(core) = replicas.core(node) else { return Attempt::Held(None) };
    let proposal = Proposal { at: replicas.time(node), command, ticket: None };
    match core.client_write(proposal).await {
        Ok(written) => Attempt::Applied(written.log_id.index, written.data),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Attempt::Held(forward.leader_id),
        Err(_) => Attempt::Unknown,
    }
}

/// Asks another node to write a command.
async fn ask(replicas: &Cluster, from: u64, to: u64, command: Command) -> Attempt {
    let (tx, rx) = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::channel::<Attempt>();
    let answer = Arc::new(Mutex::new(Some(tx)));
    let back = {
        let network = replicas.network().clone();
        move |attempt: Attempt| {
            let answer = Arc::clone(&answer);
            network.carry(to, from, move || {
                if let Some(tx) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    // Whoever asked may have given up.
                    let _ = tx.send(attempt);
                }
            });
        }
    };
    let there = replicas.clone();
    replicas.network().carry(from, to, move || match there.network().host(to) {
        Host::Off => {}
        Host::Down | Host::Up(_, None) => back(Attempt::Held(None)),
        Host::Up(group, Some(_)) => {
            runtime::spawn_in(group, async move {
                let attempt = match Box::pin(write(&there, to, command)).await {
                    Attempt::Held(_) => Attempt::Held(None),
                    other => other,
                };
                back(attempt);
            });
        }
    });
    match rx.await {
        Ok(attempt) => attempt,
        // The node that was asked has gone, and nobody says so.
        Err(_) => pending().await,
    }
}

async fn until_applied(replicas: &Cluster, node: u64, index: u64) {
    let is_applied = || {
        let last = replicas.view(node).and_then(|view| view.last_applied());
        last.is_some_and(|last| last.index >= index)
    };
    while !is_applied() {
        Virtual::sleep(LOOK_EVERY).await;
    }
}
