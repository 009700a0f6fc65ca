//! An answer that arrives bit by bit.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::invocation::{Breach, ErrorReport};

/// The bytes of a streamed answer.
///
/// What is not taken holds the function up, within bounds that the contract sets. Dropping the
/// stream before its end tells the instance that nobody listens.
pub struct AnswerStream {
    content_type: Option<String>,
    returned: VecDeque<Bytes>,
    items: mpsc::Receiver<Item>,
    origin: Box<dyn Origin>,
    deadline: Instant,
    ended: bool,
}

/// Why a stream ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamFailure {
    /// The function failed in the middle of its answer.
    #[error("the function failed while it answered: {0}")]
    Function(ErrorReport),
    /// The instance ended in the middle of its answer.
    #[error("the instance ended while it answered")]
    InstanceDied,
    /// The instance does not keep to the contract.
    #[error("the instance broke its contract while it answered")]
    Broken(#[source] Breach),
    /// The deadline passed.
    #[error("the answer was not complete in time")]
    TimedOut,
}

/// What the producing side of a stream sends. Silence in place of an end means that it died.
#[derive(Debug)]
pub(super) enum Item {
    Bytes(Bytes),
    End,
    Failed(StreamFailure),
}

/// The producing side, told of what was taken; dropped with the stream.
pub(super) trait Origin: Send + Sync {
    /// Notes that the reader has taken `bytes` of one item.
    fn taken(&mut self, bytes: usize);
}

impl AnswerStream {
    pub(super) fn new(
        content_type: Option<String>,
        items: mpsc::Receiver<Item>,
        origin: Box<dyn Origin>,
        deadline: Instant,
    ) -> Self {
        let returned = VecDeque::new();
        Self { content_type, returned, items, origin, deadline, ended: false }
    }

    /// Returns what the function says its answer is, if it says so.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Returns the next bytes, `None` at the end. After a failure the stream has ended.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes, StreamFailure>> {
        if let Some(bytes) = self.returned.pop_front() {
            return Some(Ok(bytes));
        }
        if self.ended {
            return None;
        }
        let failure = match timeout_at(self.deadline, self.items.recv()).await {
            Ok(Some(Item::Bytes(bytes))) => {
                self.origin.taken(bytes.len());
                return Some(Ok(bytes));
            }
            Ok(Some(Item::End)) => {
                self.ended = true;
                return None;
            }
            Ok(Some(Item::Failed(failure))) => failure,
            Ok(None) => StreamFailure::InstanceDied,
            Err(_) => StreamFailure::TimedOut,
        };
        self.ended = true;
        Some(Err(failure))
    }

    /// Puts back bytes that were taken too many: they are the next ones again.
    pub fn put_back(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.returned.push_front(bytes);
        }
    }
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AnswerStream")
            .field("content_type", &self.content_type)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
