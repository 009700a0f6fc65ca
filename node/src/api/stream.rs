//! Answers that come line by line: newline-delimited JSON.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use proto::json::NDJSON;
use serde::Serialize;
use tokio::sync::mpsc;

/// How many lines may wait for a slow client.
const LINES_WAITING_MAX: usize = 64;

/// How often an empty line is sent while there is nothing to tell, so that both ends notice when the other is gone.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

struct Lines<T> {
    /// What writes the lines, until it has ended.
    work: Option<BoxFuture<'static, ()>>,
    lines: mpsc::Receiver<T>,
}

/// Answers with the lines that `work` sends, until it ends.
///
/// The work is done by the connection's own task: when the client goes away, it is dropped.
pub(super) fn lines<T, W, F>(work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(mpsc::Sender<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(LINES_WAITING_MAX);
    let state = Lines { work: Some(work(sender).boxed()), lines: receiver };
    let body = stream::unfold(state, |mut state| async move {
        let line = state.next().await?;
        Some((Ok::<_, Infallible>(line), state))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

impl<T: Serialize> Lines<T> {
    /// Returns the next line with its line feed, or an empty one after a while, or none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let heartbeat = tokio::time::sleep(HEARTBEAT_INTERVAL);
        tokio::pin!(heartbeat);
        loop {
            tokio::select! {
                biased;
                line = self.lines.recv() => return line.map(|line| written(&line)),
                () = async { match &mut self.work { Some(work) => work.await, None => std::future::pending().await } } => {
                    // Its sender is gone with it: what still waits comes out, then the end.
                    self.work = None;
                }
                () = &mut heartbeat => return Some(Bytes::from_static(b"\n")),
            }
        }
    }
}

fn written<T: Serialize>(line: &T) -> Bytes {
    match serde_json::to_vec(line) {
        Ok(mut text) => {
            text.push(b'\n');
            text.into()
        }
        Err(error) => {
            tracing::error!(%error, "a line could not be written as JSON");
            Bytes::new()
        }
    }
}
