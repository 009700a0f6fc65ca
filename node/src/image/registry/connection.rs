//! One exchange over HTTP/1.1, with or without TLS; every wait has a deadline.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::Settings;
use super::super::capture::CERTIFICATES;
use super::super::pull::PullError;

/// How long a connection may take until it stands, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long a registry may take to begin its answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long it may take to send the next piece of a body.
const PIECE_WAIT_MAX: Duration = Duration::from_secs(30);

/// How we call ourselves.
const USER_AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"));

/// What connections are made with.
#[derive(Debug)]
pub(super) struct Connector {
    settings: Settings,
    /// Read on first need: plain registries need no certificates.
    tls: OnceLock<Arc<rustls::ClientConfig>>,
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: http::response::Parts,
    body: Incoming,
    host: String,
    _connection: Connection,
}

/// The task that moves the bytes of a connection; it ends with this.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connector {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, tls: OnceLock::new() }
    }

    /// Sends one request and returns the answer, whatever its status is.
    pub(super) async fn get(&self, uri: &Uri, headers: HeaderMap) -> Result<Answer, PullError> {
        let host = uri.authority().map_or("", |authority| authority.as_str()).to_owned();
        let late = |what| PullError::TimedOut { host: host.clone(), what };
        let broken = |source: io::Error| PullError::Unreachable { host: host.clone(), source };
        let stream = timeout(CONNECT_MAX, self.connect(uri)).await.map_err(|_| late("the connection"))?;
        let stream = TokioIo::new(stream.map_err(broken)?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(|error| broken(io::Error::other(error)))?;
        let connection = Connection(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a registry ended");
            }
        }));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(http::header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(http::header::USER_AGENT, USER_AGENT);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(io::Error::other(error)))?;
        let answer: Response<Incoming> = timeout(ANSWER_WAIT_MAX, sender.send_request(request))
            .await
            .map_err(|_| late("an answer"))?
            .map_err(|error| broken(io::Error::other(error)))?;
        let (head, body) = answer.into_parts();
        Ok(Answer { head, body, host, _connection: connection })
    }

    async fn connect(&self, uri: &Uri) -> io::Result<Box<dyn Stream>> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_plain = uri.scheme_str() == Some("http");
        let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if is_plain {
            return Ok(Box::new(stream));
        }
        let connector = tokio_rustls::TlsConnector::from(self.tls()?);
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn tls(&self) -> io::Result<Arc<rustls::ClientConfig>> {
        if let Some(known) = self.tls.get() {
            return Ok(Arc::clone(known));
        }
        let mut roots = rustls::RootCertStore::empty();
        let files = match &self.settings.ca_file {
            Some(own) => vec![own.clone()],
            None => CERTIFICATES.iter().map(Into::into).filter(|path: &std::path::PathBuf| path.exists()).collect(),
        };
        for file in files {
            let certificates = CertificateDer::pem_file_iter(&file)
                .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
            // One certificate of many that cannot be read keeps nobody from using the others.
            roots.add_parsable_certificates(certificates.flatten());
        }
        if roots.is_empty() {
            return Err(io::Error::other("this machine has no certificates of authorities; set build.ca-file"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

impl Answer {
    /// Returns the next piece of the body, none at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, PullError> {
        loop {
            let frame = timeout(PIECE_WAIT_MAX, self.body.frame())
                .await
                .map_err(|_| PullError::TimedOut { host: self.host.clone(), what: "the rest of a body" })?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame
                .map_err(|error| PullError::Unreachable { host: self.host.clone(), source: io::Error::other(error) })?;
            // Trailers mean nothing here.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Returns the whole body if it has at most `limit` bytes.
    pub(super) async fn whole(&mut self, what: &'static str, limit: u64) -> Result<Bytes, PullError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
            if u64::try_from(whole.len()).unwrap_or(u64::MAX) > limit {
                return Err(PullError::Limit { what, limit });
            }
        }
        Ok(whole.freeze())
    }

    /// Returns a header as text.
    pub(super) fn header(&self, name: http::HeaderName) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }
}
