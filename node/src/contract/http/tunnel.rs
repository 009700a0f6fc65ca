//! What follows an upgrade: bytes back and forth, such as those of a WebSocket.

use std::future::pending;
use std::io;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::time::{Instant, timeout_at};

use super::body::Exchange;

/// Hands bytes between a client and an instance that have both left HTTP, until the instance closes or the deadline
/// passes: a function's timeout holds for a conversation as for any other invocation.
pub(super) async fn run(client: OnUpgrade, instance: OnUpgrade, deadline: Instant, exchange: Exchange) {
    let conversation = async {
        if let Ok((client, instance)) = tokio::try_join!(client, instance) {
            // However it ends, both sides see their connection close; there is nobody else to tell.
            drop(converse(client, instance).await);
        }
    };
    drop(timeout_at(deadline, conversation).await);
    drop(exchange);
}

/// A client that has said its last word may still listen, so only the instance's end is the end of all.
async fn converse(client: Upgraded, instance: Upgraded) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(TokioIo::new(client));
    let (mut from_instance, mut to_instance) = split(TokioIo::new(instance));
    let inwards = async {
        if copy(&mut from_client, &mut to_instance).await.is_ok() {
            drop(to_instance.shutdown().await);
        }
        pending::<io::Result<()>>().await
    };
    let outwards = async {
        copy(&mut from_instance, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::select! {
        ended = inwards => ended,
        ended = outwards => ended,
    }
}
