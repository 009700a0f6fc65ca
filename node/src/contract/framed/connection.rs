//! One connection to a bootstrap: who waits for what, and what each frame means for them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use rustix::io::Errno;
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::outbound::Outbound;
use super::{CHUNK_COST_BYTES, INVOCATIONS_MAX, STREAM_WINDOW_BYTES, STREAM_WINDOW_CHUNKS};
use crate::contract::capture::Capture;
use crate::contract::frame::{Decoder, FRAME_MAX_BYTES, Frame, Kind, LogRecord, put_header};
use crate::contract::invocation::{Breach, ErrorReport, Identity, InitFailure, Invocation, ReadyInfo, Refusal};
use crate::contract::output::Stream;
use crate::contract::readiness::Readiness;
use crate::contract::stream::{Item, Origin, StreamFailure};

/// How many bytes are read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    identity: Identity,
    capture: Arc<Capture>,
    state: Mutex<State>,
    /// Tells the task that there is something to write.
    written: Notify,
    readiness: Readiness,
    /// How many invocations the instance has, those of an earlier connection included.
    in_flight: watch::Sender<usize>,
    /// Cancelled when the instance is known to have ended.
    ending: CancellationToken,
}

#[derive(Debug)]
struct State {
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    /// What the instance was given by an earlier daemon and has not ended.
    inherited: BTreeMap<u64, Arc<str>>,
    outbound: Outbound,
    end: Option<End>,
}

/// Why the connection is over.
#[derive(Debug, Clone)]
pub(super) enum End {
    Died,
    Broken(Breach),
}

#[derive(Debug)]
struct Pending {
    request_id: Arc<str>,
    waiting: Waiting,
}

#[derive(Debug)]
enum Waiting {
    /// For the first sign of an answer.
    Caller(oneshot::Sender<Reply>),
    /// For more of a streamed answer.
    Reader { items: mpsc::Sender<Item>, window: usize },
    /// Nobody: cancelled, but not answered yet.
    Nobody,
}

#[derive(Debug)]
pub(super) enum Reply {
    Answer(Bytes),
    Error(ErrorReport),
    Stream { content_type: Option<String>, items: mpsc::Receiver<Item> },
    End(End),
}

/// Why an invocation did not leave.
pub(super) enum Refused {
    Ended(End),
    Limit(Refusal),
}

/// One who waits for an answer; cancels when dropped before it came.
pub(super) struct Caller {
    connection: Arc<Connection>,
    id: u64,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        let Some(pending) = state.pending.get_mut(&self.id) else {
            return;
        };
        pending.waiting = Waiting::Nobody;
        self.connection.send(&mut state, Kind::Cancel, self.id, Bytes::new());
    }
}

impl Origin for Caller {
    fn taken(&mut self, bytes: usize) {
        let mut state = self.connection.lock();
        let cost = bytes + CHUNK_COST_BYTES;
        let Some(Pending { waiting: Waiting::Reader { window, .. }, .. }) = state.pending.get_mut(&self.id) else {
            return;
        };
        *window += cost;
        let grant = u32::try_from(cost).expect("a chunk was within the window");
        let grant = Bytes::copy_from_slice(&grant.to_le_bytes());
        self.connection.send(&mut state, Kind::Window, self.id, grant);
    }
}

impl Connection {
    pub(super) fn new(socket: UnixStream, identity: Identity, capture: Arc<Capture>) -> Self {
        Self {
            socket,
            identity,
            capture,
            state: Mutex::new(State {
                next_id: 1,
                pending: BTreeMap::new(),
                inherited: BTreeMap::new(),
                outbound: Outbound::default(),
                end: None,
            }),
            written: Notify::new(),
            readiness: Readiness::new(),
            in_flight: watch::Sender::new(0),
            ending: CancellationToken::new(),
        }
    }

    pub(super) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    pub(super) fn in_flight(&self) -> watch::Receiver<usize> {
        self.in_flight.subscribe()
    }

