//! Instances that do not keep to the contract, or whose socket is slow.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, timeout};

use super::Framed;
use crate::contract::frame::{Decoder, FRAME_MAX_BYTES, Frame, Kind, put_header};
use crate::contract::{
    Breach, Capture, Deadline, Identity, InitFailure, Invocation, Outcome, OutputLimits, Refusal, StreamFailure,
    log_queue,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The instance's side of a connection.
struct Peer {
    socket: UnixStream,
    decoder: Decoder,
}

impl Peer {
    async fn send(&mut self, kind: Kind, id: u64, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        put_header(&mut bytes, kind, id, payload.len()).unwrap();
        bytes.extend_from_slice(payload);
        self.socket.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let count = timeout(PATIENCE, self.socket.read_buf(self.decoder.buffer())).await.expect("it arrives");
            assert_ne!(count.unwrap(), 0, "the daemon closed the connection");
        }
    }
}

async fn connect() -> (Arc<Framed>, Peer) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channel.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
    let identity = Identity {
        function: "orders".to_owned(),
        version: "7".to_owned(),
        memory_mb: 256,
        arn: "arn".to_owned(),
        log_stream: "i-1".to_owned(),
    };
    let framed = Framed::connect(&path, identity, capture, 1000).await.unwrap();
    let socket = listener.accept().await.unwrap().0;
    (Arc::new(framed), Peer { socket, decoder: Decoder::new(FRAME_MAX_BYTES) })
}

fn invocation(event: Bytes) -> Invocation {
    let deadline = Deadline { at: Instant::now() + PATIENCE, epoch_ms: 0 };
    Invocation { request_id: Arc::from("r"), event, deadline, trace_id: None, client_context: None }
}

/// Invokes in the background.
fn call(framed: &Arc<Framed>, event: impl Into<Bytes>) -> tokio::task::JoinHandle<Outcome> {
    let (framed, invocation) = (Arc::clone(framed), invocation(event.into()));
    tokio::spawn(async move { framed.invoke(invocation).await })
}

#[tokio::test]
async fn what_is_no_frame_breaks_the_contract() {
    let long = 2_000_000_u32.to_le_bytes();
    for bytes in [&[9, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0, 0, 0], &long] {
        let (framed, mut peer) = connect().await;
        let waiting = call(&framed, "1");
        peer.receive().await;
        peer.socket.write_all(bytes).await.unwrap();
        let outcome = waiting.await.unwrap();
        assert!(matches!(outcome, Outcome::Broken(Breach::Frame(_))), "{outcome:?}");
        let failure = framed.ready(Instant::now() + PATIENCE).await.unwrap_err();
        assert!(matches!(failure, InitFailure::Broken(Breach::Frame(_))), "{failure:?}");
        assert!(matches!(framed.invoke(invocation(Bytes::new())).await, Outcome::Broken(_)));
    }
}

#[tokio::test]
async fn frames_that_mean_nothing_here_break_the_contract() {
    for (kind, payload) in [(Kind::Invoke, ""), (Kind::Ready, "{"), (Kind::Log, "x")] {
        let (framed, mut peer) = connect().await;
        peer.send(kind, 1, payload.as_bytes()).await;
        let failure = framed.ready(Instant::now() + PATIENCE).await.unwrap_err();
        assert!(matches!(failure, InitFailure::Broken(_)), "{failure:?} for {kind:?}");
    }
}

