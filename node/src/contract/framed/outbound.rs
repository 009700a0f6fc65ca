//! What is on its way to an instance: written at once where the socket takes it, else in turn.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use tokio::net::UnixStream;

/// How many parts one system call takes.
const PARTS_PER_WRITE: usize = 8;

/// Bytes that the socket has not taken yet, in order.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Invariant: no part is empty.
    parts: VecDeque<Bytes>,
}

impl Outbound {
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Appends the parts of one frame, all of them or, where nobody calls this, none.
    pub(super) fn push<const N: usize>(&mut self, parts: [Bytes; N]) {
        self.parts.extend(parts.into_iter().filter(|part| !part.is_empty()));
    }

    /// Writes until nothing is left or the socket is full. Returns whether nothing is left.
    pub(super) fn flush(&mut self, socket: &UnixStream) -> bool {
        while !self.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); PARTS_PER_WRITE];
            for (slice, part) in slices.iter_mut().zip(&self.parts) {
                *slice = IoSlice::new(part);
            }
            let Ok(mut count) = socket.try_write_vectored(&slices) else {
                // Full, or closed: then reading ends too, and says so.
                return false;
            };
            while let Some(part) = self.parts.front_mut() {
                let taken = count.min(part.len());
                part.advance(taken);
                count -= taken;
                if !part.is_empty() {
                    break;
                }
                self.parts.pop_front();
            }
        }
        true
    }

    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }
}
