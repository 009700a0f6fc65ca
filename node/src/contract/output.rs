//! What a function writes, on its way to whoever keeps logs.
//!
//! Lines wait in a queue of bounded size. A full queue gives up its oldest lines and counts them:
//! a slow reader loses lines, it never holds up a function. An instance has one queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many bytes of text may wait for the reader of one instance's lines.
pub const QUEUE_MAX_BYTES: usize = 1024 * 1024;

/// What a waiting line costs beyond its text, in bytes, so that empty lines have a price too.
const LINE_COST_BYTES: usize = 64;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// One line a function wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written, or read where nobody knows: microseconds since 1970.
    pub at_us: u64,
    /// Where it was written.
    pub stream: Stream,
    /// The invocation it belongs to, `None` when it was written outside of every invocation or
    /// when several were running and it came through a pipe.
    pub request_id: Option<Arc<str>>,
    /// The line without its line feed, at most [`LINE_MAX_BYTES`](super::line::LINE_MAX_BYTES).
    pub text: String,
    /// This is no line of the function: it says that a limit was reached and lines are missing
    /// behind it.
    pub is_mark: bool,
}

/// The writing end of a queue of lines.
#[derive(Debug, Clone)]
pub struct LogSink {
    queue: Arc<Queue>,
}

/// The reading end of a queue of lines.
#[derive(Debug)]
pub struct LogSource {
    queue: Arc<Queue>,
}

/// What a [`LogSource`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The oldest waiting line.
    pub line: LogLine,
    /// How many lines were given up, because the queue was full, since the line before.
    pub lost_lines: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<LogLine>,
    /// Invariant: the summed cost of `lines`, at most [`QUEUE_MAX_BYTES`].
    cost: usize,
    lost: u64,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns both ends of an empty queue.
pub fn log_queue() -> (LogSink, LogSource) {
    let queue = Arc::new(Queue::default());
    (LogSink { queue: Arc::clone(&queue) }, LogSource { queue })
}

impl LogSink {
    /// Appends a line; never waits. What no longer fits is given up from the oldest on.
    pub fn push(&self, line: LogLine) {
        let cost = cost(&line);
        let mut waiting = self.queue.lock();
        while waiting.cost + cost > QUEUE_MAX_BYTES {
            let Some(oldest) = waiting.lines.pop_front() else {
                break;
            };
            waiting.cost -= self::cost(&oldest);
            waiting.lost += 1;
        }
        waiting.cost += cost;
        waiting.lines.push_back(line);
        drop(waiting);
        self.queue.arrived.notify_one();
    }

    /// Says that no line will follow: the source ends once it is empty.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.queue.arrived.notify_one();
    }
}

impl LogSource {
    /// Returns the oldest line as soon as there is one, `None` after [`LogSink::close`].
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Received> {
        loop {
            let arrived = self.queue.arrived.notified();
            {
                let mut waiting = self.queue.lock();
                if let Some(line) = waiting.lines.pop_front() {
                    waiting.cost -= cost(&line);
                    return Some(Received { line, lost_lines: std::mem::take(&mut waiting.lost) });
                }
                if waiting.closed {
                    return None;
                }
            }
            arrived.await;
        }
    }
}

fn cost(line: &LogLine) -> usize {
    line.text.len() + LINE_COST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { at_us: 1, stream: Stream::Stdout, request_id: None, text: text.to_owned(), is_mark: false }
    }

    #[tokio::test]
    async fn a_full_queue_gives_up_its_oldest_lines_and_says_how_many() {
        let (sink, mut source) = log_queue();
        let long = "x".repeat(64 * 1024);
        for _ in 0..20 {
            sink.push(line(&long));
        }
        sink.push(line("last"));
        sink.close();
        let first = source.recv().await.expect("lines are waiting");
        let mut kept = vec![first.line.text];
        while let Some(received) = source.recv().await {
            assert_eq!(received.lost_lines, 0);
            kept.push(received.line.text);
        }
        assert_eq!(kept.last().map(String::as_str), Some("last"));
        let lost = u64::try_from(21 - kept.len()).expect("fewer are kept than were written");
        assert_eq!(first.lost_lines, lost);
        assert!(kept.iter().map(|text| text.len()).sum::<usize>() <= QUEUE_MAX_BYTES);
        assert!(kept.len() > 12, "the queue holds what its limit allows: {}", kept.len());
    }
}
