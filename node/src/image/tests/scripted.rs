//! Peers that give what is in their store, except where a test tells them not to; over real sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use control_plane::model::{Digest, NodeId};
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::v1::images_server::{Images, ImagesServer};
use proto::v1::{BlobChunk, BlobRequest, HasReply, HasRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::super::{ImagePeer, ImagePeers, Settings, Sharing, Store, blob, oci};

/// What is done with one request for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// What is asked for is sent.
    Kind,
    /// The stream breaks in the middle.
    BreaksOff,
    /// The first half is something else, then the stream breaks.
    LiesAndBreaksOff,
    /// Something else of the same length is sent.
    Lies,
    /// The stream ends well in the middle.
    EndsEarly,
    /// More is sent than there is.
    SaysMore,
    /// A chunk is longer than any may be.
    Shouts,
    /// Nothing is sent any more after the first chunk.
    Stalls,
    /// No more streams are taken.
    Busy,
}

impl Mood {
    /// Those that need not be waited for.
    pub(super) const THAT_END: [Self; 8] = [
        Self::Kind,
        Self::BreaksOff,
        Self::LiesAndBreaksOff,
        Self::Lies,
        Self::EndsEarly,
        Self::SaysMore,
        Self::Shouts,
        Self::Busy,
    ];
}

/// What peers do next, whichever of them is asked, and what they were asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    moods: Mutex<VecDeque<Mood>>,
    asked: Mutex<Vec<(NodeId, Digest, u64)>>,
}

impl Script {
    /// Says what is done with the next requests for blobs; after them peers are kind.
    pub(super) fn set<const N: usize>(&self, moods: [Mood; N]) {
        *self.moods.lock().expect("no test holds it") = moods.into();
    }

    /// Returns who was asked for a blob, and from which offset, in order.
    pub(super) fn asked(&self, digest: &Digest) -> Vec<(NodeId, u64)> {
        let asked = self.asked.lock().expect("no test holds it");
        asked.iter().filter(|(_, asked, _)| asked == digest).map(|(node, _, offset)| (*node, *offset)).collect()
    }

    fn next(&self, node: NodeId, digest: Digest, offset: u64) -> Mood {
        self.asked.lock().expect("no test holds it").push((node, digest, offset));
        self.moods.lock().expect("no test holds it").pop_front().unwrap_or(Mood::Kind)
    }

    pub(super) fn moods(&self) -> MutexGuard<'_, VecDeque<Mood>> {
        self.moods.lock().expect("no test holds it")
    }
}

/// A peer with a store of its own.
pub(crate) struct Peer {
    pub(super) store: Store,
    pub(super) folder: tempfile::TempDir,
    peer: ImagePeer,
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Peer {
    pub(crate) async fn start(number: u32, script: &Arc<Script>) -> Self {
        Self::with(number, script, Settings::default()).await
    }

    pub(super) async fn with(number: u32, script: &Arc<Script>, settings: Settings) -> Self {
        let (folder, store) = super::store(settings);
        let node = NodeId(number);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let acting = Acting { sharing: Sharing::new(&store), node, script: Arc::clone(script) };
        let serving = Server::builder()
            .add_service(ImagesServer::new(acting).max_encoding_message_size(8 << 20))
            .serve_with_incoming(TcpIncoming::from(listener));
        let serving = tokio::spawn(async move { serving.await.expect("it serves until it is ended") });
        let channel = channel(address);
        Self { store, folder, peer: ImagePeer { node, channel }, address, serving }
    }

    /// Returns a way to it that ends in the middle of everything once, when `budget` bytes came over it and its like.
    pub(super) async fn over_a_line_that_breaks(&self, budget: &Arc<AtomicU64>) -> Channel {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let line = channel(listener.local_addr().expect("it is bound"));
        let (address, budget) = (self.address, Arc::clone(budget));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(address).await.expect("it listens");
                let budget = Arc::clone(&budget);
                tokio::spawn(async move {
                    let (mut from_near, mut to_near) = near.into_split();
                    let (mut from_far, mut to_far) = far.into_split();
                    let mut piece = vec![0; 16 << 10];
                    let back = async {
                        loop {
                            let count = from_far.read(&mut piece).await?;
                            let left = budget.load(Ordering::SeqCst);
                            let after = left.saturating_sub(count as u64);
                            budget.store(after, Ordering::SeqCst);
                            // It was spent once: from then on nothing breaks.
                            if count == 0 || (left > 0 && after == 0) {
                                return Ok::<(), std::io::Error>(());
                            }
                            to_near.write_all(&piece[..count]).await?;
                        }
                    };
                    // Whichever ends first ends both.
                    tokio::select! {
                        ended = back => ended,
                        ended = tokio::io::copy(&mut from_near, &mut to_far) => ended.map(drop),
                    }
                });
            }
        });
        line
    }

    /// Makes an image of some layers, each with one file.
    pub(crate) fn image(&self, layers: &[Vec<u8>]) -> Digest {
        self.changed_image(layers, |_, _| ())
    }

    pub(super) fn changed_image(
        &self,
        layers: &[Vec<u8>],
        change: impl FnOnce(&mut oci::Manifest, &mut oci::Config),
    ) -> Digest {
        let put = |bytes: &[u8]| self.store.blobs().put(bytes).expect("there is room");
        let digests: Vec<Digest> = layers.iter().map(|layer| put(layer)).collect();
        let mut config = oci::Config {
            architecture: oci::architecture().to_owned(),
            os: "linux".to_owned(),
            config: oci::Execution { entrypoint: Some(vec!["/run".to_owned()]), ..oci::Execution::default() },
            rootfs: oci::RootFs {
                kind: "layers".to_owned(),
                diff_ids: digests.iter().map(ToString::to_string).collect(),
            },
        };
        let sizes = digests.iter().zip(layers);
        let mut manifest = oci::Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST.to_owned()),
            config: oci::Descriptor::new(oci::CONFIG, &blob::of(b""), 0),
            layers: sizes.map(|(digest, layer)| oci::Descriptor::new(oci::LAYER, digest, layer.len() as u64)).collect(),
        };
        change(&mut manifest, &mut config);
        let config = serde_json::to_vec(&config).expect("it is plain data");
        manifest.config = oci::Descriptor::new(oci::CONFIG, &put(&config), config.len() as u64);
        let image = put(&serde_json::to_vec(&manifest).expect("it is plain data"));
        self.store.list_image(image).expect("there is room");
        image
    }
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("it is an address").connect_lazy()
}

