//! Whether an instance can take invocations: said once, heard by everyone who waits.

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::invocation::{InitFailure, ReadyInfo};

/// How the start of an instance ended, once it has.
#[derive(Debug)]
pub(super) struct Readiness {
    settled: watch::Sender<Option<Result<ReadyInfo, InitFailure>>>,
}

impl Readiness {
    pub(super) fn new() -> Self {
        Self { settled: watch::Sender::new(None) }
    }

    /// Publishes how the start ended. Returns whether this was the first word, which is the one that counts.
    pub(super) fn settle(&self, outcome: Result<ReadyInfo, InitFailure>) -> bool {
        self.settled.send_if_modified(|settled| {
            let is_first = settled.is_none();
            settled.get_or_insert(outcome);
            is_first
        })
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.borrow().is_some()
    }

    /// Waits until the start has ended.
    pub(super) async fn wait(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        let mut settled = self.settled.subscribe();
        let outcome = match timeout_at(deadline, settled.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => None,
            Err(_) => return Err(InitFailure::TimedOut),
        };
        outcome.unwrap_or(Err(InitFailure::InstanceDied))
    }
}
