//! A registry that does what a test tells it to, over real sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use control_plane::model::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::pull::PullError;
use super::super::{Built, Reference, Store, blob, oci};

/// What a registry does with one request for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Answers in full, or the part that is asked for.
    Kind,
    /// Ends the connection in the middle of the blob.
    BreaksOff,
    /// Knows no parts.
    WithoutRanges,
    /// Sends something else of the same length.
    Lies,
    /// Sends more than there is.
    SaysMore,
    /// Has too much to do.
    Busy,
}

/// An image and what is asked about it.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) documents: BTreeMap<String, (String, Vec<u8>)>,
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    pub(super) moods: VecDeque<Mood>,
    /// The header that lets clients in, if they need one.
    pub(super) access: Option<String>,
    pub(super) challenge: String,
    /// Where blobs are that are not here.
    pub(super) elsewhere: Option<std::net::SocketAddr>,
    /// Heads of all requests.
    pub(super) asked: Vec<String>,
}

/// A registry on loopback.
pub(super) struct Stub {
    shelf: Arc<Mutex<Shelf>>,
    pub(super) address: std::net::SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

impl Stub {
    /// Starts a registry that speaks plain HTTP.
    pub(super) async fn new() -> Self {
        Self::start(None).await
    }

    /// Starts a registry that speaks TLS, and returns the certificate that vouches for it.
    pub(super) async fn with_tls() -> (Self, String) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate can be made");
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("it is a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("they belong together");
        (Self::start(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config)))).await, own.cert.pem())
    }

    async fn start(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let serving = tokio::spawn({
            let shelf = Arc::clone(&shelf);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (shelf, tls) = (Arc::clone(&shelf), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            Some(tls) => Self::serve(tls.accept(stream).await?, &shelf).await,
                            None => Self::serve(stream, &shelf).await,
                        }
                    });
                }
            }
        });
        Self { shelf, address, serving }
    }

    /// Answers one request.
    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, shelf: &Mutex<Shelf>) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let bytes = Self::decide(shelf, &String::from_utf8_lossy(&head));
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    }

    fn decide(shelf: &Mutex<Shelf>, head: &str) -> Vec<u8> {
        let mut shelf = shelf.lock().expect("no test holds it");
        shelf.asked.push(head.to_owned());
        let path = head.split(' ').nth(1).unwrap_or_default();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
                .map(|(_, v)| v)
        };
        if path.starts_with("/token") {
            return match header("authorization") {
                Some("Basic dTpw") => answer("200 OK", "", br#"{"access_token": "t0"}"#),
                _ => answer("401 Unauthorized", "", br#"{"errors": [{"message": "who are you"}]}"#),
            };
        }
        if let Some(access) = &shelf.access
            && header("authorization") != Some(access)
        {
            let challenge = format!("www-authenticate: {}\r\n", shelf.challenge);
            return answer("401 Unauthorized", &challenge, b"");
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if path.contains("/manifests/") {
            return match shelf.documents.get(last) {
                Some((kind, bytes)) => answer("200 OK", &format!("content-type: {kind}\r\n"), bytes),
                None => answer("404 Not Found", "", br#"{"errors": [{"message": "manifest unknown"}]}"#),
            };
        }
        let Some(blob) = shelf.blobs.get(last).cloned() else {
            return match shelf.elsewhere {
                Some(other) => answer("307 Temporary Redirect", &format!("location: http://{other}{path}\r\n"), b""),
                None => answer("404 Not Found", "", b""),
            };
        };
        let from = header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match shelf.moods.pop_front().unwrap_or(Mood::Kind) {
            Mood::Kind => match from {
                None => answer("200 OK", "", &blob),
                Some(from) => {
                    let range = format!("content-range: bytes {from}-{}/{}\r\n", blob.len() - 1, blob.len());
                    answer("206 Partial Content", &range, &blob[from..])
                }
            },
            Mood::BreaksOff => {
                let begin = from.unwrap_or(0);
                let (status, range) = match from {
                    None => ("200 OK", String::new()),
                    Some(_) => (
                        "206 Partial Content",
                        format!("content-range: bytes {begin}-{}/{}\r\n", blob.len() - 1, blob.len()),
                    ),
                };
                let mut whole = answer(status, &range, &blob[begin..]);
                whole.truncate(whole.len() - (blob.len() - begin).div_ceil(2));
                whole
            }
            Mood::WithoutRanges => answer("200 OK", "", &blob),
            Mood::Lies => answer("200 OK", "", &vec![b'x'; blob.len()]),
            Mood::SaysMore => answer("200 OK", "", &[&blob[..], b"more"].concat()),
            Mood::Busy => answer("503 Service Unavailable", "", b"later"),
        }
    }

    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().expect("no test holds it")
    }

    /// Puts an image of one layer on the shelf, and returns its digest and that of its layer.
    pub(super) fn put(
        &self,
        tag: &str,
        layer: &[u8],
        change: impl FnOnce(&mut oci::Manifest, &mut oci::Config),
    ) -> (Digest, Digest) {
        let digest = blob::of(layer);
        let mut config = oci::Config {
            architecture: oci::architecture().to_owned(),
            os: "linux".to_owned(),
            config: oci::Execution { entrypoint: Some(vec!["/run".to_owned()]), ..oci::Execution::default() },
            rootfs: oci::RootFs { kind: "layers".to_owned(), diff_ids: vec![digest.to_string()] },
        };
        let mut manifest = oci::Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST.to_owned()),
            config: oci::Descriptor::new(oci::CONFIG, &digest, 0),
            layers: vec![oci::Descriptor::new(oci::LAYER, &digest, layer.len() as u64)],
        };
        change(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config).expect("it is plain data");
        let config_digest = blob::of(&config);
        manifest.config = oci::Descriptor::new(&manifest.config.media_type, &config_digest, config.len() as u64);
        let manifest = serde_json::to_vec(&manifest).expect("it is plain data");
        let image = blob::of(&manifest);
        let mut shelf = self.shelf();
        shelf.blobs.insert(digest.to_string(), layer.to_vec());
        shelf.blobs.insert(config_digest.to_string(), config);
        for version in [tag.to_owned(), image.to_string()] {
            shelf.documents.insert(version, (oci::MANIFEST.to_owned(), manifest.clone()));
        }
        (image, digest)
    }

    pub(super) fn reference(&self, version: &str) -> Reference {
        format!("{}/app{version}", self.address).parse().expect("it is one")
    }

    pub(super) async fn pull(&self, store: &Store, version: &str) -> Result<Built, PullError> {
        store.pull(&self.reference(version), Arc::new(|_| ())).await
    }

    /// Returns how often blobs were asked for, and how often for a part of one.
    pub(super) fn blobs_asked(&self) -> (usize, usize) {
        let shelf = self.shelf();
        let blobs = shelf.asked.iter().filter(|head| head.contains("/blobs/"));
        let parts = blobs.clone().filter(|head| head.to_ascii_lowercase().contains("\r\nrange: "));
        (blobs.count(), parts.count())
    }
}
