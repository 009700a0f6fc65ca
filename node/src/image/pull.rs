//! Images from elsewhere into the store: everything is verified before anything is listed.
//!
//! ```text
//!   name ── index ── manifest ── config ── layers ── unpack ──▶ listed and named
//!     │       │          │          │         │         │
//!     └───────┴──────────┴──────────┴─────────┴─────────┴────▶ an error; no image, and no half of a blob
//! ```
//! Blobs that came whole stay after a pull that broke off, so that the next one goes on from there; a sweep deletes them.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use control_plane::model::Digest;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::blob::{self, BlobWriter};
use super::claim::Claim;
use super::layout::Layout;
use super::oci::{self, Config, DOCUMENT_MAX, Descriptor, Document, Manifest};
use super::peer::Peers;
use super::reference::Reference;
use super::registry::{Registry, digest_of};
use super::{Built, RootfsError, Store};

/// How long a whole pull may take.
const PULL_MAX: Duration = Duration::from_secs(3600);

/// How many blobs come at once.
const BLOBS_AT_ONCE: usize = 3;

/// How many indexes may lie between a name and its image.
const INDEXES_MAX: usize = 3;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullStep {
    /// What is being done, for people.
    pub text: String,
    /// How many bytes have come.
    pub done: u64,
    /// How many there are, where that is known.
    pub total: Option<u64>,
}

/// Told how far a pull is.
pub type PullProgress = Arc<dyn Fn(PullStep) + Send + Sync>;

/// Why an image did not come.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry cannot be reached, or the connection broke.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// The registry, or where it sent us.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Something took too long.
    #[error("{host} took too long: {what} did not come")]
    TimedOut {
        /// The registry, or where it sent us.
        host: String,
        /// What did not come.
        what: &'static str,
    },
    /// The registry wants fewer requests.
    #[error("{host} takes no more requests for now")]
    Busy {
        /// The registry.
        host: String,
        /// How long it asks us to wait.
        wait: Option<Duration>,
    },
    /// There is no such image.
    #[error("there is no {reference}: {reason}")]
    NotFound {
        /// The image, as it was asked for.
        reference: String,
        /// The registry's own words, or what there is instead.
        reason: String,
    },
    /// The registry does not let us in.
    #[error("{host} refuses: {reason}")]
    Denied {
        /// The registry.
        host: String,
        /// Why.
        reason: String,
    },
    /// The registry answers in a way that makes no sense here.
    #[error("{host} answered {status}: {reason}")]
    Answer {
        /// The registry.
        host: String,
        /// The status; zero where it is not about one.
        status: u16,
        /// Its own words.
        reason: String,
    },
    /// No peer could send it.
    #[error("no peer sent {wanted}: {}", words(said))]
    Peers {
        /// What was asked for: the image or what belongs to it.
        wanted: Digest,
        /// What each of them said last.
        said: Vec<String>,
        /// Each of them said that it does not have it; none was asked in vain.
        is_nowhere: bool,
    },
    /// The peers did not send all of it in time.
    #[error("the peers did not send all of {wanted} within {limit:?}: {}", words(said))]
    PeersSlow {
        /// The image.
        wanted: Digest,
        /// How long it may take.
        limit: Duration,
        /// What went wrong last with each of them, if anything did.
        said: Vec<String>,
    },
    /// Content is not what its digest says.
    #[error("{expected} arrived as {actual}")]
    Corrupt {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The image is over a limit.
    #[error("the image has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// There is no image for this machine.
    #[error("there is no image for {wanted}, only for {}", others.join(", "))]
    Platform {
        /// What this machine is.
        wanted: String,
        /// What there is.
        others: Vec<String>,
    },
    /// What came is no image.
    #[error("this is no image that can be used: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// A layer cannot be unpacked.
    #[error(transparent)]
    Layer(#[from] RootfsError),
    /// The store cannot be read or written.
    #[error("the image store failed")]
    Store(#[from] io::Error),
}

impl PullError {
    /// Returns whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Busy { .. } => true,
            Self::Answer { status, .. } => *status >= 500 || matches!(status, 206 | 408 | 416),
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Peers { .. }
            | Self::PeersSlow { .. }
            | Self::Corrupt { .. }
            | Self::Limit { .. }
            | Self::Platform { .. }
            | Self::Invalid { .. }
            | Self::Layer(_)
            | Self::Store(_) => false,
        }
    }
}

/// Returns what peers said, as a part of a message.
fn words(said: &[String]) -> String {
    if said.is_empty() { "nobody said anything".to_owned() } else { said.join("; ") }
}

/// Where an image comes from.
pub(super) enum Origin {
    Registry(Box<Registry>),
    Layout(Layout),
    Peers(Arc<Peers>),
}

