//! A small client that misbehaves where the official ones do not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::RuntimeApi;
use crate::contract::{
    Capture, Deadline, Identity, InitFailure, Invocation, Outcome, OutputLimits, StreamFailure, log_queue,
};

const PATIENCE: Duration = Duration::from_secs(30);

async fn serve() -> (Arc<RuntimeApi>, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
    let identity = Identity {
        function: "orders".to_owned(),
        version: "7".to_owned(),
        memory_mb: 256,
        arn: "arn:orders:7".to_owned(),
        log_stream: "stream-1".to_owned(),
    };
    (Arc::new(RuntimeApi::serve(listener, identity, capture, 1000)), address)
}

fn invocation(request_id: &str) -> Invocation {
    Invocation {
        request_id: Arc::from(request_id),
        event: Bytes::from_static(br#"{"a":1}"#),
        deadline: Deadline { at: Instant::now() + PATIENCE, epoch_ms: 1234 },
        trace_id: Some("Root=1".to_owned()),
        client_context: Some("{\n}".to_owned()),
    }
}

/// Invokes in the background.
fn call(api: &Arc<RuntimeApi>, request_id: &str) -> tokio::task::JoinHandle<Outcome> {
    let (api, invocation) = (Arc::clone(api), invocation(request_id));
    tokio::spawn(async move { api.invoke(invocation).await })
}

async fn until_in_flight(api: &RuntimeApi, count: usize) {
    let mut in_flight = api.in_flight();
    timeout(PATIENCE, in_flight.wait_for(|now| *now == count)).await.expect("it gets there").unwrap();
}

/// One connection of the instance, which writes what no library would.
struct Client(TcpStream);

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads one response, which must have a length.
    async fn read(&mut self) -> (u16, String, String) {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() >= length.parse::<usize>().unwrap() {
                    return (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned());
                }
            }
            let count = timeout(PATIENCE, self.0.read(&mut buffer)).await.expect("it answers").unwrap();
            assert_ne!(count, 0, "the connection ended after {text:?}");
            bytes.extend_from_slice(&buffer[..count]);
        }
    }

    async fn next(&mut self) -> (u16, String, String) {
        self.write("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: x\r\n\r\n").await;
        self.read().await
    }

    async fn post(&mut self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.write(&format!(
            "POST /2018-06-01/runtime/{path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
        .await;
        let (status, _, body) = self.read().await;
        (status, body)
    }
}

#[tokio::test]
async fn the_first_request_for_work_says_ready_and_gets_the_event() {
    let (api, address) = serve().await;
    assert!(matches!(api.ready(Instant::now()).await, Err(InitFailure::TimedOut)));
    let mut client = Client::connect(address).await;
    let waiting = call(&api, "r-1");
    let (status, head, body) = client.next().await;
    api.ready(Instant::now() + PATIENCE).await.unwrap();
    assert_eq!((status, body.as_str()), (200, r#"{"a":1}"#));
    for header in [
        "lambda-runtime-aws-request-id: r-1",
        "lambda-runtime-deadline-ms: 1234",
        "lambda-runtime-invoked-function-arn: arn:orders:7",
        "lambda-runtime-trace-id: Root=1",
        "lambda-runtime-client-context: { }",
        "content-type: application/json",
    ] {
        assert!(head.contains(header), "{header} in {head}");
    }
    let (status, body) = client.post("invocation/r-1/response", "", "[1]").await;
    assert_eq!((status, body.as_str()), (202, r#"{"status":"OK"}"#));
    let Outcome::Answer(answer) = waiting.await.unwrap() else { panic!("it answered") };
    assert_eq!(answer, "[1]");
}

#[tokio::test]
async fn failures_are_passed_on_and_misuse_is_refused() {
    let (api, address) = serve().await;
    let mut client = Client::connect(address).await;
    let waiting = call(&api, "r-1");
    assert_eq!(client.post("invocation/r-1/response", "", "early").await.0, 400);
    client.next().await;
    assert_eq!(client.post("invocation/other/response", "", "1").await.0, 400);
    let report = r#"{"errorType":"E","errorMessage":"m"}"#;
    assert_eq!(client.post("invocation/r-1/error", "", report).await.0, 202);
    let Outcome::FunctionError(told) = waiting.await.unwrap() else { panic!("it failed") };
    assert_eq!(told.json, report);
    assert_eq!(client.post("invocation/r-1/response", "", "late").await.0, 400);
    assert_eq!(client.post("init/error", "", report).await.0, 403);
    assert_eq!(client.post("nonsense", "", "").await.0, 404);

    let waiting = call(&api, "r-2");
    client.next().await;
    client.post("invocation/r-2/error", "lambda-runtime-function-error-type: My.Type\r\n", "no json").await;
    let Outcome::FunctionError(told) = waiting.await.unwrap() else { panic!("it failed") };
    assert_eq!(told.to_string(), "My.Type: no json");

    let waiting = call(&api, "r-3");
    client.next().await;
    let (status, _) = client.post("invocation/r-3/response", "", &"x".repeat(1001)).await;
    assert_eq!(status, 413);
    let Outcome::FunctionError(told) = waiting.await.unwrap() else { panic!("it was too large") };
    assert_eq!(told.error_type, "Function.ResponseSizeTooLarge");
}

#[tokio::test]
async fn an_error_before_the_first_request_for_work_fails_the_start() {
    let (api, address) = serve().await;
    let mut client = Client::connect(address).await;
    client.write("GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(client.read().await.0, 200);
    let report = r#"{"errorType":"Runtime.NoSuchHandler","errorMessage":"m"}"#;
    assert_eq!(client.post("init/error", "", report).await.0, 202);
    let Err(InitFailure::Function(told)) = api.ready(Instant::now() + PATIENCE).await else { panic!("it failed") };
    assert_eq!(told.error_type, "Runtime.NoSuchHandler");
    assert_eq!(client.post("init/error", "", report).await.0, 403);
}

#[tokio::test]
async fn a_streamed_answer_arrives_bit_by_bit_and_may_fail_late() {
    let (api, address) = serve().await;
    let mut client = Client::connect(address).await;
    let head = "POST /2018-06-01/runtime/invocation/ID/response HTTP/1.1\r\nhost: x\r\n\
                lambda-runtime-function-response-mode: streaming\r\ncontent-type: text/plain\r\n\
                transfer-encoding: chunked\r\ntrailer: lambda-runtime-function-error-type\r\n\r\n5\r\nfirst\r\n";
    for (id, end, failure) in
        [("r-1", "0\r\n\r\n", None), ("r-2", "0\r\nlambda-runtime-function-error-type: Late\r\n\r\n", Some("Late"))]
    {
        let waiting = call(&api, id);
        client.next().await;
        client.write(&head.replace("ID", id)).await;
        let Outcome::Stream(mut stream) = waiting.await.unwrap() else { panic!("it streams") };
        assert_eq!(stream.content_type(), Some("text/plain"));
        assert_eq!(stream.next().await.unwrap().unwrap(), "first");
        until_in_flight(&api, 1).await;
        client.write(&format!("6\r\nsecond\r\n{end}")).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), "second");
        match (stream.next().await, failure) {
            (None, None) => {}
            (Some(Err(StreamFailure::Function(report))), Some(kind)) => assert_eq!(report.error_type, kind),
            other => panic!("{other:?}"),
        }
        assert_eq!(client.read().await.0, 202);
        until_in_flight(&api, 0).await;
    }
    let waiting = call(&api, "r-3");
    client.next().await;
    client.write(&head.replace("ID", "r-3")).await;
    let Outcome::Stream(mut stream) = waiting.await.unwrap() else { panic!("it streams") };
    assert_eq!(stream.next().await.unwrap().unwrap(), "first");
    drop(client);
    assert_eq!(stream.next().await.unwrap().unwrap_err(), StreamFailure::InstanceDied);
    until_in_flight(&api, 0).await;
}

#[tokio::test]
async fn work_goes_to_the_next_connection_when_one_goes_away() {
    let (api, address) = serve().await;
    let mut gone = Client::connect(address).await;
    gone.write("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: x\r\n\r\n").await;
    api.ready(Instant::now() + PATIENCE).await.unwrap();
    drop(gone);
    // What is handed to a connection before its end is seen may have reached the instance, and counts as handed out.
    timeout(PATIENCE, async {
        while api.desk.asking() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the end is seen");
    let mut client = Client::connect(address).await;
    let waiting = call(&api, "r-1");
    client.next().await;
    client.post("invocation/r-1/response", "", "1").await;
    assert!(matches!(waiting.await.unwrap(), Outcome::Answer(_)));
}

#[tokio::test]
async fn several_requests_for_work_wait_at_once() {
    let (api, address) = serve().await;
    let mut clients = [Client::connect(address).await, Client::connect(address).await];
    for client in &mut clients {
        client.write("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: x\r\n\r\n").await;
    }
    let waiting = [call(&api, "r-1"), call(&api, "r-2")];
    let mut ids = Vec::new();
    for client in &mut clients {
        let (_, head, _) = client.read().await;
        let id = head.lines().find_map(|line| line.strip_prefix("lambda-runtime-aws-request-id: ")).unwrap();
        ids.push(id.to_owned());
    }
    until_in_flight(&api, 2).await;
    for (client, id) in clients.iter_mut().zip(&ids) {
        client.post(&format!("invocation/{id}/response"), "", &format!("\"{id}\"")).await;
    }
    for (waiting, id) in waiting.into_iter().zip(["r-1", "r-2"]) {
        let Outcome::Answer(answer) = waiting.await.unwrap() else { panic!("it answered") };
        assert_eq!(answer, format!("\"{id}\""));
    }
}

#[tokio::test]
async fn what_nobody_asked_for_is_taken_back_and_an_end_ends_the_rest() {
    let (api, address) = serve().await;
    let unasked = call(&api, "r-1");
    until_in_flight(&api, 1).await;
    unasked.abort();
    until_in_flight(&api, 0).await;
    let mut client = Client::connect(address).await;
    let handed_out = call(&api, "r-2");
    client.next().await;
    let queued = call(&api, "r-3");
    until_in_flight(&api, 2).await;
    assert!(matches!(api.invoke(invocation("r-3")).await, Outcome::Refused(_)));
    drop(client);
    api.instance_died();
    assert!(matches!(handed_out.await.unwrap(), Outcome::InstanceDied { may_have_started: true }));
    assert!(matches!(queued.await.unwrap(), Outcome::InstanceDied { may_have_started: false }));
    assert!(matches!(api.invoke(invocation("r-4")).await, Outcome::InstanceDied { may_have_started: false }));
}

#[tokio::test]
async fn an_answer_is_not_held_up_by_delayed_acknowledgements() {
    let (api, address) = serve().await;
    let mut client = Client::connect(address).await;
    let mut samples = Vec::new();
    for number in 0..200 {
        let id = format!("r-{number}");
        let begun = std::time::Instant::now();
        let waiting = call(&api, &id);
        client.next().await;
        client.post(&format!("invocation/{id}/response"), "", "1").await;
        assert!(matches!(waiting.await.unwrap(), Outcome::Answer(_)));
        samples.push(begun.elapsed());
    }
    samples.sort_unstable();
    let median = samples[100];
    eprintln!("Runtime API round trip, client included: p50 {} us", median.as_micros());
    assert!(median < Duration::from_millis(30), "{median:?}");
}
