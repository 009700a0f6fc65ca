//! Showing lines to those who follow a function, as they are written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control_plane::model::FunctionName;
use proto::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// How many lines may wait for one slow follower; beyond that it misses the oldest, and is told how many.
pub const FOLLOW_WAITING_MAX: usize = 4096;

type Shown = (u64, Arc<json::LogLine>);

/// Everybody who follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Followers {
    senders: Arc<Mutex<BTreeMap<FunctionName, broadcast::Sender<Shown>>>>,
}

/// Lines of one function as they come.
#[derive(Debug)]
pub struct Follow {
    receiver: broadcast::Receiver<Shown>,
}

/// What a [`Follow`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A line, and its place in the order of the function's lines.
    Line(u64, Arc<json::LogLine>),
    /// So many lines were missed, because they came faster than they were taken.
    Missed(u64),
}

impl Followers {
    /// Shows a line to those who follow its function; makes it only if there is anybody.
    pub(super) fn show(&self, function: &FunctionName, sequence: u64, make: impl FnOnce() -> json::LogLine) {
        let mut senders = self.lock();
        let Some(sender) = senders.get(function) else { return };
        // The last one may have gone since.
        if sender.send((sequence, Arc::new(make()))).is_err() {
            senders.remove(function);
        }
    }

    pub(super) fn follow(&self, function: &FunctionName) -> Follow {
        let mut senders = self.lock();
        let sender = senders.entry(function.clone()).or_insert_with(|| broadcast::Sender::new(FOLLOW_WAITING_MAX));
        Follow { receiver: sender.subscribe() }
    }

    /// Ends every follow.
    pub(super) fn end(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<FunctionName, broadcast::Sender<Shown>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follow {
    /// Returns the next line, or none once the store is closed.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Followed> {
        match self.receiver.recv().await {
            Ok((sequence, line)) => Some(Followed::Line(sequence, line)),
            Err(RecvError::Lagged(missed)) => Some(Followed::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}