/// The peers that a node of a test knows.
#[derive(Debug, Default)]
pub(crate) struct Known(pub(super) Vec<ImagePeer>);

impl ImagePeers for Known {
    fn peers(&self) -> Vec<ImagePeer> {
        self.0.clone()
    }
}

impl<const N: usize> From<[&Peer; N]> for Known {
    fn from(peers: [&Peer; N]) -> Self {
        Self(peers.map(|peer| peer.peer.clone()).into())
    }
}

struct Acting {
    sharing: Sharing,
    node: NodeId,
    script: Arc<Script>,
}

#[tonic::async_trait]
impl Images for Acting {
    type BlobStream = BoxStream<'static, Result<BlobChunk, Status>>;

    async fn has(&self, request: Request<HasRequest>) -> Result<Response<HasReply>, Status> {
        self.sharing.has(request).await
    }

    async fn blob(&self, request: Request<BlobRequest>) -> Result<Response<Self::BlobStream>, Status> {
        let asked = request.get_ref();
        let digest = Digest::from_bytes(asked.sha256[..].try_into().expect("it is a digest"));
        let mood = self.script.next(self.node, digest, asked.offset);
        let chunks: Vec<Result<BlobChunk, Status>> = self.sharing.blob(request).await?.into_inner().collect().await;
        let half = chunks.len() / 2;
        let other = |chunk: Result<BlobChunk, Status>| {
            chunk.map(|chunk| BlobChunk { bytes: vec![b'x'; chunk.bytes.len()].into() })
        };
        let more = |bytes: Vec<u8>| Ok(BlobChunk { bytes: bytes.into() });
        let broken = || Err(Status::unavailable("the node goes down"));
        let chunks = stream::iter(chunks);
        Ok(Response::new(match mood {
            Mood::Kind => chunks.boxed(),
            Mood::BreaksOff => chunks.take(half).chain(stream::iter([broken()])).boxed(),
            Mood::LiesAndBreaksOff => chunks.map(other).take(half).chain(stream::iter([broken()])).boxed(),
            Mood::Lies => chunks.map(other).boxed(),
            Mood::EndsEarly => chunks.take(half).boxed(),
            Mood::SaysMore => chunks.chain(stream::iter([more(b"more".to_vec())])).boxed(),
            Mood::Shouts => stream::iter([more(vec![b'x'; 1 << 20])]).boxed(),
            Mood::Stalls => chunks.take(1).chain(stream::pending()).boxed(),
            Mood::Busy => return Err(Status::resource_exhausted("enough")),
        }))
    }
}