    /// Lets the task take what has arrived and end.
    pub(super) fn end(&self) {
        self.ending.cancel();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an invocation. Returns who waits for its answer, and where that will be.
    pub(super) fn send_invoke(
        self: &Arc<Self>,
        invocation: &Invocation,
    ) -> Result<(Caller, oneshot::Receiver<Reply>), Refused> {
        let header = self.invoke_header(invocation);
        let payload_bytes = 4 + header.len() + invocation.event.len();
        let mut head = BytesMut::with_capacity(header.len() + 32);
        let request_id = &invocation.request_id;
        self.capture.begin(request_id);
        let mut state = self.lock();
        let id = state.next_id;
        let refused = if let Some(end) = &state.end {
            Some(Refused::Ended(end.clone()))
        } else if state.pending.len() >= INVOCATIONS_MAX {
            Some(Refused::Limit(Refusal::Full { limit: INVOCATIONS_MAX }))
        } else {
            let is_put = put_header(&mut head, Kind::Invoke, id, payload_bytes).is_ok();
            (!is_put).then_some(Refused::Limit(Refusal::TooLarge { bytes: payload_bytes, limit: FRAME_MAX_BYTES }))
        };
        if let Some(refused) = refused {
            drop(state);
            self.capture.end(request_id);
            return Err(refused);
        }
        head.put_u32_le(u32::try_from(header.len()).expect("the whole frame is shorter"));
        head.extend_from_slice(&header);
        state.next_id += 1;
        let (reply, replied) = oneshot::channel();
        let waiting = Waiting::Caller(reply);
        state.pending.insert(id, Pending { request_id: Arc::clone(request_id), waiting });
        self.count(&state);
        self.write(&mut state, [head.freeze(), invocation.event.clone()]);
        Ok((Caller { connection: Arc::clone(self), id }, replied))
    }

    fn invoke_header(&self, invocation: &Invocation) -> Vec<u8> {
        #[derive(Serialize)]
        struct Header<'a> {
            request_id: &'a str,
            deadline_ms: u64,
            function: &'a str,
            version: &'a str,
            memory_mb: u64,
            arn: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            client_context: Option<&'a str>,
        }
        serde_json::to_vec(&Header {
            request_id: &invocation.request_id,
            deadline_ms: invocation.deadline.epoch_ms,
            function: &self.identity.function,
            version: &self.identity.version,
            memory_mb: self.identity.memory_mb,
            arn: &self.identity.arn,
            trace_id: invocation.trace_id.as_deref(),
            client_context: invocation.client_context.as_deref(),
        })
        .expect("text and numbers can be written as JSON")
    }

    /// Sends a small frame.
    fn send(&self, state: &mut State, kind: Kind, id: u64, payload: Bytes) {
        let mut head = BytesMut::with_capacity(32);
        put_header(&mut head, kind, id, payload.len()).expect("small frames fit");
        self.write(state, [head.freeze(), payload]);
    }

    /// Writes what the socket takes and queues the rest for the task.
    fn write(&self, state: &mut State, parts: [Bytes; 2]) {
        if state.end.is_some() {
            return;
        }
        let was_idle = state.outbound.is_empty();
        state.outbound.push(parts);
        if was_idle && !state.outbound.flush(&self.socket) {
            self.written.notify_one();
        }
    }

    /// Takes one frame from the instance.
    fn on_frame(&self, frame: Frame) -> Result<(), Breach> {
        let Frame { kind, invocation: id, payload } = frame;
        match kind {
            Kind::Ready => {
                let info = serde_json::from_slice(&payload);
                self.on_ready(info.map_err(|_| Breach::Meaningless { kind })?);
            }
            Kind::InitError => {
                let report = ErrorReport::parse(payload, Some("Runtime.InitError"));
                self.readiness.settle(Err(InitFailure::Function(report)));
            }
            Kind::Log => self.on_log(id, &LogRecord::decode(payload)?),
            Kind::Result => self.on_end(id, Ok(payload)),
            Kind::Error => self.on_end(id, Err(ErrorReport::parse(payload, None))),
            Kind::Stream => self.on_stream(id, &payload),
            Kind::Chunk => self.on_chunk(id, payload)?,
            Kind::Invoke | Kind::Cancel | Kind::Window => {
                return Err(Breach::Meaningless { kind });
            }
        }
        Ok(())
    }

    fn on_ready(&self, info: ReadyInfo) {
        if self.readiness.is_settled() {
            return;
        }
        let mut state = self.lock();
        for earlier in &info.in_flight {
            let request_id = Arc::from(earlier.request_id.as_str());
            self.capture.begin(&request_id);
            state.inherited.insert(earlier.id, request_id);
            // Numbers are told apart for as long as the instance lives, not per connection.
            state.next_id = state.next_id.max(earlier.id.saturating_add(1));
        }
        self.count(&state);
        drop(state);
        self.readiness.settle(Ok(info));
    }

    fn on_log(&self, id: u64, record: &LogRecord) {
        let state = self.lock();
        let pending = state.pending.get(&id).map(|pending| &pending.request_id);
        let request_id = pending.or_else(|| state.inherited.get(&id)).cloned();
        drop(state);
        let stream = if record.stream == 1 { Stream::Stdout } else { Stream::Stderr };
        self.capture.record(record.at_us, stream, request_id.as_ref(), &record.text);
    }

    fn on_end(&self, id: u64, answer: Result<Bytes, ErrorReport>) {
        let mut state = self.lock();
        let inherited = state.inherited.remove(&id);
        let pending = state.pending.remove(&id);
        self.count(&state);
        drop(state);
        if let Some(request_id) = inherited {
            self.capture.end(&request_id);
        }
        let Some(Pending { request_id, waiting }) = pending else {
            return;
        };
        self.capture.end(&request_id);
        // Whoever waited may be gone meanwhile: then the answer is of no use to anyone.
        match (waiting, answer) {
            (Waiting::Caller(reply), Ok(bytes)) => drop(reply.send(Reply::Answer(bytes))),
            (Waiting::Caller(reply), Err(report)) => drop(reply.send(Reply::Error(report))),
            (Waiting::Reader { items, .. }, Ok(_)) => drop(items.try_send(Item::End)),
            (Waiting::Reader { items, .. }, Err(report)) => {
                drop(items.try_send(Item::Failed(StreamFailure::Function(report))));
            }
            (Waiting::Nobody, _) => {}
        }
    }

