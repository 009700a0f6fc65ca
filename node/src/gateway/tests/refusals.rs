//! Peers that refuse, die or lie: what is tried again, and what is not.

use h2::Reason;

use super::*;
use crate::gateway::{CallFailure, CallOutcome};

/// What a peer does with every call.
#[derive(Clone, Copy)]
enum Rude {
    /// Refuses its stream.
    Refuse,
    /// Says that it would take no more calls before this one came.
    GoAway,
    /// Takes it and closes the connection.
    Die,
    /// Answers without a word about who it is.
    Stranger,
}

/// Starts a peer of that manner, and returns where it listens and how many calls it had.
async fn rude(manner: Rude) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, calls) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                if let Rude::GoAway = manner {
                    return leave(socket).await;
                }
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::Relaxed);
                    match manner {
                        Rude::Refuse => respond.send_reset(Reason::REFUSED_STREAM),
                        Rude::GoAway | Rude::Die => return,
                        Rude::Stranger => drop(respond.send_response(Response::new(()), true).unwrap()),
                    }
                }
            });
        }
    });
    (address, calls)
}

/// Says that the last stream that will be served is none, and listens until the other end has closed.
async fn leave(mut socket: TcpStream) {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    const GO_AWAY: &[u8] = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
    socket.write_all(&[SETTINGS, GO_AWAY].concat()).await.unwrap();
    while matches!(socket.read(&mut [0; 1024]).await, Ok(1..)) {}
}

/// Starts node 1, which is full, a peer 2 of that manner, and node 3, which has an instance of `web`.
async fn trio(manner: Rude) -> (Node, Node, Arc<AtomicUsize>, mpsc::UnboundedReceiver<Seen>) {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1), (3, 100, 0)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let three = Node::start(3, Agent::Full, &state, &loopback).await;
    let (channel, seen) = web("three").await;
    three.seat("web", 1, channel);
    let (address, calls) = rude(manner).await;
    loopback.set(2, address);
    (one, three, calls, seen)
}

#[tokio::test]
async fn a_call_that_a_peer_has_not_begun_goes_to_the_next() {
    let (one, _three, calls, _seen) = trio(Rude::Refuse).await;
    for request in [get("/function/web/echo"), post("/function/web/echo", "hello")] {
        let expected = if request.method() == http::Method::POST { "hello" } else { "" };
        let answer = ask(one.front, request).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(body(answer).await, expected);
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    assert_eq!(one.records.first().await.served_by, Some(NodeId(3)));
}

#[tokio::test]
async fn a_peer_that_is_leaving_is_passed_by() {
    let (one, _three, _calls, _seen) = trio(Rude::GoAway).await;
    for _ in 0..5 {
        let status = ask(one.front, get("/function/web/")).await.status();
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn a_call_that_may_have_begun_is_not_tried_again() {
    for manner in [Rude::Die, Rude::Stranger] {
        let (one, _three, calls, mut seen) = trio(manner).await;
        let answer = ask(one.front, get("/function/web/")).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.headers()["x-hearth-error"], "instance");
        assert!(body(answer).await.contains("node-2"));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert!(seen.try_recv().is_err(), "the other peer was asked");
        let record = one.records.first().await;
        assert_eq!((record.outcome, record.is_counted()), (CallOutcome::InstanceError, true));
    }
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_passed_by_and_left_out() {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1), (3, 100, 0)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let three = Node::start(3, Agent::Full, &state, &loopback).await;
    let (channel, _seen) = web("three").await;
    three.seat("web", 1, channel);
    assert!(body(ask(one.front, get("/function/web/")).await).await.starts_with("three / "));
}

#[tokio::test]
async fn a_peer_that_dies_within_an_answer_breaks_it_off() {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    loopback.set(2, listener.local_addr().unwrap());
    let (break_off, told) = tokio::sync::oneshot::channel();
    let two = tokio::spawn(async move {
        let socket = listener.accept().await.unwrap().0;
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let head = Response::builder().header("x-hearth-hop", "answered - 1 0 - 0").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"half"), false).unwrap();
        tokio::select! {
            _ = connection.accept() => panic!("there is one call"),
            told = told => told.unwrap(),
        }
        stream.send_reset(Reason::INTERNAL_ERROR);
        while connection.accept().await.is_some() {}
    });
    let mut answer = ask(one.front, get("/function/web/")).await.into_body();
    let half = timeout(PATIENCE, answer.frame()).await.expect("half of it comes").unwrap();
    assert_eq!(half.unwrap().into_data().unwrap(), "half");
    break_off.send(()).unwrap();
    let collected = timeout(PATIENCE, answer.collect()).await.expect("it ends");
    assert!(collected.is_err(), "half an answer passed for a whole one");
    assert_eq!(one.records.first().await.outcome, CallOutcome::InstanceError);
    two.abort();
}

