//! What a caller, a function and the records of two nodes see of a call that crosses from one to the other.

use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::Instant;

use super::*;
use crate::contract::ErrorReport;
use crate::gateway::{CallFailure, CallOutcome};

/// Starts node 1, which is full, and node 2, which has an instance of each function.
async fn pair() -> (Node, Node, mpsc::UnboundedReceiver<Seen>, Arc<Loopback>) {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let two = Node::start(2, Agent::Full, &state, &loopback).await;
    let (channel, seen) = web("two").await;
    two.seat("web", 1, channel);
    two.seat("py", 2, echo());
    (one, two, seen, loopback)
}

#[tokio::test]
async fn the_function_is_told_what_it_would_be_told_where_the_call_came_in() {
    let (one, two, _seen, _) = pair().await;
    let mut request = get("/function/web/a/b?c=d");
    let lies = [("x-forwarded-for", "198.51.100.7"), ("x-hearth-hop", "http web@1 live 203.0.113.9 GET /")];
    for (name, value) in lies {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let mut at_home = request.clone();
    at_home.headers_mut().insert("x-hearth-trace", "1".parse().unwrap());
    let through = ask(one.front, request).await;
    assert_eq!(through.status(), 200);
    assert!(!through.headers().contains_key("x-hearth-hop"));
    let through = body(through).await;
    assert_eq!(through, "two /a/b shop.example 198.51.100.7, 127.0.0.1 http /function/web false");
    assert_eq!(body(ask(two.front, at_home).await).await, through);
}

#[tokio::test]
async fn both_nodes_record_one_call_and_one_of_them_counts_it() {
    let (one, two, _seen, _) = pair().await;
    let mut request = get("/function/web/");
    request.headers_mut().insert("x-hearth-trace", "1".parse().unwrap());
    let answer = ask(one.front, request).await;
    let timing = answer.headers()["server-timing"].to_str().unwrap().to_owned();
    let id = answer.headers()["x-hearth-request-id"].to_str().unwrap().to_owned();
    body(answer).await;
    let (came_in, served) = (one.records.first().await, two.records.first().await);
    assert!(timing.contains("run;dur=") && timing.contains("hop;dur="), "{timing}");
    assert_eq!((&*came_in.request_id, &*served.request_id), (&*id, &*id));
    assert_eq!((came_in.served_by, came_in.forwarded_by), (Some(NodeId(2)), None));
    assert_eq!((served.served_by, served.forwarded_by), (None, Some(NodeId(1))));
    assert_eq!((came_in.instance, &came_in.revision), (Some(InstanceId::placed(1)), &Some(revision("web"))));
    assert_eq!((came_in.outcome, served.outcome), (CallOutcome::Answered, CallOutcome::Answered));
    assert_eq!((came_in.is_counted(), served.is_counted()), (false, true));
    assert!(!came_in.phases.hop.is_zero());
}

#[tokio::test]
async fn an_instance_here_is_preferred() {
    let (one, two, mut seen, loopback) = pair().await;
    let (channel, _seen) = web("one").await;
    one.seat("web", 3, channel);
    assert!(body(ask(one.front, get("/function/web/")).await).await.starts_with("one / "));
    assert_eq!(loopback.dialed.load(Ordering::Relaxed), 0);
    one.traffic.instance_gone(InstanceId::placed(3), None);
    assert!(body(ask(one.front, get("/function/web/")).await).await.starts_with("two / "));
    assert_eq!(next(&mut seen).await, Seen::Came("/".to_owned()));
    drop(two);
}

#[tokio::test]
async fn warm_calls_ask_nobody_and_share_a_connection() {
    let (one, two, _seen, loopback) = pair().await;
    let threads = std::thread::available_parallelism().unwrap().get();
    for _ in 0..4 * threads {
        assert_eq!(ask(one.front, get("/function/web/")).await.status(), 200);
    }
    assert_eq!((one.wanted(), two.wanted()), (0, 0), "a peer has it and this node has no room: nobody need be asked");
    assert!(loopback.dialed.load(Ordering::Relaxed) <= threads);
}

#[tokio::test]
async fn bodies_stream_both_ways_over_the_hop() {
    let (one, _two, _seen, _) = pair().await;
    let (send, chunks) = mpsc::unbounded_channel::<&'static str>();
    let chunks = stream::unfold(chunks, |mut chunks| async move {
        let chunk = chunks.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))), chunks))
    });
    let request = Request::post("/function/web/echo").header("host", "shop.example");
    let request = request.body(StreamBody::new(Box::pin(chunks))).unwrap();
    send.send("first").unwrap();
    let mut answer = ask(one.front, request).await.into_body();
    for chunk in ["first", "second", "third"] {
        let frame = timeout(PATIENCE, answer.frame()).await.expect("it comes back before the next is sent");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), chunk);
        match chunk {
            "first" => send.send("second").unwrap(),
            _ => drop(send.send("third")),
        }
    }
    drop(send);
}