/// A document with its digest.
pub(super) struct Found {
    pub(super) bytes: Bytes,
    pub(super) kind: Option<String>,
}

impl Origin {
    async fn document(&self, part: &Descriptor) -> Result<Found, PullError> {
        match self {
            Self::Registry(registry) => {
                let (bytes, kind) = registry.document(&part.digest).await?;
                Ok(Found { bytes, kind })
            }
            Self::Layout(layout) => layout.document(part),
            Self::Peers(peers) => peers.document(part).await,
        }
    }

    async fn blob(&self, part: &Descriptor, writer: &mut BlobWriter) -> Result<(), PullError> {
        match self {
            Self::Registry(registry) => registry.blob(part, writer).await,
            Self::Layout(layout) => layout.blob(part, writer).await,
            Self::Peers(peers) => peers.blob(part, writer).await,
        }
    }
}

impl Store {
    /// Fetches an image from a registry and names it by its reference.
    pub async fn pull(&self, reference: &Reference, progress: PullProgress) -> Result<Built, PullError> {
        let _work = self.begin_work().await;
        self.pull_in_work(reference, progress).await
    }

    pub(super) async fn pull_in_work(&self, reference: &Reference, progress: PullProgress) -> Result<Built, PullError> {
        let name = reference.to_string();
        // What is named by its digest never changes.
        if let Some(known) = reference.digest.and_then(|_| self.named(&name)) {
            return Ok(Built { image: known, reused: true, size_bytes: self.size(&known)? });
        }
        let pulling = async {
            let _pulling = self.pulling().lock().await;
            progress(PullStep { text: format!("asking {} for {name}", reference.registry), done: 0, total: None });
            let registry = Registry::new(reference, self.settings());
            let (bytes, kind) = registry.document(&reference.version()).await?;
            if let Some(expected) = reference.digest {
                verify(&expected, &bytes)?;
            }
            self.take_in(&Origin::Registry(Box::new(registry)), Found { bytes, kind }, Some(&name), progress).await
        };
        match tokio::time::timeout(PULL_MAX, pulling).await {
            Ok(result) => result,
            Err(_) => Err(PullError::TimedOut { host: reference.registry.clone(), what: "the whole image" }),
        }
    }

    /// Brings an image into the store, beginning with its index or manifest.
    pub(super) async fn take_in(
        &self,
        origin: &Origin,
        mut found: Found,
        name: Option<&str>,
        progress: PullProgress,
    ) -> Result<Built, PullError> {
        let mut indexes = 0;
        let manifest = loop {
            match Document::parse(&found.bytes, found.kind.as_deref())? {
                Document::Image(manifest) => break manifest,
                Document::Index(_) if indexes == INDEXES_MAX => {
                    return Err(PullError::Limit { what: "indexes one in the other", limit: INDEXES_MAX as u64 });
                }
                Document::Index(index) => {
                    indexes += 1;
                    let part = index.choose()?;
                    let digest = digest_of(part)?;
                    found = match self.blobs().read(&digest) {
                        Ok(bytes) => Found { bytes: bytes.into(), kind: Some(part.media_type.clone()) },
                        Err(_) => origin.document(part).await?,
                    };
                    verify(&digest, &found.bytes)?;
                }
            }
        };
        let image = blob::of(&found.bytes);
        let parts = manifest.layers.iter().chain([&manifest.config]).map(digest_of);
        let parts = parts.collect::<Result<Vec<Digest>, PullError>>()?;
        let is_listed = self.has(&image);
        let is_known = is_listed && parts.iter().all(|part| self.blobs().has(part));
        if !is_known {
            let claim = self.claims().claim(parts.into_iter().chain([image]));
            let mut fetched = self.fetch_parts(origin, &manifest, &claim, progress).await?;
            let store = self.clone();
            let bytes = found.bytes;
            tokio::task::spawn_blocking(move || store.blobs().put(&bytes)).await.map_err(io::Error::other)??;
            // A layer that no sandbox may get is found here, and not by the first call.
            if let Err(error) = self.rootfs(&image).await {
                fetched.extend((!is_listed).then_some(image));
                claim.give_up(&fetched, |digest| self.forget_blob(digest))?;
                return Err(error.into());
            }
            self.list_image(image)?;
        }
        let mut reused = is_known;
        if let Some(name) = name
            && self.named(name) != Some(image)
        {
            self.name(name, image)?;
            reused = false;
        }
        Ok(Built { image, reused, size_bytes: self.size(&image)? })
    }

