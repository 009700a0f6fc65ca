//! Catches what an instance writes and says which invocation wrote it.
//!
//! Bootstraps send lines with the number of their invocation. Everything else arrives through the
//! pipes behind descriptors 1 and 2, which carry no names: libraries in C, child processes, and
//! every runtime that is not ours. Such bytes belong to the invocation that was running alone when
//! they were written. A task that reads pipes when it gets to it cannot know that, so whoever
//! begins or ends an invocation first empties the pipes on the spot: a function writes before it
//! answers, hence what it wrote is in the pipe when its answer is here. An empty pipe costs one
//! system call, well below a microsecond.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe;

use super::line::LineSplitter;
use super::output::{LogLine, LogSink, Stream};

/// How many bytes are taken from a pipe at once.
const READ_BYTES: usize = 8 * 1024;

/// How many reads one turn makes before others get theirs: a pipe holds 64 KiB by default.
const READS_PER_TURN: usize = 16;

/// How much a function may write before lines are left out.
#[derive(Debug, Clone, Copy)]
pub struct OutputLimits {
    /// Bytes one invocation may write.
    pub invocation_bytes: usize,
    /// Bytes one instance may write within a second.
    pub second_bytes: usize,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { invocation_bytes: 1024 * 1024, second_bytes: 4 * 1024 * 1024 }
    }
}

/// Everything one instance writes, on its way into a [`LogSink`].
#[derive(Debug)]
pub struct Capture {
    state: Mutex<State>,
    /// Of stdout and of stderr.
    pipes: [Option<pipe::Receiver>; 2],
}

#[derive(Debug)]
struct State {
    now_us: fn() -> u64,
    sink: LogSink,
    limits: OutputLimits,
    running: Vec<Running>,
    /// What was written without a line feed, of stdout and of stderr.
    partial: [LineSplitter; 2],
    open: [bool; 2],
    second: Budget,
}

/// An invocation that has begun and not ended.
#[derive(Debug)]
struct Running {
    request_id: Arc<str>,
    written: usize,
}

/// What was written within the second that began at `since_us`.
#[derive(Debug, Default)]
struct Budget {
    since_us: u64,
    written: usize,
}

impl Capture {
    /// Returns a capture that reads the given pipes and what bootstraps send.
    ///
    /// `now_us` reads the clock in microseconds since 1970.
    pub fn new(
        stdout: Option<pipe::Receiver>,
        stderr: Option<pipe::Receiver>,
        sink: LogSink,
        limits: OutputLimits,
        now_us: fn() -> u64,
    ) -> Arc<Self> {
        let pipes = [stdout, stderr];
        let state = Mutex::new(State {
            now_us,
            sink,
            limits,
            running: Vec::new(),
            partial: Default::default(),
            open: pipes.each_ref().map(Option::is_some),
            second: Budget::default(),
        });
        Arc::new(Self { state, pipes })
    }

    /// Reads the pipes until both are closed.
    ///
    /// A pipe opened for reading and writing inside the sandbox never closes: the owner then drops
    /// this future when the instance has ended, and calls [`finish`](Self::finish).
    pub async fn run(&self) {
        loop {
            let open = self.lock().open;
            let [stdout, stderr] = [0, 1].map(|at| self.pipes[at].as_ref().filter(|_| open[at]));
            let ready = match (stdout, stderr) {
                (None, None) => return,
                (Some(pipe), None) | (None, Some(pipe)) => pipe.readable().await,
                (Some(stdout), Some(stderr)) => tokio::select! {
                    ready = stdout.readable() => ready,
                    ready = stderr.readable() => ready,
                },
            };
            let mut state = self.lock();
            if ready.is_err() {
                state.open = [false; 2];
            }
            // This read tells the reactor when a pipe is empty, so that it is waited for again.
            self.drain(&mut state, pipe::Receiver::try_read);
        }
    }

    /// Takes what is left in the pipes and says that no line will follow.
    pub fn finish(&self) {
        let mut state = self.lock();
        self.drain(&mut state, read_now);
        state.flush();
        state.sink.close();
    }

