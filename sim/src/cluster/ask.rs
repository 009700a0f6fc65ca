//! What one node asks another beside Raft: it is answered once, or never.

use std::future::{Future, pending};

use openraft_rt::{AsyncRuntime, Oneshot, OneshotSender};

use crate::raft::runtime::{self, Virtual};
use crate::raft::{Cluster, Host};

/// Lets another node find the answer in its own time; none where no process listens there.
///
/// Waits for ever for one that is lost: nobody says so.
pub(super) async fn ask<T: Send + 'static>(
    replicas: &Cluster,
    from: u64,
    to: u64,
    answer: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (tx, rx) = <<Virtual as AsyncRuntime>::Oneshot as Oneshot>::channel::<Option<T>>();
    let (there, network) = (replicas.network().clone(), replicas.network().clone());
    let back = move |found: Option<T>| {
        network.carry(to, from, move || {
            // Whoever asked may have given up.
            let _ = tx.send(found);
        });
    };
    replicas.network().carry(from, to, move || match there.host(to) {
        Host::Off => {}
        Host::Down | Host::Up(_, None) => back(None),
        Host::Up(group, Some(_)) => {
            runtime::spawn_in(group, async move { back(Some(answer.await)) });
        }
    });
    match rx.await {
        Ok(found) => found,
        Err(_) => pending().await,
    }
}
