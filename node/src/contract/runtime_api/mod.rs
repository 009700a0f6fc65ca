//! The AWS Lambda Runtime API: the instance asks for work and posts answers.
//!
//! Everything that runs on Lambda as a custom runtime speaks it, unmodified: the official clients for Python, Rust, Go,
//! C++ and others. Each instance has a listener of its own, at a loopback address inside its sandbox, so nothing but
//! this instance can reach it and no request needs to say who sends it.
//!
//! `desk` holds the invocations and knows nothing of HTTP; `server` turns requests into calls of it.

mod desk;
mod server;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::desk::{Desk, Reply};
use super::capture::Capture;
use super::invocation::{Identity, InitFailure, Invocation, Outcome, ReadyInfo};
use super::stream::AnswerStream;

/// The daemon's end of one instance that polls for work.
#[derive(Debug)]
pub struct RuntimeApi {
    desk: Arc<Desk>,
    server: JoinHandle<()>,
    ending: CancellationToken,
}

impl RuntimeApi {
    /// Serves one instance on a listener that only it can reach.
    ///
    /// Answers longer than `answer_max` bytes are refused and end the invocation as a failure of the function; a
    /// streamed answer may be of any length.
    pub fn serve(listener: TcpListener, identity: Identity, capture: Arc<Capture>, answer_max: usize) -> Self {
        let desk = Arc::new(Desk::new(identity, capture));
        let ending = CancellationToken::new();
        let serving = server::run(listener, Arc::clone(&desk), answer_max, ending.clone());
        Self { desk, server: tokio::spawn(serving), ending }
    }

    /// Waits until the instance asks for its first invocation, which is how it says that it is ready.
    pub async fn ready(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        self.desk.readiness().wait(deadline).await
    }

    /// Hands an event to the function and waits for its answer.
    ///
    /// An event nobody has asked for yet is taken back when the future is dropped. One that was handed out cannot be:
    /// it counts as in flight until the instance has answered.
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        let deadline = invocation.deadline.at;
        let (caller, replied) = match self.desk.submit(invocation) {
            Ok(submitted) => submitted,
            Err(outcome) => return outcome,
        };
        match timeout_at(deadline, replied).await {
            Err(_) => Outcome::TimedOut,
            Ok(Ok(Reply::Answer(bytes))) => Outcome::Answer(bytes),
            Ok(Ok(Reply::Error(report))) => Outcome::FunctionError(report),
            Ok(Ok(Reply::Stream { content_type, items })) => {
                Outcome::Stream(AnswerStream::new(content_type, items, Box::new(caller), deadline))
            }
            Ok(Ok(Reply::Died { may_have_started })) => Outcome::InstanceDied { may_have_started },
            Ok(Err(_)) => Outcome::InstanceDied { may_have_started: true },
        }
    }

    /// Watches how many invocations the instance has that it did not answer yet.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.desk.in_flight()
    }

    /// Notes that the instance has ended: what it still sent counts, everything else in flight ends with it.
    pub fn instance_died(&self) {
        self.ending.cancel();
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
        self.desk.close();
    }
}

#[cfg(test)]
mod tests;
