//! Where invocations wait for an instance that asks for them, and callers for its answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use crate::contract::capture::Capture;
use crate::contract::framed::INVOCATIONS_MAX;
use crate::contract::invocation::{ErrorReport, Identity, InitFailure, Invocation, Outcome, ReadyInfo, Refusal};
use crate::contract::readiness::Readiness;
use crate::contract::stream::{Item, Origin};

/// How many portions of a streamed answer wait for their reader; then the instance is not read from any more.
const STREAM_PORTIONS: usize = 16;

/// Holds the invocations of one instance.
#[derive(Debug)]
pub(super) struct Desk {
    identity: Identity,
    capture: Arc<Capture>,
    state: Mutex<State>,
    readiness: Readiness,
    in_flight: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// Invocations nobody has asked for yet. Invariant: empty while `askers` is not.
    queued: VecDeque<Arc<Invocation>>,
    /// Requests for work that wait for some.
    askers: VecDeque<oneshot::Sender<Arc<Invocation>>>,
    pending: BTreeMap<Arc<str>, Pending>,
    is_closed: bool,
}

#[derive(Debug)]
struct Pending {
    /// Where the answer goes, until it has begun or nobody waits any more.
    reply: Option<oneshot::Sender<Reply>>,
    is_handed_out: bool,
    is_answering: bool,
}

/// The first sign of an answer.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Bytes),
    Error(ErrorReport),
    Stream { content_type: Option<String>, items: mpsc::Receiver<Item> },
    Died { may_have_started: bool },
}

/// The instance speaks of an invocation it does not have.
#[derive(Debug)]
pub(super) struct UnknownRequest;

/// One who waits for an answer.
pub(super) struct Caller {
    desk: Arc<Desk>,
    request_id: Arc<str>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.desk.give_up(&self.request_id);
    }
}

impl Origin for Caller {
    /// The bounded channel holds the instance up; there is nothing to tell.
    fn taken(&mut self, _bytes: usize) {}
}

/// A request for work; gives back what it was handed when it goes away before passing it on.
#[derive(Debug)]
pub(super) struct Asker {
    desk: Arc<Desk>,
    handed: oneshot::Receiver<Arc<Invocation>>,
}

impl Asker {
    /// Waits for an invocation; `None` when the desk closes.
    pub(super) async fn next(mut self) -> Option<Arc<Invocation>> {
        (&mut self.handed).await.ok()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.handed.close();
        if let Ok(invocation) = self.handed.try_recv() {
            self.desk.take_back(invocation);
        }
    }
}

/// An answer that has begun to arrive. Dropped without an end, it fails.
#[derive(Debug)]
pub(super) struct Answering {
    desk: Arc<Desk>,
    request_id: Arc<str>,
    is_ended: bool,
}

impl Desk {
    pub(super) fn new(identity: Identity, capture: Arc<Capture>) -> Self {
        Self {
            identity,
            capture,
            state: Mutex::default(),
            readiness: Readiness::new(),
            in_flight: watch::Sender::new(0),
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }

    /// Takes an invocation for the next one who asks.
    pub(super) fn submit(
        self: &Arc<Self>,
        invocation: Invocation,
    ) -> Result<(Caller, oneshot::Receiver<Reply>), Outcome> {
        let request_id = Arc::clone(&invocation.request_id);
        let mut state = self.lock();
        if state.is_closed {
            return Err(Outcome::InstanceDied { may_have_started: false });
        }
        if state.pending.len() >= INVOCATIONS_MAX {
            return Err(Outcome::Refused(Refusal::Full { limit: INVOCATIONS_MAX }));
        }
        if state.pending.contains_key(&request_id) {
            return Err(Outcome::Refused(Refusal::Duplicate { request_id }));
        }
        let (reply, replied) = oneshot::channel();
        let pending = Pending { reply: Some(reply), is_handed_out: false, is_answering: false };
        state.pending.insert(Arc::clone(&request_id), pending);
        self.count(&state);
        state.queued.push_back(Arc::new(invocation));
        self.hand_out(&mut state);
        drop(state);
        Ok((Caller { desk: Arc::clone(self), request_id }, replied))
    }

    /// Takes a request for work.
    pub(super) fn ask(self: &Arc<Self>) -> Asker {
        self.readiness.settle(Ok(ReadyInfo { runtime: String::new(), init_ms: 0, in_flight: Vec::new() }));
        let (hand, handed) = oneshot::channel();
        let mut state = self.lock();
        if !state.is_closed {
            state.askers.push_back(hand);
            self.hand_out(&mut state);
        }
        Asker { desk: Arc::clone(self), handed }
    }

    /// Notes that an invocation is being answered, so that it cannot be answered twice.
    pub(super) fn begin_answer(self: &Arc<Self>, request_id: &str) -> Result<Answering, UnknownRequest> {
        let mut state = self.lock();
        let (key, pending) = state
            .pending
            .get_key_value(request_id)
            .map(|(key, pending)| (Arc::clone(key), pending.is_handed_out && !pending.is_answering))
            .ok_or(UnknownRequest)?;
        if !pending {
            return Err(UnknownRequest);
        }
        if let Some(pending) = state.pending.get_mut(request_id) {
            pending.is_answering = true;
        }
        Ok(Answering { desk: Arc::clone(self), request_id: key, is_ended: false })
    }

    /// Notes that the instance has ended.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        let State { queued, askers, pending, .. } = std::mem::take(&mut *state);
        state.is_closed = true;
        self.count(&state);
        drop(state);
        drop((queued, askers));
        self.readiness.settle(Err(InitFailure::InstanceDied));
        for (request_id, Pending { reply, is_handed_out, .. }) in pending {
            if is_handed_out {
                self.capture.end(&request_id);
            }
            if let Some(reply) = reply {
                drop(reply.send(Reply::Died { may_have_started: is_handed_out }));
            }
        }
    }