#[tokio::test]
async fn a_long_body_goes_through_unchanged() {
    let (one, _two, _seen, _) = pair().await;
    let long: Vec<u8> = (0..3_000_000_u32).map(|number| b'a' + (number % 23) as u8).collect();
    let answer = ask(one.front, post("/function/web/echo", long.clone())).await;
    assert!(body(answer).await.as_bytes() == long);
    let record = one.records.first().await;
    assert_eq!((record.bytes_in, record.bytes_out), (3_000_000, 3_000_000));
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_the_call_at_the_instance() {
    let (one, two, mut seen, _) = pair().await;
    let mut socket = TcpStream::connect(one.front).await.unwrap();
    socket.write_all(b"GET /function/web/hang HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.unwrap();
    assert_eq!(next(&mut seen).await, Seen::Came("/hang".to_owned()));
    drop(socket);
    assert_eq!(next(&mut seen).await, Seen::Gone);
    let (came_in, served) = (one.records.first().await, two.records.first().await);
    assert_eq!((came_in.outcome, served.outcome), (CallOutcome::Cancelled, CallOutcome::Cancelled));
    assert_eq!((came_in.is_counted(), served.is_counted()), (false, true), "it was one call");
    until(|| two.traffic.in_flight_on(InstanceId::placed(1)) == 0).await;
}

#[tokio::test]
async fn an_answer_of_the_function_is_passed_on_whatever_it_is() {
    let (one, _two, mut seen, _) = pair().await;
    let answer = ask(one.front, get("/function/web/fail")).await;
    assert_eq!(answer.status(), 500);
    assert_eq!(body(answer).await, "failed");
    assert_eq!(next(&mut seen).await, Seen::Came("/fail".to_owned()));
    assert!(seen.try_recv().is_err(), "what a function says in a header of ours counts for nothing");
}

#[tokio::test]
async fn a_long_head_of_an_answer_crosses_and_no_header_of_ours_comes_with_it() {
    let (one, two, _seen, _) = pair().await;
    for front in [one.front, two.front] {
        let answer = ask(front, get("/function/web/long-head")).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["x-long"].len()), (200, 30_000));
        assert!(!answer.headers().contains_key("x-hearth-hop"));
    }
}

#[tokio::test]
async fn a_node_that_was_removed_passes_nothing_on_over_a_connection_that_it_has() {
    let (one, two, mut seen, _) = pair().await;
    assert_eq!(ask(one.front, get("/function/web/first")).await.status(), 200);
    assert_eq!(next(&mut seen).await, Seen::Came("/first".to_owned()));
    let mut without_one = state(&[(2, 0, 1)]);
    without_one.removed.insert(NodeId(1));
    two.gateway.set_state(&without_one);
    // Which of two connections it takes is not known; both were made before, or were refused by the state all the same.
    let refused = ask(one.front, get("/function/web/second")).await;
    assert_eq!(refused.status(), 503);
    assert!(body(refused).await.contains("this node is not a member of its cluster any more"));
    assert!(seen.try_recv().is_err(), "no instance has seen it");
}

#[tokio::test]
async fn a_handler_gets_its_event_from_a_request_that_crossed() {
    let (one, _two, _seen, _) = pair().await;
    // The first is passed on as it comes; the second has been refused here, with its body in memory.
    one.gateway.set_state(&state(&[(1, 0, 0), (2, 0, 1)]));
    let straight = body(ask(one.front, post("/function/py/a", "hello")).await).await;
    one.gateway.set_state(&state(&[(1, 100, 0), (2, 0, 1)]));
    let declined = body(ask(one.front, post("/function/py/a", "hello")).await).await;
    assert_eq!(one.wanted(), 1);
    for event in [straight, declined] {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["body"], "hello");
        assert_eq!(event["rawPath"], "/a");
        assert_eq!(event["requestContext"]["http"]["sourceIp"], "127.0.0.1");
        assert_eq!(event["headers"]["host"], "shop.example");
    }
}

#[tokio::test]
async fn a_bare_event_crosses_too() {
    let (one, two, _seen, _) = pair().await;
    let deadline = Instant::now() + PATIENCE;
    let done = one.gateway.invoke("py", None, Bytes::from_static(b"{\"a\":1}"), deadline).await;
    assert_eq!(done.result.unwrap(), "{\"a\":1}");
    assert_eq!(done.revision, Some(revision("py")));
    assert_eq!(two.records.first().await.request_id, done.request_id);
    let pinned = one.gateway.invoke("py", Some(RevisionNumber(1)), Bytes::from_static(b"2"), deadline).await;
    assert_eq!(pinned.result.unwrap(), "2");
    let failed = one.gateway.invoke("py", None, Bytes::from_static(b"\"fail\""), deadline).await;
    let Err(CallFailure::Function(ErrorReport { error_message, .. })) = failed.result else {
        panic!("the function failed, and so did its call");
    };
    assert_eq!(error_message, "as asked");
    let no_events = one.gateway.invoke("web", None, Bytes::from_static(b"1"), deadline).await;
    assert!(matches!(no_events.result, Err(CallFailure::NoEvents { .. })), "{:?}", no_events.result);
}

#[tokio::test]
async fn a_peer_with_room_starts_an_instance() {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 100, 0)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let two = Node::start(2, Agent::Roomy, &state, &loopback).await;
    assert!(body(ask(one.front, get("/function/web/")).await).await.starts_with("started / "));
    assert_eq!((one.wanted(), two.wanted()), (1, 1));
    let record = one.records.first().await;
    assert!(record.is_cold());
    // It was declined here a moment ago, so nobody here is asked again.
    assert!(body(ask(one.front, get("/function/web/")).await).await.starts_with("started / "));
    assert_eq!((one.wanted(), two.wanted()), (1, 1));
}

#[tokio::test]
async fn where_an_instance_does_not_start_a_peer_that_has_one_serves() {
    let (loopback, placed) = (Arc::<Loopback>::default(), state(&[(1, 100, 0), (2, 0, 1)]));
    let one = Node::start(1, Agent::Failing, &placed, &loopback).await;
    let two = Node::start(2, Agent::Full, &placed, &loopback).await;
    let (channel, _seen) = web("two").await;
    two.seat("web", 1, channel);
    assert!(body(ask(one.front, get("/function/web/")).await).await.starts_with("two / "));
    // Where nobody has one, the failure is the answer.
    one.gateway.set_state(&state(&[(1, 100, 0), (2, 100, 0)]));
    assert_eq!(ask(one.front, get("/function/py/")).await.status(), 502);
}
