//! The right of one call to one slot of one instance.

use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{InstanceFailure, InstanceId, InvocationId, RevisionId};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::demand::KillReason;
use super::line::{Granted, Line};
use super::phases::StartPhases;
use crate::contract::{Channel, StreamFailure};

/// How long a caller waits to be told why an instance ended under its call.
const FAILURE_PATIENCE: Duration = Duration::from_millis(250);

/// A slot of an instance. Dropping it gives the slot back.
///
/// A call whose caller goes away in the middle keeps its slot until the function has ended it: nobody can stop a
/// handler, and an instance must not get more than it can serve.
#[derive(Debug)]
pub struct Lease {
    line: Arc<Line>,
    invocation: InvocationId,
    granted: Granted,
    /// What an event channel works on, and until when it may, while a call is with it.
    sent: Option<(watch::Receiver<usize>, Instant)>,
}

impl Lease {
    pub(super) fn new(line: Arc<Line>, invocation: InvocationId, granted: Granted) -> Self {
        Self { line, invocation, granted, sent: None }
    }

    /// Returns the instance.
    pub fn instance(&self) -> InstanceId {
        self.granted.seat.instance
    }

    /// Returns the revision it runs.
    pub fn revision(&self) -> &RevisionId {
        self.line.revision()
    }

    /// Returns the way to it.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.granted.seat.channel
    }

    /// Returns how long its start took, if the call waited for it.
    pub fn start(&self) -> Option<StartPhases> {
        self.granted.is_cold.then_some(self.granted.seat.start)
    }

    /// Returns what outlives the lease and can still speak about its instance.
    pub(super) fn instance_handle(&self) -> InstanceHandle {
        InstanceHandle { line: Arc::clone(&self.line), seat: Arc::clone(&self.granted.seat) }
    }

    /// Notes that an event is about to be sent: until [`Lease::answered`], dropping the lease waits for the function.
    pub(super) fn sent(&mut self, until: Instant) {
        if let Channel::Event(channel) = &*self.granted.seat.channel {
            self.sent = Some((channel.in_flight(), until));
        }
    }

    /// Notes that a streamed answer broke off.
    pub(super) fn stream_failed(&mut self, failure: &StreamFailure) {
        let handle = self.instance_handle();
        match failure {
            StreamFailure::Function(_) => {}
            StreamFailure::InstanceDied => handle.avoid(),
            StreamFailure::Broken(_) => handle.kill(KillReason::Broken),
            StreamFailure::TimedOut => handle.kill(KillReason::Timeout),
        }
        self.answered();
    }

    /// Notes that the function has ended the call.
    pub(super) fn answered(&mut self) {
        self.sent = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (line, invocation, instance) = (Arc::clone(&self.line), self.invocation, self.granted.seat.instance);
        let runtime = Handle::try_current();
        let (Some((mut in_flight, until)), Ok(runtime)) = (self.sent.take(), runtime) else {
            line.finish(invocation);
            return;
        };
        // Whoever holds the lease drops the call first, which leaves it counted among those in flight.
        let mine = *in_flight.borrow_and_update();
        if mine == 0 {
            line.finish(invocation);
            return;
        }
        runtime.spawn(async move {
            // An error means that the instance has ended: that ends the call too.
            if timeout_at(until, in_flight.wait_for(|count| *count < mine)).await.is_err() {
                line.kill(instance, KillReason::Timeout);
            }
            line.finish(invocation);
        });
    }
}

/// An instance that a call has or had.
#[derive(Clone, Debug)]
pub(super) struct InstanceHandle {
    line: Arc<Line>,
    seat: Arc<super::line::Seat>,
}

impl InstanceHandle {
    /// Asks for the death of the instance.
    pub(super) fn kill(&self, reason: KillReason) {
        self.line.kill(self.seat.instance, reason);
    }

    /// Keeps further calls away from the instance.
    pub(super) fn avoid(&self) {
        self.line.avoid(self.seat.instance);
    }

    /// Returns why the instance ended, if its owner says so soon.
    pub(super) async fn failure(&self) -> Option<InstanceFailure> {
        self.seat.failure(FAILURE_PATIENCE).await
    }
}
