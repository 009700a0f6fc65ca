//! The proof that a peer's process has ended: its kernel ends the connections and refuses new ones.
//!
//! The connection that is watched is one between peers like any other and carries nothing. Whoever refuses later need not be who
//! answered: somebody on the way may refuse in its name, and a wrong proof costs one election
//! (`control_plane::raft::watch_leader`).

use std::io::ErrorKind;
use std::time::Duration;

use control_plane::model::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::auth::Protocol;
use crate::peering::{CONNECT_MAX, Dialer};

/// The pause before a connection is made again, to a peer that is not there or has ended the one before.
const RECONNECT: Duration = Duration::from_millis(200);

/// How often it is tried whether the port refuses: a process that ends may lose a connection before its listener.
const KNOCKS: usize = 10;

/// The pause between two of them.
const KNOCK_EVERY: Duration = Duration::from_millis(3);

/// Waits until a connection to a node at `address` that stood has ended and the port has refused another.
pub(super) async fn died(dialer: &Dialer, node: NodeId, address: &str) {
    loop {
        if let Ok(standing) = dialer.dial(node, address, Protocol::Rpc).await {
            until_ended(standing).await;
            if is_refused(address).await {
                return;
            }
        }
        sleep(RECONNECT).await;
    }
}

/// Waits for the end of a connection; what comes before it does not matter.
async fn until_ended(mut standing: impl AsyncRead + Unpin) {
    let mut ignored = [0; 256];
    while standing.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
}

async fn is_refused(address: &str) -> bool {
    for _ in 0..KNOCKS {
        match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return true,
            // Silence is no proof: a host that has gone says nothing.
            Ok(Err(_)) | Err(_) => return false,
            Ok(Ok(_)) => sleep(KNOCK_EVERY).await,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// How long anything may take here; only a failure waits for it.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_connection_that_ends_before_a_port_that_refuses_is_a_proof() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let watching = tokio::spawn(async move { died(&Dialer::Plain, NodeId(1), &address).await });
        let standing = timeout(PATIENCE, listener.accept()).await.expect("it connects").expect("it is accepted");
        drop((listener, standing));
        timeout(PATIENCE, watching).await.expect("it is known").expect("nothing panics");
    }

    #[tokio::test]
    async fn whoever_takes_new_connections_lives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let watching = tokio::spawn(async move { died(&Dialer::Plain, NodeId(1), &address).await });
        // The first, each knock, and the one that is watched from then on.
        for _ in 0..KNOCKS + 2 {
            drop(timeout(PATIENCE, listener.accept()).await.expect("it connects").expect("it is accepted"));
        }
        assert!(!watching.is_finished());
        watching.abort();
    }
}
