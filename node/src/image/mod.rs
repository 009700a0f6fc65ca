//! OCI images on this machine: a content-addressed store, builders, capture of bases, registries, layouts and peers.
//!
//! ```text
//! images/
//!   blobs/sha256/…      manifests, configs, layers: files named after what they hold
//!   layers/…            unpacked layers, owners shifted for sandboxes; made again from blobs
//!   index.json          which manifests are images, and their names
//!   built.json          what was made from what, so that nothing is made twice
//! ```
//! A build, a pull and a capture work side by side; a sweep waits until none does.

mod blob;
mod build;
mod capture;
mod claim;
mod damage;
mod layer;
mod layout;
mod oci;
mod peer;
mod pull;
mod reference;
mod registry;
mod rootfs;
mod unpack;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use control_plane::model::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock, RwLockReadGuard};

pub use self::build::{
    BuildError, BuildRequest, Built, Progress, RunOutput, RunRequest, SOURCE_MAX, ToolSettings, Tools,
};
pub use self::capture::{Capture, CaptureError};
pub use self::peer::{ImagePeer, ImagePeers, ObtainError, PeerLimits, PeerTraffic, Sharing};
pub use self::pull::{PullError, PullProgress, PullStep};
pub use self::reference::{Reference, ReferenceError, Scheme};
pub use self::rootfs::{ImageConfig, Rootfs, RootfsError};
pub use self::unpack::{RATIO_FREE, UnpackError, UnpackLimits, unpack};
pub use self::user::User;

use self::blob::Blobs;
use self::claim::Claims;
use self::peer::Fetching;

/// How long a sweep waits for builds and pulls to end.
const SWEEP_WAIT_MAX: Duration = Duration::from_secs(10);

/// How the store reaches other stores, and what it takes from them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registries that are spoken to without TLS, as `host:port`; those on loopback are anyway.
    pub insecure_registries: Vec<String>,
    /// A file like Docker's `config.json` with credentials.
    pub auth_file: Option<PathBuf>,
    /// Certificates in PEM that are trusted instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Bytes of all layers of an image, as they come.
    pub image_max: u64,
    /// What exchanging images with peers may take.
    pub peer: PeerLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            auth_file: None,
            ca_file: None,
            image_max: 4 << 30,
            peer: PeerLimits::default(),
        }
    }
}

/// The images of a node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    settings: Settings,
    blobs: Blobs,
    index: Mutex<Index>,
    capturing: Mutex<()>,
    /// Held for reading by whatever makes images, for writing by a sweep.
    work: RwLock<()>,
    /// One pulls, the others wait for it: what two want comes once.
    pulling: tokio::sync::Mutex<()>,
    /// What is under way counts on these.
    claims: Claims,
    /// One for each image that is being fetched from peers.
    fetching: Fetching,
    traffic: PeerTraffic,
    /// Roots that were asked for, so that a start reads no manifest again; a sweep and a deleted blob empty it.
    roots: Mutex<BTreeMap<Digest, Rootfs>>,
    /// One unpacks a layer, the others wait for it.
    unpacking: tokio::sync::Mutex<()>,
}

/// What the store knows beside its blobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Index {
    images: BTreeSet<String>,
    names: BTreeMap<String, String>,
    /// What was made from what.
    built: BTreeMap<String, String>,
    /// Layers that were captured from this machine.
    captured: BTreeSet<String>,
}

/// An image in the store, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its names.
    pub names: Vec<String>,
    /// The size of its blobs.
    pub size_bytes: u64,
    /// Its layers, lowest first.
    pub layers: Vec<String>,
}

/// A blob of an image, as a file that a sweep may delete once no revision runs the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// What it is known by.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// What a sweep deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Images.
    pub images: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes.
    pub freed_bytes: u64,
}

/// Why nothing was swept.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Something is being made.
    #[error("a build or a pull is under way")]
    Busy,
    /// The store cannot be read or written.
    #[error("the image store failed")]
    Store(#[from] io::Error),
}

