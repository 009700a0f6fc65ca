//! Where lines of the node's own log go: standard error, those of the access log some at a time.
//!
//! A line for each call costs a system call each if it is written at once, which is a tenth of a warm call. They are
//! gathered and written within [`DELAY_MAX`]; a line of anything else is written at once, after those before it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// What lines of the access log are told apart by.
const GATHERED: &str = "hearth::access";

/// How long a line may wait for others.
const DELAY_MAX: Duration = Duration::from_millis(50);

/// How many bytes wait at most.
const BYTES_MAX: usize = 64 << 10;

/// The lines of one process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// A thread is going to write what waits.
    is_due: bool,
}

/// Takes one line.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    is_gathered: bool,
}

impl Lines {
    /// Writes what waits.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.lock().write_out()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, line: &[u8], is_gathered: bool) -> io::Result<()> {
        let mut waiting = self.lock();
        waiting.bytes.extend_from_slice(line);
        if !is_gathered || waiting.bytes.len() >= BYTES_MAX {
            return waiting.write_out();
        }
        if !waiting.is_due {
            waiting.is_due = true;
            drop(waiting);
            self.write_soon();
        }
        Ok(())
    }

    /// Has what waits written by whatever is at hand to wait: a task where there is a runtime, else at once.
    fn write_soon(&self) {
        let lines = self.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(DELAY_MAX).await;
                // A log that nobody reads any more must not end the node.
                drop(lines.flush());
            })),
            Err(_) => drop(lines.flush()),
        }
    }
}

impl Waiting {
    fn write_out(&mut self) -> io::Result<()> {
        self.is_due = false;
        let written = io::stderr().write_all(&self.bytes);
        self.bytes.clear();
        written
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lines.take(bytes, self.is_gathered)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, is_gathered: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { lines: self, is_gathered: metadata.target() == GATHERED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_calls_wait_for_each_other_and_for_nothing_else() {
        let lines = Lines::default();
        let waiting = || lines.lock().bytes.len();
        lines.take(b"a call\n", true).expect("standard error can be written to");
        lines.take(b"another\n", true).expect("standard error can be written to");
        assert_eq!(waiting(), 15);
        let written = async {
            while waiting() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DELAY_MAX * 100, written).await.expect("they are written after a moment");
        lines.take(b"a call\n", true).expect("standard error can be written to");
        lines.take(b"an event\n", false).expect("standard error can be written to");
        assert_eq!(waiting(), 0, "an event is written at once, after what came before it");
        lines.take(&vec![b'x'; BYTES_MAX], true).expect("standard error can be written to");
        assert_eq!(waiting(), 0, "no more than so many wait");
    }
}