    /// Fetches the config and the layers that are not there, and returns which those were.
    async fn fetch_parts(
        &self,
        origin: &Origin,
        manifest: &Manifest,
        claim: &Claim<'_>,
        progress: PullProgress,
    ) -> Result<Vec<Digest>, PullError> {
        if manifest.config.size > DOCUMENT_MAX {
            return Err(PullError::Limit { what: "bytes in its config", limit: DOCUMENT_MAX });
        }
        let image_max = self.settings().image_max;
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        if sizes.fold(0_u64, u64::saturating_add) > image_max {
            return Err(PullError::Limit { what: "bytes in its layers (build.image-max)", limit: image_max });
        }
        let mut wanted: BTreeMap<Digest, &Descriptor> = BTreeMap::new();
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let digest = digest_of(part)?;
            if !self.blobs().has(&digest) {
                wanted.insert(digest, part);
            }
        }
        let total = wanted.values().map(|part| part.size).fold(0, u64::saturating_add);
        let meter = Meter::new(total, wanted.len(), progress);
        let mut fetched = Vec::new();
        // What it is for is known before its layers come.
        let config = digest_of(&manifest.config)?;
        if let Some(part) = wanted.remove(&config) {
            fetched.extend(self.fetch_blob(origin, config, part, claim, &meter).await?);
        }
        let parsed: Config = serde_json::from_slice(&self.blobs().read(&config)?)
            .map_err(|error| PullError::Invalid { reason: format!("its config is malformed: {error}") })?;
        check(&parsed, manifest)?;
        let fetches: Vec<BoxFuture<'_, Result<Option<Digest>, PullError>>> = wanted
            .into_iter()
            .map(|(digest, part)| self.fetch_blob(origin, digest, part, claim, &meter).boxed())
            .collect();
        let layers = futures_util::stream::iter(fetches).buffer_unordered(BLOBS_AT_ONCE);
        fetched.extend(layers.try_collect::<Vec<_>>().await?.into_iter().flatten());
        meter.end();
        Ok(fetched)
    }

    /// Fetches a blob and returns its digest, or nothing if it has come for another image meanwhile.
    async fn fetch_blob(
        &self,
        origin: &Origin,
        digest: Digest,
        part: &Descriptor,
        claim: &Claim<'_>,
        meter: &Arc<Meter>,
    ) -> Result<Option<Digest>, PullError> {
        let _turn = claim.turn(&digest).await;
        if self.blobs().has(&digest) {
            meter.add(i64::try_from(part.size).unwrap_or(i64::MAX));
            return Ok(None);
        }
        let told = Arc::clone(meter);
        let mut writer = BlobWriter::new(self.blobs(), digest, part.size, Box::new(move |count| told.add(count)));
        origin.blob(part, &mut writer).await?;
        writer.finish().await?;
        Ok(Some(digest))
    }
}

/// Refuses an image for another machine, and one whose parts do not fit each other.
fn check(config: &Config, manifest: &Manifest) -> Result<(), PullError> {
    let is_ours = |own: &str, its: &str| its.is_empty() || its == own;
    if !is_ours("linux", &config.os) || !is_ours(oci::architecture(), &config.architecture) {
        let others = vec![format!("{}/{}", config.os, config.architecture)];
        return Err(PullError::Platform { wanted: format!("linux/{}", oci::architecture()), others });
    }
    let (layers, named) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != named {
        return Err(PullError::Invalid { reason: format!("it has {layers} layers, its config names {named}") });
    }
    Ok(())
}

pub(super) fn verify(expected: &Digest, bytes: &[u8]) -> Result<(), PullError> {
    let actual = blob::of(bytes);
    if actual == *expected { Ok(()) } else { Err(PullError::Corrupt { expected: *expected, actual }) }
}

/// Counts bytes and tells of them now and then.
struct Meter {
    total: u64,
    parts: usize,
    done: AtomicI64,
    told: Mutex<Option<Instant>>,
    progress: PullProgress,
}

impl Meter {
    fn new(total: u64, parts: usize, progress: PullProgress) -> Arc<Self> {
        Arc::new(Self { total, parts, done: AtomicI64::new(0), told: Mutex::default(), progress })
    }

    fn add(&self, count: i64) {
        self.done.fetch_add(count, Ordering::Relaxed);
        let mut told = self.told.lock().expect("no holder of this lock panics");
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            drop(told);
            self.tell();
        }
    }

    fn end(&self) {
        if self.parts > 0 {
            self.tell();
        }
    }

    fn tell(&self) {
        let done = u64::try_from(self.done.load(Ordering::Relaxed)).unwrap_or(0);
        (self.progress)(PullStep { text: format!("fetching {} blobs", self.parts), done, total: Some(self.total) });
    }
}
