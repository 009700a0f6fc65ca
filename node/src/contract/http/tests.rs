//! Servers as they are found in the wild, some of them rude.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{AnswerBodyError, Http, HttpFailure};
use crate::contract::{Capture, InitFailure, OutputLimits, log_queue};

const PATIENCE: Duration = Duration::from_secs(30);

fn instance(address: SocketAddr) -> Http {
    let capture = Capture::new(None, None, log_queue().0, OutputLimits::default(), || 0);
    Http::new(move || TcpStream::connect(address), capture)
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

fn id() -> Arc<str> {
    Arc::from("r-1")
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).header("host", "shop").body(Empty::new()).unwrap()
}

async fn text(http: &Http, path: &str) -> String {
    let response = http.send(&id(), get(path), deadline(), ()).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Serves every connection with raw bytes: what `answer` returns for the number of the request within it; `None`
/// closes. Tells on the channel of each connection that was made.
async fn raw_server(answer: fn(usize) -> Option<&'static str>) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            connected.send(()).unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for number in 0.. {
                    let Some(answer) = answer(number) else { return };
                    if !matches!(socket.read(&mut buffer).await, Ok(1..)) {
                        return;
                    }
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn ready_means_that_it_accepts_connections() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let http = instance(address);
    let soon = Instant::now() + Duration::from_millis(30);
    assert!(matches!(http.ready(soon).await, Err(InitFailure::TimedOut)));
    let listening = async {
        let listener = TcpListener::bind(address).await.unwrap();
        listener.accept().await.unwrap()
    };
    let (ready, _) = tokio::join!(http.ready(deadline()), listening);
    ready.unwrap();
    http.instance_died();
    assert!(matches!(http.ready(deadline()).await, Err(InitFailure::InstanceDied)));
}

#[tokio::test]
async fn a_connection_serves_many_requests_unless_the_server_closes_it() {
    let cases = [
        (1, (|_| Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")) as fn(usize) -> Option<&'static str>),
        (3, |_| Some("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")),
    ];
    for (expected, answer) in cases {
        let (address, mut connections) = raw_server(answer).await;
        let http = instance(address);
        for _ in 0..3 {
            assert_eq!(text(&http, "/").await, "ok");
            let returned = async {
                while expected == 1 && http.pool.idle_count() == 0 {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, returned).await.expect("the connection comes back once its response is over");
        }
        let mut made = 0;
        while connections.try_recv().is_ok() {
            made += 1;
        }
        assert_eq!(made, expected);
    }
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let echo = service_fn(|request: Request<Incoming>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(request.into_body())))
        });
        http1::Builder::new().serve_connection(TokioIo::new(socket), echo).await.unwrap();
    });
    let http = instance(address);
    let (portions, mut received) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(futures_util::stream::poll_fn(move |context| received.poll_recv(context)));
    let request = Request::post("/").header("host", "shop").body(body).unwrap();
    let (free, freed) = tokio::sync::oneshot::channel::<()>();
    let response = http.send(&id(), request, deadline(), free).await.unwrap();
    let mut answer = response.into_body();
    for portion in ["one", "two"] {
        portions.send(Ok(Frame::data(Bytes::from(portion)))).await.unwrap();
        let echoed = timeout(PATIENCE, answer.frame()).await.expect("it comes back at once");
        assert_eq!(echoed.unwrap().unwrap().into_data().unwrap(), portion);
    }
    drop(portions);
    assert!(answer.frame().await.is_none());
    timeout(PATIENCE, freed).await.expect("what was held is dropped at the end").unwrap_err();
}

