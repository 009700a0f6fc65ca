//! Clients: each writes and reads at its own pace, and notes what it was told.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use control_plane::model::{FeatureLevel, NodeId, NodeSpec, Resources};
use control_plane::raft::Proposal;
use control_plane::state::{Command, Reply};
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};

use super::cluster::Cluster;
use super::mark::Mark;
use super::network::Host;
use super::planted;
use super::runtime::{self, Virtual, WORLD};
use super::swarm::Micros;
use crate::rng::Rng;

/// How long a client waits before it gives up.
const PATIENCE: Duration = Duration::from_millis(1_000);

/// How long a request or an answer takes between a client and a node.
const WAY: Micros = Micros(50, 1_000);

/// What a client asks of a node.
#[derive(Clone)]
struct Request {
    key: u32,
    /// The name to write; none for a read.
    written: Option<String>,
}

/// What a node answers to a client.
enum Outcome {
    /// How many writes there are, and the name of the last one.
    Known(u64, String),
    /// Ask another one, perhaps this.
    Elsewhere(Option<u64>),
    /// It may have happened, or not, or may still.
    Unknown,
}

/// Starts a client that goes on until `until`.
pub(super) fn start(cluster: &Cluster, seed: u64, client: u64, until: Duration) {
    let cluster = cluster.clone();
    let mut rng = Rng::stream(seed, &format!("client {client}"));
    runtime::spawn_in(WORLD, async move {
        let swarm = cluster.swarm().clone();
        let mut leader = None;
        let mut sequence = 0_u64;
        while Duration::from_nanos(runtime::now()) < until {
            Virtual::sleep(swarm.pace.draw(&mut rng)).await;
            let key = u32::try_from(rng.between(1, swarm.keys)).unwrap_or(1);
            let is_read = rng.chance(swarm.reads_permille);
            // Not always whom it is told: others must answer, or refuse, as well.
            let known = leader.filter(|_| rng.chance(900));
            let target = known.unwrap_or_else(|| rng.between(1, swarm.voters));
            sequence += 1;
            let written = (!is_read).then(|| format!("{client}-{sequence}"));
            let request = Request { key, written };
            let number = cluster.oracle().facts().history.begin(key, request.written.clone(), runtime::now());
            let ways = (WAY.draw(&mut rng), WAY.draw(&mut rng));
            let outcome = ask(&cluster, target, request.clone(), ways).await;
            leader = settle(&cluster, client, target, number, request, outcome);
        }
    });
}

/// Notes what came of an operation and returns whom to ask next.
fn settle(
    cluster: &Cluster,
    client: u64,
    target: u64,
    number: usize,
    request: Request,
    outcome: Outcome,
) -> Option<u64> {
    let verb = if request.written.is_some() { "writes" } else { "reads" };
    let mut facts = cluster.oracle().facts();
    match outcome {
        Outcome::Known(place, name) => {
            runtime::note(place);
            facts.journal.count(verb);
            facts.journal.tell(|| format!("client {client} {verb} key {} at {target}: {name:?} {place}", request.key));
            facts.history.answer(number, runtime::now(), place, request.written.unwrap_or(name));
            Some(target)
        }
        Outcome::Elsewhere(leader) => {
            facts.journal.count("told to ask another");
            leader
        }
        Outcome::Unknown => {
            facts.journal.count("not answered");
            if request.written.is_some() {
                facts.journal.mark(Mark::WriteUnknown);
            }
            None
        }
    }
}

/// Asks a node and waits no longer than patience lasts.
async fn ask(cluster: &Cluster, target: u64, request: Request, (there, back): (Duration, Duration)) -> Outcome {
    let (tx, rx) = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::channel::<Outcome>();
    let cluster = cluster.clone();
    let answer = move |outcome| {
        runtime::after(back, move || {
            // The client may have given up.
            let _ = tx.send(outcome);
        });
    };
    runtime::after(there, move || match cluster.network().host(target) {
        Host::Off => {}
        Host::Down | Host::Up(_, None) => answer(Outcome::Elsewhere(None)),
        Host::Up(group, Some(_)) => {
            runtime::spawn_in(group, async move { answer(Box::pin(serve(&cluster, target, request)).await) });
        }
    });
    let answered = async move {
        match rx.await {
            Ok(outcome) => outcome,
            // The node has gone; nobody says so.
            Err(_) => pending().await,
        }
    };
    Virtual::timeout(PATIENCE, answered).await.unwrap_or(Outcome::Unknown)
}

/// Does on a node what its API does for a client.
async fn serve(cluster: &Cluster, node: u64, request: Request) -> Outcome {
    match request.written {
        Some(written) => write(cluster, node, request.key, written).await,
        None => read(cluster, node, request.key).await,
    }
}

async fn write(cluster: &Cluster, node: u64, key: u32, name: String) -> Outcome {
    let Some(core) = cluster.core(node) else { return Outcome::Unknown };
    let spec = NodeSpec {
        name: name.clone(),
        capacity: Resources::default(),
        labels: BTreeMap::new(),
        features: FeatureLevel::NEWEST,
    };
    let at = cluster.time(node);
    let proposal = Proposal { at, command: Command::RegisterNode { node: NodeId(key), spec }, ticket: None };
    match core.client_write(proposal).await {
        Ok(response) => match response.data {
            Some(Ok(Reply::Registered { epoch })) => Outcome::Known(u64::from(epoch.0), name),
            other => {
                cluster.oracle().blame(&format!("a write was answered with {other:?}"));
                Outcome::Unknown
            }
        },
        // An entry that had been appended may be committed yet: the client must not take this for a refusal.
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => Outcome::Elsewhere(forward.leader_id),
        Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward))) => {
            cluster.oracle().mark(Mark::EntryDiscarded);
            Outcome::Elsewhere(forward.leader_id)
        }
        Err(_) => Outcome::Unknown,
    }
}

async fn read(cluster: &Cluster, node: u64, key: u32) -> Outcome {
    let (Some(core), Some(view)) = (cluster.core(node), cluster.view(node)) else { return Outcome::Unknown };
    let trusts_itself = planted!(ReadUnconfirmed) && core.metrics().borrow_watched().state == ServerState::Leader;
    if !trusts_itself {
        match core.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => {}
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Outcome::Elsewhere(forward.leader_id);
            }
            Err(RaftError::APIError(_)) => {
                cluster.oracle().mark(Mark::ReadRefused);
                return Outcome::Elsewhere(None);
            }
            Err(RaftError::Fatal(_)) => return Outcome::Unknown,
        }
    }
    view.read(|state| match state.nodes.get(&NodeId(key)) {
        Some(registered) => Outcome::Known(u64::from(registered.epoch.0), registered.spec.name.clone()),
        None => Outcome::Known(0, String::new()),
    })
}