#[tokio::test]
async fn a_stream_that_overruns_its_window_breaks_the_contract() {
    let (framed, mut peer) = connect().await;
    let waiting = call(&framed, "1");
    let id = peer.receive().await.invocation;
    peer.send(Kind::Stream, id, b"").await;
    let Outcome::Stream(mut stream) = waiting.await.unwrap() else { panic!("it streams") };
    let chunk = vec![0; 64 * 1024 - 64];
    for _ in 0..16 {
        peer.send(Kind::Chunk, id, &chunk).await;
    }
    // The window is full to the last byte; taking one chunk makes room for one.
    stream.next().await.unwrap().unwrap();
    let grant = peer.receive().await;
    assert_eq!((grant.kind, &grant.payload[..]), (Kind::Window, &65536_u32.to_le_bytes()[..]));
    peer.send(Kind::Chunk, id, &chunk).await;
    peer.send(Kind::Chunk, id, b"").await;
    let failure = framed.ready(Instant::now() + PATIENCE).await.unwrap_err();
    assert!(matches!(failure, InitFailure::Broken(Breach::Overrun)), "{failure:?}");
    let mut last = None;
    while let Some(chunk) = stream.next().await {
        last = Some(chunk);
    }
    assert_eq!(last.unwrap().unwrap_err(), StreamFailure::Broken(Breach::Overrun));
}

#[tokio::test]
async fn events_larger_than_the_socket_arrive_in_order_and_whole() {
    let (framed, mut peer) = connect().await;
    let events: Vec<Bytes> = (1..=6u8).map(|number| Bytes::from(vec![number; 1_000_000])).collect();
    let waiting: Vec<_> = events.iter().map(|event| call(&framed, event.clone())).collect();
    let mut seen = Vec::new();
    for _ in &events {
        let frame = peer.receive().await;
        let header = u32::from_le_bytes(frame.payload[..4].try_into().unwrap());
        let event = frame.payload.slice(4 + usize::try_from(header).unwrap()..);
        assert!(events.contains(&event), "an event arrives as it was sent");
        seen.push(frame.invocation);
        peer.send(Kind::Result, frame.invocation, &event[..1]).await;
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    for (number, waiting) in (1..=6u8).zip(waiting) {
        let Outcome::Answer(answer) = waiting.await.unwrap() else { panic!("it answered") };
        assert_eq!(answer[..], [number]);
    }
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_but_stays_counted_until_the_instance_answers() {
    let (framed, mut peer) = connect().await;
    let waiting = call(&framed, "1");
    let id = peer.receive().await.invocation;
    waiting.abort();
    let cancel = peer.receive().await;
    assert_eq!((cancel.kind, cancel.invocation), (Kind::Cancel, id));
    let mut in_flight = framed.in_flight();
    assert_eq!(*in_flight.borrow(), 1);
    peer.send(Kind::Result, id, b"1").await;
    timeout(PATIENCE, in_flight.wait_for(|count| *count == 0)).await.expect("it is over").unwrap();
    peer.send(Kind::Result, id, b"again").await;
    peer.send(Kind::Ready, 0, b"{}").await;
    framed.ready(Instant::now() + PATIENCE).await.expect("an answer too many harms nobody");
}

#[tokio::test]
async fn what_an_instance_said_before_it_ended_counts() {
    let (framed, mut peer) = connect().await;
    let (answered, unanswered) = (call(&framed, "1"), call(&framed, "2"));
    let ids = [peer.receive().await.invocation, peer.receive().await.invocation];
    assert_eq!(ids, [1, 2]);
    peer.send(Kind::Result, 1, b"[]").await;
    framed.instance_died();
    let outcomes = (answered.await.unwrap(), unanswered.await.unwrap());
    let expected = matches!(outcomes, (Outcome::Answer(_), Outcome::InstanceDied { may_have_started: true }));
    assert!(expected, "{outcomes:?}");
}

#[tokio::test]
async fn an_event_that_fits_into_no_frame_is_refused_and_harms_nobody() {
    let (framed, mut peer) = connect().await;
    let outcome = framed.invoke(invocation(Bytes::from(vec![0; FRAME_MAX_BYTES]))).await;
    assert!(matches!(outcome, Outcome::Refused(Refusal::TooLarge { .. })), "{outcome:?}");
    let waiting = call(&framed, "1");
    let id = peer.receive().await.invocation;
    peer.send(Kind::Result, id, b"1").await;
    assert!(matches!(waiting.await.unwrap(), Outcome::Answer(_)));
}
