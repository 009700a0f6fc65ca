//! The API behind its real listeners, and a client for it.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::telemetry::logs;

/// How long anything may take here.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Fixture {
    pub(super) fake: Arc<Fake>,
    pub(super) api: Api,
    pub(super) token: Token,
    pub(super) socket: PathBuf,
    pub(super) address: std::net::SocketAddr,
    pub(super) server: Server,
    _folder: tempfile::TempDir,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&self.body)))
    }

    pub(super) fn error(&self) -> (u16, ErrorBody) {
        (self.status, serde_json::from_slice(&self.body).expect("the body is an error"))
    }

    pub(super) fn lines(&self) -> Vec<Value> {
        let text = std::str::from_utf8(&self.body).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake::new();
        let metrics = Arc::new(Metrics::new());
        let db = sled::open(folder.path().join("index")).unwrap();
        let limits = logs::Limits { function_max_bytes: 1 << 20, age_max: Duration::from_secs(1 << 40) };
        let clock = Clock::system();
        let logs =
            LogStore::open(folder.path().join("logs"), &db, limits, clock.clone(), Arc::clone(&metrics)).unwrap();
        let uploads = folder.path().join("uploads");
        std::fs::create_dir(&uploads).unwrap();
        let limits = Limits { upload_max_bytes: 1000, image_max_bytes: 2000, payload_max_bytes: 100 };
        let platform = Arc::clone(&fake) as Arc<dyn Platform>;
        let api = Api { platform, logs, events: EventLog::new(), metrics, clock, uploads: Arc::new(uploads), limits };
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let socket = folder.path().join("hearth.sock");
        let bound = Server::bind(&socket, ([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = bound.address();
        let server = bound.serve(api.clone(), token.clone());
        Self { fake, api, token, socket, address, server, _folder: folder }
    }

    pub(super) async fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> http::Response<Incoming> {
        let request = http::Request::builder().method(method).uri(path).header("host", "hearth");
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        send(stream, request.body(Full::new(body.into())).unwrap()).await
    }

    /// Asks over the socket.
    pub(super) async fn call(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        read(self.request(method, path, body).await).await
    }

    /// Asks over the socket, with a header.
    pub(super) async fn call_with(&self, method: &str, path: &str, header: (&str, &str), body: Vec<u8>) -> Answer {
        let request = http::Request::builder().method(method).uri(path).header(header.0, header.1);
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        read(send(stream, request.body(Full::new(body.into())).unwrap()).await).await
    }

    /// Asks over TCP.
    pub(super) async fn remote(&self, path: &str, authorization: Option<&str>) -> Answer {
        let mut request = http::Request::builder().uri(path).header("host", "hearth");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        read(send(stream, request.body(Full::default()).unwrap()).await).await
    }

    /// Deploys functions and makes their revisions live.
    pub(super) async fn deployed(&self, functions: &[json::FunctionSpec]) {
        let body = json::DeployRequest { functions: functions.to_vec(), check_index: None };
        let answer = self.call("PUT", "/v1/apps/shop?detach=1", serde_json::to_vec(&body).unwrap()).await;
        assert_eq!(answer.status, 200, "{:?}", String::from_utf8_lossy(&answer.body));
        for line in answer.lines() {
            for function in line["functions"].as_array().into_iter().flatten() {
                let number = u32::try_from(function["revision"].as_u64().unwrap()).unwrap();
                self.fake.promote(function["name"].as_str().unwrap(), number);
            }
        }
    }
}

async fn send<S>(stream: S, request: http::Request<Full<Bytes>>) -> http::Response<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("it answers in time").unwrap()
}

async fn read(response: http::Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("it ends in time").unwrap();
    Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().to_vec() }
}

/// Returns the next line of a stream.
pub(super) async fn line(body: &mut Incoming) -> Value {
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("it comes in time").unwrap().unwrap();
        let data = frame.into_data().unwrap();
        // The server writes whole lines; an empty one only says that it is there.
        if data.as_ref() != b"\n" {
            return serde_json::from_slice(&data).unwrap();
        }
    }
}