impl Store {
    /// Opens the store in a folder, which is made if it is not there.
    pub fn open(folder: &Path, settings: Settings) -> io::Result<Self> {
        fs::create_dir_all(folder.join("layers"))?;
        // Sandboxes run as users of their own and must be able to pass through to their layers.
        for path in [folder.to_path_buf(), folder.join("layers")] {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        }
        match fs::remove_dir_all(folder.join("work")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir_all(folder.join("work"))?;
        let index = match fs::read(folder.join("index.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(error),
        };
        let shared = Shared {
            folder: folder.to_path_buf(),
            settings,
            blobs: Blobs::open(folder.join("blobs"))?,
            index: Mutex::new(index),
            capturing: Mutex::default(),
            work: RwLock::default(),
            pulling: tokio::sync::Mutex::default(),
            claims: Claims::default(),
            fetching: Fetching::default(),
            traffic: PeerTraffic::default(),
            roots: Mutex::default(),
            unpacking: tokio::sync::Mutex::default(),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Returns whether an image is in the store.
    pub fn has(&self, image: &Digest) -> bool {
        self.index().images.contains(&image.to_string()) && self.0.blobs.has(image)
    }

    /// Returns the images in the store.
    pub fn list(&self) -> Vec<ImageSummary> {
        let index = self.index().clone();
        index
            .images
            .iter()
            .filter_map(|text| {
                let digest: Digest = text.parse().ok()?;
                let names = index.names.iter().filter(|(_, image)| *image == text).map(|(name, _)| name.clone());
                let layers = self.image(&digest).map(|(manifest, _)| manifest.layers).unwrap_or_default();
                let layers = layers.into_iter().map(|layer| layer.digest).collect();
                let size_bytes = self.size(&digest).unwrap_or(0);
                Some(ImageSummary { digest, names: names.collect(), size_bytes, layers })
            })
            .collect()
    }

    /// Returns the files that an image is made of.
    pub fn files(&self, image: &Digest) -> io::Result<Vec<ImageFile>> {
        let mut digests: BTreeSet<Digest> = self.parts(image)?.into_iter().collect();
        digests.insert(*image);
        let file = |digest: Digest| {
            let path = self.0.blobs.path(&digest);
            Ok(ImageFile { digest, size_bytes: path.metadata()?.len(), path })
        };
        digests.into_iter().map(file).collect()
    }

    /// Returns what all blobs take, in bytes; every one is looked at.
    pub fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.blobs.list()?.iter().map(|(_, size)| size).sum())
    }

    /// Deletes images that are neither `live` nor named, and blobs and unpacked layers that no image has.
    ///
    /// It waits a little for builds and pulls to end; while one goes on, nothing is deleted.
    pub async fn sweep(&self, live: BTreeSet<Digest>) -> Result<SweepReport, SweepError> {
        let sweeping = tokio::time::timeout(SWEEP_WAIT_MAX, self.0.work.write()).await;
        let _sweeping = sweeping.map_err(|_| SweepError::Busy)?;
        let store = self.clone();
        Ok(tokio::task::spawn_blocking(move || store.sweep_now(&live)).await.map_err(io::Error::other)??)
    }

    fn sweep_now(&self, live: &BTreeSet<Digest>) -> io::Result<SweepReport> {
        let mut report = SweepReport::default();
        let mut index = self.index();
        let named: BTreeSet<String> = index.names.values().cloned().collect();
        let before = index.images.len();
        index.images.retain(|text| named.contains(text) || text.parse().is_ok_and(|digest| live.contains(&digest)));
        report.images = u64::try_from(before - index.images.len()).map_err(io::Error::other)?;
        let mut needed: BTreeSet<Digest> = BTreeSet::new();
        for image in index.images.iter().filter_map(|text| text.parse::<Digest>().ok()) {
            needed.insert(image);
            match self.parts(&image) {
                Ok(parts) => needed.extend(parts),
                // It cannot run as it is, and nothing says any more what else belongs to it.
                Err(error) if is_damage(&error) => {
                    tracing::warn!(%image, %error, "the manifest of an image is damaged")
                }
                Err(error) => return Err(error),
            }
        }
        index.captured.retain(|layer| layer.parse().is_ok_and(|digest| needed.contains(&digest)));
        index.built.retain(|_, made| made.parse().is_ok_and(|digest| needed.contains(&digest)));
        self.write_index(&index)?;
        for (digest, size) in self.0.blobs.list()? {
            if !needed.contains(&digest) {
                self.forget_blob(&digest)?;
                report.blobs += 1;
                report.freed_bytes += size;
            }
        }
        Ok(report)
    }

    /// Deletes a blob and what was unpacked from it.
    fn forget_blob(&self, digest: &Digest) -> io::Result<()> {
        self.roots().clear();
        self.0.blobs.remove(digest)?;
        let unpacked = self.0.folder.join("layers").join(digest.hex());
        if unpacked.exists() {
            fs::remove_dir_all(unpacked)?;
        }
        Ok(())
    }

    /// Returns the image that a name leads to.
    pub fn named(&self, name: &str) -> Option<Digest> {
        let index = self.index();
        index.names.get(name).and_then(|digest| digest.parse().ok()).filter(|digest| self.0.blobs.has(digest))
    }

    fn name(&self, name: &str, image: Digest) -> io::Result<()> {
        let mut index = self.index();
        index.names.insert(name.to_owned(), image.to_string());
        self.write_index(&index)
    }

    /// Notes that a layer was captured from this machine.
    fn mark_captured(&self, layer: &Digest) -> io::Result<()> {
        let mut index = self.index();
        index.captured.insert(layer.to_string());
        self.write_index(&index)?;
        drop(index);
        // What came from elsewhere may turn out to be this machine's own.
        self.roots().clear();
        Ok(())
    }

    fn is_captured(&self, layer: &str) -> bool {
        self.index().captured.contains(layer)
    }

    fn list_image(&self, image: Digest) -> io::Result<()> {
        let mut index = self.index();
        if index.images.insert(image.to_string()) {
            self.write_index(&index)?;
        }
        Ok(())
    }

    fn image_count(&self) -> io::Result<usize> {
        Ok(self.index().images.len())
    }

    fn remembered(&self, key: &str) -> Option<Digest> {
        let index = self.index();
        index.built.get(key).and_then(|digest| digest.parse().ok()).filter(|digest| self.0.blobs.has(digest))
    }

    fn remember(&self, key: &str, digest: Digest) -> io::Result<()> {
        let mut index = self.index();
        index.built.insert(key.to_owned(), digest.to_string());
        self.write_index(&index)
    }

    /// Writes the index whole, or leaves it as it was.
    fn write_index(&self, index: &Index) -> io::Result<()> {
        crate::data_dir::replace_file(&self.0.folder.join("index.json"), &serde_json::to_vec(index)?, 0o600)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().expect("no holder of this lock panics")
    }

    /// Keeps sweeps away from what is being made until the guard is dropped.
    async fn begin_work(&self) -> RwLockReadGuard<'_, ()> {
        self.0.work.read().await
    }

    fn pulling(&self) -> &tokio::sync::Mutex<()> {
        &self.0.pulling
    }

    /// Returns how much went to peers and came from them.
    pub fn peer_traffic(&self) -> &PeerTraffic {
        &self.0.traffic
    }

    fn fetching(&self) -> &Fetching {
        &self.0.fetching
    }

    fn claims(&self) -> &Claims {
        &self.0.claims
    }

    fn roots(&self) -> MutexGuard<'_, BTreeMap<Digest, Rootfs>> {
        self.0.roots.lock().expect("no holder of this lock panics")
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn capturing(&self) -> MutexGuard<'_, ()> {
        self.0.capturing.lock().expect("no holder of this lock panics")
    }

    fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    fn work_dir(&self) -> PathBuf {
        self.0.folder.join("work")
    }

    /// Reads an image's manifest and config.
    fn image(&self, image: &Digest) -> io::Result<(oci::Manifest, oci::Config)> {
        let manifest: oci::Manifest = serde_json::from_slice(&self.0.blobs.read(image)?)?;
        let config = manifest.config.digest.parse().map_err(io::Error::other)?;
        let config = serde_json::from_slice(&self.0.blobs.read(&config)?)?;
        Ok((manifest, config))
    }

    /// Returns the size of an image's blobs.
    fn size(&self, image: &Digest) -> io::Result<u64> {
        let (manifest, _) = self.image(image)?;
        Ok(manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config.size)
    }
}

/// Returns whether an error while reading a blob tells that the blob is gone or is not what it was, not that the disk is full
/// or the process short of something.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
pub(crate) mod tests;