    fn on_stream(&self, id: u64, content_type: &[u8]) {
        let mut state = self.lock();
        let Some(pending) = state.pending.get_mut(&id) else {
            return;
        };
        if !matches!(pending.waiting, Waiting::Caller(_)) {
            return;
        }
        // Two more than the window holds: the end always fits.
        let (items, received) = mpsc::channel(STREAM_WINDOW_CHUNKS + 2);
        let reader = Waiting::Reader { items, window: STREAM_WINDOW_BYTES };
        let Waiting::Caller(reply) = std::mem::replace(&mut pending.waiting, reader) else {
            return;
        };
        drop(state);
        let content_type = String::from_utf8_lossy(content_type).into_owned();
        let content_type = Some(content_type).filter(|text| !text.is_empty());
        drop(reply.send(Reply::Stream { content_type, items: received }));
    }

    fn on_chunk(&self, id: u64, bytes: Bytes) -> Result<(), Breach> {
        let mut state = self.lock();
        let Some(pending) = state.pending.get_mut(&id) else {
            return Ok(());
        };
        let Waiting::Reader { items, window } = &mut pending.waiting else {
            return Ok(());
        };
        *window = window.checked_sub(bytes.len() + CHUNK_COST_BYTES).ok_or(Breach::Overrun)?;
        drop(items.try_send(Item::Bytes(bytes)));
        Ok(())
    }

    /// Ends everything that waits. The first reason counts.
    pub(super) fn close(&self, end: End) {
        let mut state = self.lock();
        let end = state.end.get_or_insert(end).clone();
        let pending = std::mem::take(&mut state.pending);
        state.outbound.clear();
        let inherited = std::mem::take(&mut state.inherited);
        self.count(&state);
        drop(state);
        self.readiness.settle(Err(match &end {
            End::Died => InitFailure::InstanceDied,
            End::Broken(breach) => InitFailure::Broken(breach.clone()),
        }));
        for request_id in inherited.into_values() {
            self.capture.end(&request_id);
        }
        for Pending { request_id, waiting } in pending.into_values() {
            self.capture.end(&request_id);
            match (waiting, &end) {
                (Waiting::Caller(reply), end) => drop(reply.send(Reply::End(end.clone()))),
                (Waiting::Reader { items, .. }, End::Broken(breach)) => {
                    drop(items.try_send(Item::Failed(StreamFailure::Broken(breach.clone()))));
                }
                (Waiting::Reader { .. }, End::Died) | (Waiting::Nobody, _) => {}
            }
        }
    }

    fn count(&self, state: &State) {
        self.in_flight.send_replace(state.pending.len() + state.inherited.len());
    }
}

/// Reads frames, and writes what is queued, until the connection ends.
pub(super) async fn run(connection: Arc<Connection>, mut decoder: Decoder) {
    let end = exchange(&connection, &mut decoder).await;
    connection.close(end.map_or_else(End::Broken, |()| End::Died));
}

async fn exchange(connection: &Connection, decoder: &mut Decoder) -> Result<(), Breach> {
    loop {
        let has_more = !connection.lock().outbound.is_empty();
        let interest = if has_more { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = tokio::select! {
            ready = connection.socket.ready(interest) => ready,
            () = connection.written.notified() => continue,
            () = connection.ending.cancelled() => return last_words(connection, decoder),
        };
        let Ok(ready) = ready else { return Ok(()) };
        if ready.is_writable() {
            connection.lock().outbound.flush(&connection.socket);
        }
        if ready.is_readable() {
            decoder.buffer().reserve(READ_BYTES);
            match connection.socket.try_read_buf(decoder.buffer()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Ok(()),
            }
            take_frames(connection, decoder)?;
        }
    }
}

/// Takes what an instance sent before it ended. A child it left behind may hold the socket open, so its end is not
/// waited for; what is there is read directly, because the reactor may not have heard of it.
fn last_words(connection: &Connection, decoder: &mut Decoder) -> Result<(), Breach> {
    let mut buffer = [0; 8 * 1024];
    loop {
        match rustix::io::read(&connection.socket, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => decoder.buffer().extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => continue,
            Err(_) => return Ok(()),
        }
        take_frames(connection, decoder)?;
    }
}

fn take_frames(connection: &Connection, decoder: &mut Decoder) -> Result<(), Breach> {
    while let Some(frame) = decoder.next_frame()? {
        connection.on_frame(frame)?;
    }
    Ok(())
}