    /// Notes that an invocation begins: what is written from here on may be its own.
    pub fn begin(&self, request_id: &Arc<str>) {
        let mut state = self.lock();
        // Where several run, nobody knows whose the lines are, and they are read as they come.
        if state.running.len() <= 1 {
            self.drain(&mut state, read_now);
            state.flush();
        }
        state.running.push(Running { request_id: Arc::clone(request_id), written: 0 });
    }

    /// Notes that an invocation has ended, after taking what it wrote.
    pub fn end(&self, request_id: &str) {
        let mut state = self.lock();
        if state.running.len() <= 2 {
            self.drain(&mut state, read_now);
            state.flush();
        }
        state.running.retain(|running| *running.request_id != *request_id);
    }

    /// Takes text that a bootstrap sent, with the invocation it named. A time in the future counts as this moment.
    pub fn record(&self, at_us: u64, stream: Stream, request_id: Option<&Arc<str>>, text: &[u8]) {
        let mut state = self.lock();
        let mut splitter = LineSplitter::default();
        splitter.push(text, |line| state.write(Some(at_us), stream, request_id, line));
        splitter.finish(|line| state.write(Some(at_us), stream, request_id, line));
    }

    /// Empties the pipes, up to a limit that lets others have their turn.
    fn drain(&self, state: &mut State, read: fn(&pipe::Receiver, &mut [u8]) -> io::Result<usize>) {
        let mut buffer = [0; READ_BYTES];
        for (at, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let Some(pipe) = self.pipes[at].as_ref().filter(|_| state.open[at]) else { continue };
            for _ in 0..READS_PER_TURN {
                match read(pipe, &mut buffer) {
                    Ok(0) => state.open[at] = false,
                    Ok(count) => {
                        state.take(at, stream, &buffer[..count]);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => state.open[at] = false,
                }
                break;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Reads what is in the pipe, of which the reactor may not have heard yet.
fn read_now(pipe: &pipe::Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(pipe, buffer)?)
}

impl State {
    /// Takes bytes from a pipe.
    fn take(&mut self, index: usize, stream: Stream, bytes: &[u8]) {
        let sole = self.sole();
        let mut splitter = std::mem::take(&mut self.partial[index]);
        splitter.push(bytes, |line| self.write(None, stream, sole.as_ref(), line));
        self.partial[index] = splitter;
    }

    /// Ends unfinished lines, because what follows is another invocation's, or nobody knows whose.
    fn flush(&mut self) {
        let sole = self.sole();
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let mut splitter = std::mem::take(&mut self.partial[index]);
            splitter.finish(|line| self.write(None, stream, sole.as_ref(), line));
            self.partial[index] = splitter;
        }
    }

    /// Returns the invocation that runs, if it runs alone.
    fn sole(&self) -> Option<Arc<str>> {
        match self.running.as_slice() {
            [running] => Some(Arc::clone(&running.request_id)),
            _ => None,
        }
    }

    /// Passes a line on, or the mark that says why it is missing, or nothing behind such a mark.
    ///
    /// Limits go by our own clock: an instance that claims to write once a second may write all day.
    fn write(&mut self, said_us: Option<u64>, stream: Stream, request_id: Option<&Arc<str>>, text: &str) {
        let now_us = (self.now_us)();
        let at_us = said_us.map_or(now_us, |said_us| said_us.min(now_us));
        let cost = text.len() + 1;
        let line = |text: String, is_mark| LogLine { at_us, stream, request_id: request_id.cloned(), text, is_mark };
        if let Some(running) =
            request_id.and_then(|id| self.running.iter_mut().find(|running| *running.request_id == **id))
        {
            let limit = self.limits.invocation_bytes;
            if let Some(first) = exceeds(&mut running.written, cost, limit) {
                if first {
                    let text = format!("output truncated: more than {limit} bytes in one invocation");
                    self.sink.push(line(text, true));
                }
                return;
            }
        }
        if now_us.saturating_sub(self.second.since_us) >= 1_000_000 {
            self.second = Budget { since_us: now_us, written: 0 };
        }
        let limit = self.limits.second_bytes;
        match exceeds(&mut self.second.written, cost, limit) {
            None => self.sink.push(line(text.to_owned(), false)),
            Some(true) => {
                let text = format!("output truncated: more than {limit} bytes within a second");
                self.sink.push(line(text, true));
            }
            Some(false) => {}
        }
    }
}

/// Adds `cost` to what was written. Returns `None` within the limit, and beyond it whether this
/// was the first time.
fn exceeds(written: &mut usize, cost: usize, limit: usize) -> Option<bool> {
    let before = *written;
    *written = before.saturating_add(cost);
    if *written <= limit {
        return None;
    }
    let first = before <= limit;
    // Nothing fits any more, even a line short enough to do so: what is kept has no holes.
    *written = usize::MAX;
    Some(first)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::contract::output::{LogSource, log_queue};

    thread_local! {
        static CLOCK: Cell<u64> = const { Cell::new(7) };
    }

    fn clock() -> u64 {
        CLOCK.get()
    }

    fn capture(limits: OutputLimits) -> (std::fs::File, Arc<Capture>, LogSource) {
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        let stdout = pipe::Receiver::from_owned_fd(reader.into()).expect("it is a pipe");
        let (sink, source) = log_queue();
        let writer = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        (writer, Capture::new(Some(stdout), None, sink, limits, clock), source)
    }

    async fn all(mut source: LogSource) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(received) = source.recv().await {
            let id = received.line.request_id.as_deref().unwrap_or("-").to_owned();
            lines.push(format!("{id} {}", received.line.text));
        }
        lines
    }

    #[tokio::test]
    async fn what_is_in_the_pipe_belongs_to_the_invocation_that_ran_alone() {
        let (mut writer, capture, source) = capture(OutputLimits::default());
        let (first, second) = (Arc::from("first"), Arc::from("second"));
        writer.write_all(b"loading\n").expect("the pipe takes it");
        capture.begin(&first);
        writer.write_all(b"working\nunfinished").expect("the pipe takes it");
        capture.end(&first);
        capture.begin(&second);
        capture.begin(&first);
        writer.write_all(b"whose?\n").expect("the pipe takes it");
        capture.end(&first);
        writer.write_all(b"mine\n").expect("the pipe takes it");
        capture.end(&second);
        drop(writer);
        tokio::time::timeout(Duration::from_secs(5), capture.run()).await.expect("a closed pipe ends the reading");
        capture.finish();
        let expected = ["- loading", "first working", "first unfinished", "- whose?", "second mine"];
        assert_eq!(all(source).await, expected);
    }

    #[tokio::test]
    async fn an_invocation_over_its_limit_is_cut_with_a_mark() {
        let limits = OutputLimits { invocation_bytes: 10, second_bytes: 1000 };
        let (_writer, capture, source) = capture(limits);
        let id = Arc::from("a");
        capture.begin(&id);
        capture.record(1, Stream::Stdout, Some(&id), b"1234\n5678\n");
        capture.record(1, Stream::Stderr, Some(&id), b"x\ny\n");
        capture.end(&id);
        capture.record(1, Stream::Stdout, None, b"later");
        capture.finish();
        let mark = "a output truncated: more than 10 bytes in one invocation";
        assert_eq!(all(source).await, ["a 1234", "a 5678", mark, "- later"]);
    }

    #[tokio::test]
    async fn a_flood_is_cut_until_the_second_is_over() {
        let limits = OutputLimits { invocation_bytes: 1000, second_bytes: 6 };
        let (_writer, capture, source) = capture(limits);
        capture.record(7, Stream::Stdout, None, b"12345\nno\nno\n");
        // What the instance says of the time makes no difference.
        capture.record(9_000_000, Stream::Stdout, None, b"no");
        CLOCK.set(999_999);
        capture.record(7, Stream::Stdout, None, b"no");
        CLOCK.set(1_000_000);
        capture.record(7, Stream::Stdout, None, b"yes");
        capture.finish();
        let mark = "- output truncated: more than 6 bytes within a second";
        assert_eq!(all(source).await, ["- 12345", mark, "- yes"]);
    }
}