#[tokio::test]
async fn rude_servers_are_told_apart() {
    let (address, _connections) = raw_server(|_| Some("hello, I am no web server\r\n\r\n")).await;
    let failure = instance(address).send(&id(), get("/"), deadline(), ()).await.unwrap_err();
    assert!(matches!(failure, HttpFailure::Broken(_)), "{failure:?}");

    let (address, _connections) = raw_server(|number| (number < 1).then_some("")).await;
    let failure = instance(address).send(&id(), get("/"), deadline(), ()).await.unwrap_err();
    assert!(matches!(failure, HttpFailure::InstanceDied { may_have_started: true, .. }), "{failure:?}");

    let (address, _connections) = raw_server(|_| Some("")).await;
    let soon = Instant::now() + Duration::from_millis(30);
    let failure = instance(address).send(&id(), get("/"), soon, ()).await.unwrap_err();
    assert!(matches!(failure, HttpFailure::TimedOut), "{failure:?}");

    let (address, _connections) = raw_server(|_| Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")).await;
    let soon = Instant::now() + Duration::from_millis(100);
    let http = instance(address);
    let mut body = http.send(&id(), get("/"), soon, ()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    let late = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(late, AnswerBodyError::TimedOut), "{late:?}");
}

#[tokio::test]
async fn an_end_of_the_instance_ends_what_is_in_flight() {
    let (address, _connections) = raw_server(|_| Some("")).await;
    let http = instance(address);
    http.ready(deadline()).await.unwrap();
    let id = id();
    let request = http.send(&id, get("/"), deadline(), ());
    let end = async { http.instance_died() };
    let (failure, ()) = tokio::join!(request, end);
    let failure = failure.unwrap_err();
    assert!(matches!(failure, HttpFailure::InstanceDied { .. }), "{failure:?}");
    let failure = http.send(&id, get("/"), deadline(), ()).await.unwrap_err();
    let is_unsent = matches!(failure, HttpFailure::InstanceDied { may_have_started: false, .. });
    assert!(is_unsent, "{failure:?}");
}

#[tokio::test]
async fn an_upgrade_hands_over_both_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = socket.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..count]).to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
        socket.write_all(answer.as_bytes()).await.unwrap();
        let mut said = [0; 4];
        socket.read_exact(&mut said).await.unwrap();
        socket.write_all(&said).await.unwrap();
    });
    let http = Arc::new(instance(address));
    let (free, freed) = tokio::sync::oneshot::channel::<()>();
    let free = Arc::new(std::sync::Mutex::new(Some(free)));

    // The gateway's side: a server that passes requests on to the instance.
    let gateway = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(gateway.local_addr().unwrap()).await.unwrap();
    let (socket, _) = gateway.accept().await.unwrap();
    let passed_on = Arc::clone(&http);
    tokio::spawn(async move {
        let pass_on = service_fn(move |request: Request<Incoming>| {
            let (http, free) = (Arc::clone(&passed_on), free.lock().unwrap().take());
            async move { http.send(&id(), request, deadline(), free).await }
        });
        http1::Builder::new().serve_connection(TokioIo::new(socket), pass_on).with_upgrades().await.unwrap();
    });
    let request = "GET /chat HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.expect("the instance closes it").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhelloping"), "{answer}");
    timeout(PATIENCE, freed).await.expect("what was held is dropped at the end").unwrap_err();
    drop(http);
}

#[tokio::test]
async fn a_request_body_that_breaks_off_is_the_clients_fault() {
    let (address, _connections) = raw_server(|_| Some("")).await;
    let portions = [Ok(Frame::data(Bytes::from("x"))), Err(std::io::Error::other("gone"))];
    let body = StreamBody::new(futures_util::stream::iter(portions));
    let request = Request::post("/").header("host", "shop").body(body).unwrap();
    let failure = instance(address).send(&id(), request, deadline(), ()).await.unwrap_err();
    assert!(matches!(failure, HttpFailure::RequestBroken(_)), "{failure:?}");
    let whole = Request::post("/").header("host", "shop").body(Full::new(Bytes::from("x"))).unwrap();
    let soon = Instant::now() + Duration::from_millis(30);
    let failure = instance(address).send(&id(), whole, soon, ()).await.unwrap_err();
    assert!(matches!(failure, HttpFailure::TimedOut), "{failure:?}");
}
