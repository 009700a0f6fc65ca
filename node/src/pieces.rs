//! Bytes from a thread that writes to a task that sends: a writer whose bytes arrive in pieces.

use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// How large pieces are, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How many of them may wait to be sent.
pub(crate) const PIECES_MAX: usize = 8;

/// A writer whose bytes are sent in pieces; what was not flushed is not sent.
pub(crate) struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Pieces {
    pub(crate) fn new(pieces: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { pieces, buffer: Vec::with_capacity(PIECE_BYTES) }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.buffer).into();
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::Error::other("whoever it is sent to takes no more"))
    }
}
