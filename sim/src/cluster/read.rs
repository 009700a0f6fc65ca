//! Reads through any node, as `node`'s API reads for its clients: each must see all that was known to anybody before it began.

use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft_rt::AsyncRuntime;

use super::ask::ask;
use super::propose::{HELD, until_applied, until_not_led_by};
use crate::raft::runtime::{self, Virtual, WORLD};
use crate::raft::{Cluster, Host, Micros, planted};
use crate::rng::Rng;

/// How long a read waits until it may see all that was acknowledged before it.
const READ_MAX: Duration = Duration::from_secs(5);

/// How long readers rest between two reads.
const PACE: Micros = Micros(10_000, 400_000);

/// How many readers there are.
const READERS: u64 = 2;

/// What one attempt came to.
#[derive(Clone, Copy)]
enum Attempt {
    /// Everything that was acknowledged before is no later in the log than this.
    Upto(u64),
    /// It is to be tried again; perhaps this node leads.
    Held(Option<u64>),
}

/// Starts readers that go on until `until`, each at its own pace.
pub(super) fn start(replicas: &Cluster, seed: u64, until: Duration) {
    for reader in 0..READERS {
        let replicas = replicas.clone();
        let mut rng = Rng::stream(seed, &format!("reader {reader}"));
        runtime::spawn_in(WORLD, async move {
            while Duration::from_nanos(runtime::now()) < until {
                Virtual::sleep(PACE.draw(&mut rng)).await;
                let nodes = replicas.nodes();
                read(&replicas, *rng.pick(&nodes)).await;
            }
        });
    }
}

/// Reads at a node, and holds what it sees against what was known when the read began.
async fn read(replicas: &Cluster, node: u64) {
    let Host::Up(group, Some(_)) = replicas.network().host(node) else { return };
    let known = replicas.oracle().known();
    let reader = replicas.clone();
    let reading = runtime::spawn_in(group, async move {
        if !planted!(ReadUnasked) && Virtual::timeout(READ_MAX, Box::pin(catch_up(&reader, node))).await.is_err() {
            return None;
        }
        reader.view(node)?.last_applied().map(|last| last.index)
    });
    // One that is lost with its node has seen nothing.
    if let Ok(seen) = reading.await {
        match seen {
            Some(seen) => replicas.oracle().read(node, seen, known),
            None => replicas.oracle().count("reads refused"),
        }
    }
}

/// Waits until a node has applied all that was acknowledged anywhere before the call.
async fn catch_up(replicas: &Cluster, node: u64) {
    loop {
        let mut attempt = read_index(replicas, node).await;
        if let Attempt::Held(Some(leader)) = attempt
            && leader != node
        {
            let there = replicas.clone();
            let asked = ask(replicas, node, leader, async move { Box::pin(read_index(&there, leader)).await });
            // Whoever was asked may have gone without a word; a read may be asked of anybody again.
            attempt =
                match select(std::pin::pin!(asked), std::pin::pin!(until_not_led_by(replicas, node, leader))).await {
                    Either::Left((Some(Attempt::Upto(index)), _)) => Attempt::Upto(index),
                    Either::Left(_) | Either::Right(_) => Attempt::Held(None),
                };
        }
        match attempt {
            Attempt::Upto(index) => return until_applied(replicas, node, index).await,
            Attempt::Held(_) => Virtual::sleep(HELD).await,
        }
    }
}

/// Asks a node that leads how far a read must see.
async fn read_index(replicas: &Cluster, node: u64) -> Attempt {
    let Some(core) = replicas.core(node) else { return Attempt::Held(None) };
    match core.get_read_log_id(ReadPolicy::ReadIndex).await {
        Ok((last, _)) => Attempt::Upto(last.index()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => Attempt::Held(forward.leader_id),
        Err(_) => Attempt::Held(None),
    }
}
