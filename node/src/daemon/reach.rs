//! What no function reaches of the other nodes, although it reaches their machines: where they speak to each other and to operators.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::raft::Raft;

/// How long there is between two looks at members that may have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the name of a node may take to be resolved.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// Tells where the members of the cluster are spoken to, again whenever that changes, until `stop`.
///
/// The operator's port of other nodes is taken to be that of this one, `api_port`.
pub(super) fn follow(raft: Raft, api_port: u16, stop: CancellationToken) -> watch::Receiver<BTreeSet<SocketAddrV4>> {
    let (peers_tx, peers) = watch::channel(BTreeSet::new());
    let mut changes = raft.changes();
    let looking = async move {
        loop {
            let found = places(&raft, api_port).await;
            peers_tx.send_if_modified(|known| {
                let is_other = *known != found;
                if is_other {
                    *known = found;
                }
                is_other
            });
            tokio::time::sleep(LOOK_EVERY).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = looking => {}
        }
    });
    peers
}

async fn places(raft: &Raft, api_port: u16) -> BTreeSet<SocketAddrV4> {
    let members = raft.members();
    let mut found = BTreeSet::new();
    for address in members.voters.values().chain(members.learners.values()) {
        for place in resolve(address).await {
            // Sandboxes have no IPv6.
            if let SocketAddr::V4(place) = place {
                found.extend([place, SocketAddrV4::new(*place.ip(), api_port)]);
            }
        }
    }
    found
}

/// Returns what an address says, or its name stands for; nothing if that cannot be found out now.
async fn resolve(address: &str) -> Vec<SocketAddr> {
    if let Ok(address) = address.parse() {
        return vec![address];
    }
    match tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host(address)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            tracing::warn!(%address, %error, "a node is not resolved: functions with a way out reach its ports");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(%address, "a node is not resolved in time: functions with a way out reach its ports");
            Vec::new()
        }
    }
}