    /// How many requests wait for work on connections not known to have ended.
    #[cfg(test)]
    pub(super) fn asking(&self) -> usize {
        self.lock().askers.iter().filter(|asker| !asker.is_closed()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings those who ask and what is queued together.
    fn hand_out(&self, state: &mut State) {
        while !state.queued.is_empty() {
            let Some(asker) = state.askers.pop_front() else { return };
            let Some(invocation) = state.queued.pop_front() else { return };
            let request_id = Arc::clone(&invocation.request_id);
            // Whoever asked may have gone away: then the next one gets it.
            if let Err(invocation) = asker.send(invocation) {
                state.queued.push_front(invocation);
                continue;
            }
            self.capture.begin(&request_id);
            if let Some(pending) = state.pending.get_mut(&request_id) {
                pending.is_handed_out = true;
            }
        }
    }

    /// Queues an invocation again that was handed to someone who never passed it on.
    fn take_back(&self, invocation: Arc<Invocation>) {
        let mut state = self.lock();
        let Some(pending) = state.pending.get_mut(&invocation.request_id) else { return };
        self.capture.end(&invocation.request_id);
        pending.is_handed_out = false;
        if pending.reply.is_none() {
            state.pending.remove(&invocation.request_id);
            self.count(&state);
            return;
        }
        state.queued.push_front(invocation);
        self.hand_out(&mut state);
    }

    /// Notes that nobody waits for an invocation any more.
    fn give_up(&self, request_id: &str) {
        let mut state = self.lock();
        let Some(pending) = state.pending.get_mut(request_id) else { return };
        pending.reply = None;
        if !pending.is_handed_out {
            state.pending.remove(request_id);
            state.queued.retain(|invocation| *invocation.request_id != *request_id);
            self.count(&state);
        }
    }

    fn count(&self, state: &State) {
        self.in_flight.send_replace(state.pending.len());
    }
}

impl Answering {
    /// Ends the invocation with an answer or the report of a failure.
    pub(super) fn end(mut self, answer: Result<Bytes, ErrorReport>) {
        if let Some(reply) = self.finish() {
            drop(reply.send(answer.map_or_else(Reply::Error, Reply::Answer)));
        }
    }

    /// Begins a streamed answer. Returns where its portions go, `None` when nobody waits for them.
    pub(super) fn stream(&self, content_type: Option<String>) -> Option<mpsc::Sender<Item>> {
        let reply = self.desk.lock().pending.get_mut(&self.request_id)?.reply.take()?;
        let (portions, items) = mpsc::channel(STREAM_PORTIONS);
        reply.send(Reply::Stream { content_type, items }).ok()?;
        Some(portions)
    }

    /// Ends the invocation after its streamed answer.
    pub(super) fn end_stream(mut self) {
        self.finish();
    }

    /// Forgets the invocation. Returns who waits for the first sign of an answer.
    fn finish(&mut self) -> Option<oneshot::Sender<Reply>> {
        self.is_ended = true;
        let mut state = self.desk.lock();
        let pending = state.pending.remove(&self.request_id)?;
        self.desk.count(&state);
        drop(state);
        self.desk.capture.end(&self.request_id);
        pending.reply
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        if let Some(reply) = self.finish() {
            let report = ErrorReport::new("Runtime.ResponseIncomplete", "the connection broke within the response");
            drop(reply.send(Reply::Error(report)));
        }
    }
}
