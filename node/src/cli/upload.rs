//! Uploads: bodies that are written while they are sent.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tokio::sync::mpsc;

use super::client::{Body, streamed};
use super::failure::Failure;
use crate::pieces::{PIECES_MAX, Pieces};

/// Asks with a body that `write` writes in a thread of its own; `what` is what it reads.
///
/// Where both fail, the node is believed: whoever takes no more says why.
pub(super) async fn upload<T>(
    what: &str,
    write: impl FnOnce(Pieces) -> io::Result<()> + Send + 'static,
    ask: impl AsyncFnOnce(Body) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let writing = tokio::task::spawn_blocking(move || write(Pieces::new(pieces)));
    let asked = ask(streamed(body)).await;
    let written = writing.await.map_err(|error| Failure::of(&error))?;
    let answer = asked?;
    written.map_err(|error| Failure::new(format!("{what} cannot be read: {error}")))?;
    Ok(answer)
}

/// Writes a file as it is.
pub(super) fn write_file(path: &Path, mut out: Pieces) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut out)?;
    out.flush()
}