#[tokio::test]
async fn a_body_that_is_under_way_when_a_peer_refuses_goes_to_the_next_as_a_whole() {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1), (3, 100, 0)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let two = Node::start(2, Agent::Full, &state, &loopback).await;
    let three = Node::start(3, Agent::Full, &state, &loopback).await;
    let (channel, _seen) = web("three").await;
    three.seat("web", 1, channel);
    let long: Vec<u8> = (0..200_000_u32).map(|number| b'a' + (number % 23) as u8).collect();
    let answer = ask(one.front, post("/function/web/echo", long.clone())).await;
    assert_eq!(answer.status(), 200);
    assert!(body(answer).await.as_bytes() == long);
    let refused = two.records.first().await;
    assert_eq!((refused.outcome, refused.is_counted()), (CallOutcome::Refused, false));
}

#[tokio::test]
async fn nothing_goes_a_second_hop() {
    let loopback = Arc::<Loopback>::default();
    // Node 1 believes that node 2 has an instance; node 2 knows that only node 3 has.
    let one = Node::start(1, Agent::Full, &state(&[(1, 0, 0), (2, 0, 1)]), &loopback).await;
    let elsewhere = state(&[(1, 0, 0), (2, 0, 0), (3, 0, 1)]);
    let two = Node::start(2, Agent::Full, &elsewhere, &loopback).await;
    let three = Node::start(3, Agent::Full, &elsewhere, &loopback).await;
    let (channel, mut seen) = web("three").await;
    three.seat("web", 1, channel);
    let answer = ask(one.front, get("/function/web/")).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(body(answer).await.contains("no capacity for web"));
    assert_eq!(two.wanted(), 1);
    assert!(seen.try_recv().is_err(), "the call went on");
    // The same call from a caller of node 2 may take its one hop.
    assert_eq!(ask(two.front, get("/function/web/")).await.status(), 200);
}

#[tokio::test]
async fn a_peer_that_has_not_heard_of_a_function_refuses_its_calls() {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let _two = Node::start(2, Agent::Full, &State::default(), &loopback).await;
    let answer = ask(one.front, get("/function/web/")).await;
    assert_eq!(answer.status(), 503);
    assert!(body(answer).await.contains("do not serve the revision yet"));
}

#[tokio::test]
async fn a_node_alone_declines_as_ever() {
    let loopback = Arc::<Loopback>::default();
    let one = Node::start(1, Agent::Full, &state(&[(1, 0, 0)]), &loopback).await;
    let answer = ask(one.front, get("/function/web/")).await;
    assert_eq!(answer.status(), 503);
    assert!(body(answer).await.contains("it is full"));
}

#[tokio::test]
async fn a_request_for_a_websocket_does_not_cross() {
    let (one, _three, calls, _seen) = trio(Rude::Refuse).await;
    let mut request = get("/function/web/");
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = ask(one.front, request).await;
    assert_eq!(answer.status(), CallFailure::NoUpgrade.status());
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_is_no_gateway_is_refused() {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1)]));
    let two = Node::start(2, Agent::Full, &state, &loopback).await;
    let socket = loopback.dial(NodeId(2)).await.unwrap();
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    let mut client = client.ready().await.unwrap();
    let request = Request::get("http://shop.example/function/web/").body(()).unwrap();
    let (answer, _) = client.send_request(request, true).unwrap();
    let answer = timeout(PATIENCE, answer).await.expect("it answers").unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(two.records.first().await.outcome, CallOutcome::BadRequest);
}
