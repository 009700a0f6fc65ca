//! Talks frames with the bootstrap inside an instance.
//!
//! One socket carries every invocation of an instance, told apart by number. Whoever invokes
//! writes its frame to the socket itself, without waking a task first; what the socket does not
//! take at once waits in a queue that the connection's task empties. A frame is queued whole or
//! not at all, so a caller that goes away in the middle leaves no torn frame behind.
//!
//! A caller that goes away or times out cancels, but the function usually goes on: its invocation
//! stays counted until the instance has answered.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::capture::Capture;
use super::frame::{Decoder, FRAME_MAX_BYTES, Frame, Kind, LogRecord, put_header};
use super::invocation::{Breach, ErrorReport, Identity, InitFailure, Invocation, Outcome, ReadyInfo, Refusal};
use super::outbound::Outbound;
use super::output::Stream;
use super::readiness::Readiness;
use super::stream::{AnswerStream, Item, Origin, StreamFailure};

/// How many invocations one instance can be given at once.
pub const INVOCATIONS_MAX: usize = 4096;

/// How many bytes a frame may have beyond the longest answer.
const FRAME_MARGIN_BYTES: usize = 1024 * 1024;

/// How many bytes are read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// How many bytes of a streamed answer may wait for their reader. The bootstraps know the same.
const STREAM_WINDOW_BYTES: usize = 1024 * 1024;

/// What a chunk costs of the window beyond its bytes. The bootstraps know the same.
const CHUNK_COST_BYTES: usize = 64;

/// How many chunks fit into the window, whatever their size.
const STREAM_WINDOW_CHUNKS: usize = STREAM_WINDOW_BYTES / CHUNK_COST_BYTES;

/// The daemon's end of one instance's socket.
#[derive(Debug)]
pub struct Framed {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: UnixStream,
    identity: Identity,
    capture: Arc<Capture>,
    state: Mutex<State>,
    /// Tells the task that there is something to write.
    written: Notify,
    readiness: Readiness,
    /// How many invocations the instance has, those of an earlier connection included.
    in_flight: watch::Sender<usize>,
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
enum End {
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
enum Reply {
    Answer(Bytes),
    Error(ErrorReport),
    Stream { content_type: Option<String>, items: mpsc::Receiver<Item> },
    End(End),
}

impl Framed {
    /// Connects to the socket on which an instance listens, or will.
    ///
    /// The bootstrap answers an earlier connection no more once it accepted this one. Answers
    /// longer than `answer_max` bytes break the contract; the bootstrap is told the same limit
    /// and turns them into function errors.
    pub async fn connect(
        path: &Path,
        identity: Identity,
        capture: Arc<Capture>,
        answer_max: usize,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: UnixStream::connect(path).await?,
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
        });
        let frame_max = answer_max.saturating_add(FRAME_MARGIN_BYTES);
        let task = tokio::spawn(run(Arc::clone(&shared), Decoder::new(frame_max)));
        Ok(Self { shared, task })
    }

    /// Waits until the instance can take invocations.
    pub async fn ready(&self, deadline: Instant) -> Result<ReadyInfo, InitFailure> {
        self.shared.readiness.wait(deadline).await
    }

    /// Hands an event to the function and waits for its answer.
    ///
    /// Dropping the future tells the instance that nobody waits; the invocation counts as in
    /// flight until the instance has ended it.
    pub async fn invoke(&self, invocation: Invocation) -> Outcome {
        let deadline = invocation.deadline.at;
        let (reply, replied) = oneshot::channel();
        let caller = match self.shared.send_invoke(&invocation, reply) {
            Ok(caller) => caller,
            Err(Refused::Ended(End::Died)) => {
                return Outcome::InstanceDied { may_have_started: false };
            }
            Err(Refused::Ended(End::Broken(breach))) => return Outcome::Broken(breach),
            Err(Refused::Limit(refusal)) => return Outcome::Refused(refusal),
        };
        match timeout_at(deadline, replied).await {
            Err(_) => Outcome::TimedOut,
            Ok(Ok(Reply::Answer(bytes))) => Outcome::Answer(bytes),
            Ok(Ok(Reply::Error(report))) => Outcome::FunctionError(report),
            Ok(Ok(Reply::Stream { content_type, items })) => {
                let stream = AnswerStream::new(content_type, items, Box::new(caller), deadline);
                Outcome::Stream(stream)
            }
            Ok(Ok(Reply::End(End::Broken(breach)))) => Outcome::Broken(breach),
            Ok(Ok(Reply::End(End::Died)) | Err(_)) => Outcome::InstanceDied { may_have_started: true },
        }
    }

    /// Watches how many invocations the instance works on, those included whose caller has gone
    /// and those it was given by a daemon before this one.
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.shared.in_flight.subscribe()
    }

    /// Notes that the instance has ended: everything in flight ends with it.
    pub fn instance_died(&self) {
        self.task.abort();
        self.shared.close(End::Died);
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        self.instance_died();
    }
}

/// Why an invocation did not leave.
enum Refused {
    Ended(End),
    Limit(Refusal),
}

/// One who waits for an answer; cancels when dropped before it came.
struct Caller {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let Some(pending) = state.pending.get_mut(&self.id) else {
            return;
        };
        pending.waiting = Waiting::Nobody;
        self.shared.send(&mut state, Kind::Cancel, self.id, Bytes::new());
    }
}

impl Origin for Caller {
    fn taken(&mut self, bytes: usize) {
        let mut state = self.shared.lock();
        let cost = bytes + CHUNK_COST_BYTES;
        let Some(Pending { waiting: Waiting::Reader { window, .. }, .. }) = state.pending.get_mut(&self.id) else {
            return;
        };
        *window += cost;
        let grant = u32::try_from(cost).expect("a chunk was within the window");
        let grant = Bytes::copy_from_slice(&grant.to_le_bytes());
        self.shared.send(&mut state, Kind::Window, self.id, grant);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an invocation and registers who waits for it.
    fn send_invoke(
        self: &Arc<Self>,
        invocation: &Invocation,
        reply: oneshot::Sender<Reply>,
    ) -> Result<Caller, Refused> {
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
        let waiting = Waiting::Caller(reply);
        state.pending.insert(id, Pending { request_id: Arc::clone(request_id), waiting });
        self.count(&state);
        self.write(&mut state, [head.freeze(), invocation.event.clone()]);
        Ok(Caller { shared: Arc::clone(self), id })
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
    fn close(&self, end: End) {
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
async fn run(shared: Arc<Shared>, mut decoder: Decoder) {
    loop {
        let has_more = !shared.lock().outbound.is_empty();
        let interest = if has_more { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = tokio::select! {
            ready = shared.socket.ready(interest) => ready,
            () = shared.written.notified() => continue,
        };
        let Ok(ready) = ready else {
            return shared.close(End::Died);
        };
        if ready.is_writable() {
            shared.lock().outbound.flush(&shared.socket);
        }
        if ready.is_readable() {
            decoder.buffer().reserve(READ_BYTES);
            match shared.socket.try_read_buf(decoder.buffer()) {
                Ok(0) => return shared.close(End::Died),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return shared.close(End::Died),
            }
            if let Err(breach) = take_frames(&shared, &mut decoder) {
                return shared.close(End::Broken(breach));
            }
        }
    }
}

fn take_frames(shared: &Shared, decoder: &mut Decoder) -> Result<(), Breach> {
    while let Some(frame) = decoder.next_frame()? {
        shared.on_frame(frame)?;
    }
    Ok(())
}
