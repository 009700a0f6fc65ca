//! Talks frames with the bootstrap inside an instance.
//!
//! One socket carries every invocation of an instance, told apart by number. Whoever invokes writes its frame to the
//! socket itself, without waking a task first; what the socket does not take at once waits in a queue that the
//! connection's task empties. A frame is queued whole or not at all, so a caller that goes away in the middle leaves no
//! torn frame behind.
//!
//! A caller that goes away or times out cancels, but the function usually goes on: its invocation stays counted until
//! the instance has answered.

mod connection;
mod outbound;

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use self::connection::{Connection, End, Refused, Reply};
use super::capture::Capture;
use super::frame::Decoder;
use super::invocation::{Identity, InitFailure, Invocation, Outcome, ReadyInfo};
use super::stream::AnswerStream;

/// How many invocations one instance can be given at once.
pub const INVOCATIONS_MAX: usize = 4096;

/// How many bytes a frame may have beyond the longest answer.
const FRAME_MARGIN_BYTES: usize = 1024 * 1024;

/// How many bytes of a streamed answer may wait for their reader. The bootstraps know the same.
const STREAM_WINDOW_BYTES: usize = 1024 * 1024;

/// What a chunk costs of the window beyond its bytes. The bootstraps know the same.
const CHUNK_COST_BYTES: usize = 64;

/// How many chunks fit into the window, whatever their size.
const STREAM_WINDOW_CHUNKS: usize = STREAM_WINDOW_BYTES / CHUNK_COST_BYTES;

/// The daemon's end of one instance's socket.
#[derive(Debug)]
pub struct Framed {
    connection: Arc<Connection>,
    task: JoinHandle<()>,
}

impl Framed {
    /// Connects to the socket on which an instance listens, or will.
    ///
    /// The bootstrap gives up an earlier connection once it accepted this one. A frame much longer than `answer_max`
    /// bytes breaks the contract: the bootstrap is told the same limit and turns longer answers into failures of the
    /// function.
    pub async fn connect(
        path: &Path,
        identity: Identity,
        capture: Arc<Capture>,
        answer_max: usize,
    ) -> io::Result<Self> {
        let socket = UnixStream::connect(path).await?;
        let connection = Arc::new(Connection::new(socket, identity, capture));
        let decoder = Decoder::new(answer_max.saturating_add(FRAME_MARGIN_BYTES));
        let task = tokio::spawn(connection::run(Arc::clone(&connection), decoder));
        Ok(Self { connection, task })
    }

    /// Waits until the instance can take invocations.
    pub async fn ready(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        self.connection.readiness().wait(deadline).await
    }

    /// Hands an event to the function and waits for its answer.
    ///
    /// Dropping the future tells the instance that nobody waits; the invocation counts as in flight until the instance
    /// has ended it.
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        let deadline = invocation.deadline.at;
        let (caller, replied) = match self.connection.send_invoke(&invocation) {
            Ok(sent) => sent,
            Err(Refused::Ended(End::Died)) => return Outcome::InstanceDied { may_have_started: false },
            Err(Refused::Ended(End::Broken(breach))) => return Outcome::Broken(breach),
            Err(Refused::Limit(refusal)) => return Outcome::Refused(refusal),
        };
        match timeout_at(deadline, replied).await {
            Err(_) => Outcome::TimedOut,
            Ok(Ok(Reply::Answer(bytes))) => Outcome::Answer(bytes),
            Ok(Ok(Reply::Error(report))) => Outcome::FunctionError(report),
            Ok(Ok(Reply::Stream { content_type, items })) => {
                Outcome::Stream(AnswerStream::new(content_type, items, Box::new(caller), deadline))
            }
            Ok(Ok(Reply::End(End::Broken(breach)))) => Outcome::Broken(breach),
            Ok(Ok(Reply::End(End::Died)) | Err(_)) => Outcome::InstanceDied { may_have_started: true },
        }
    }

    /// Watches how many invocations the instance works on, those included whose caller has gone and those it was given
    /// by a daemon before this one.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.connection.in_flight()
    }

    /// Notes that the instance has ended: what it still sent counts, everything else in flight ends with it.
    pub fn instance_died(&self) {
        self.connection.end();
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        self.task.abort();
        self.connection.close(End::Died);
    }
}

#[cfg(test)]
mod tests;
