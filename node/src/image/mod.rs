//! OCI images on this machine: a content-addressed store, builders, capture of bases.
//!
//! ```text
//! images/
//!   blobs/sha256/…      manifests, configs, layers: files named after what they hold
//!   layers/…            unpacked layers, owners shifted for sandboxes; made again from blobs
//!   index.json          which manifests are images, and their names
//!   built.json          what was made from what, so that nothing is made twice
//! ```
//! Pulling from registries and importing layouts are not here yet.

mod blob;
mod builder;
mod capture;
mod layer;
mod oci;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use control_plane::model::Digest;
use serde::{Deserialize, Serialize};

pub use self::builder::{BuildError, BuildRequest, Built, Progress, RunOutput, RunRequest, SOURCE_MAX, Tools};
pub use self::capture::{Capture, CaptureError};
pub use self::unpack::{UnpackError, UnpackLimits, unpack};

use self::blob::Blobs;

/// The images of a node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    blobs: Blobs,
    index: Mutex<Index>,
    capturing: Mutex<()>,
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

/// The root of an image, unpacked.
#[derive(Clone, Debug)]
pub struct Rootfs {
    /// Its layers as directories, lowest first.
    pub layers: Vec<PathBuf>,
    /// Those of them that were captured from this machine: they hold nobody's code but its own.
    pub captured: Vec<PathBuf>,
    /// What it runs.
    pub config: ImageConfig,
}

/// What an image runs unless it is told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What is always run.
    pub entrypoint: Vec<String>,
    /// Arguments for it, or what is run where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment as `NAME=value`.
    pub env: Vec<String>,
    /// Where it runs.
    pub working_dir: Option<String>,
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

/// Why an image has no root.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// It is not in the store, or damaged.
    #[error("image {image} cannot be read")]
    Unreadable {
        /// The image.
        image: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer cannot be unpacked.
    #[error("a layer of image {image} cannot be unpacked")]
    Layer {
        /// The image.
        image: Digest,
        /// Why.
        source: UnpackError,
    },
}

impl Store {
    /// Opens the store in a folder, which is made if it is not there.
    pub fn open(folder: &Path) -> io::Result<Self> {
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
            blobs: Blobs::open(folder.join("blobs"))?,
            index: Mutex::new(index),
            capturing: Mutex::default(),
            unpacking: tokio::sync::Mutex::default(),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Returns the root of an image, unpacked on first need.
    pub async fn rootfs(&self, image: &Digest) -> Result<Rootfs, RootfsError> {
        let unreadable = |source| RootfsError::Unreadable { image: *image, source };
        let (manifest, config) = self.image(image).map_err(unreadable)?;
        let (mut layers, mut captured) = (Vec::new(), Vec::new());
        for descriptor in &manifest.layers {
            let digest: Digest = descriptor.digest.parse().map_err(|error| unreadable(io::Error::other(error)))?;
            let path = self.unpacked(&digest).await.map_err(|source| RootfsError::Layer { image: *image, source })?;
            if self.index().captured.contains(&descriptor.digest) {
                captured.push(path.clone());
            }
            layers.push(path);
        }
        let execution = config.config;
        let config = ImageConfig {
            entrypoint: execution.entrypoint.unwrap_or_default(),
            cmd: execution.cmd.unwrap_or_default(),
            env: execution.env.unwrap_or_default(),
            working_dir: execution.working_dir,
        };
        Ok(Rootfs { layers, captured, config })
    }

    /// Returns a layer as a directory.
    async fn unpacked(&self, digest: &Digest) -> Result<PathBuf, UnpackError> {
        let path = self.0.folder.join("layers").join(digest.hex());
        if path.is_dir() {
            return Ok(path);
        }
        let _unpacking = self.0.unpacking.lock().await;
        if path.is_dir() {
            return Ok(path);
        }
        let (store, digest, target) = (self.clone(), *digest, path.clone());
        let unpacked = tokio::task::spawn_blocking(move || {
            let blob = store.0.blobs.path(&digest);
            if blob::of_file(&blob)? != digest {
                let reason = format!("layer {digest} is damaged");
                return Err(UnpackError::Io(io::Error::new(io::ErrorKind::InvalidData, reason)));
            }
            let unfinished = tempfile::Builder::new().prefix("layer-").tempdir_in(store.work_dir())?;
            let archive = io::BufReader::with_capacity(1 << 20, fs::File::open(blob)?);
            unpack(archive, unfinished.path(), &UnpackLimits::default())?;
            fs::rename(unfinished.keep(), target)?;
            Ok(())
        });
        unpacked.await.map_err(io::Error::other)??;
        Ok(path)
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
                Some(ImageSummary { digest, names: names.collect(), size_bytes: self.size(&digest).unwrap_or(0) })
            })
            .collect()
    }

    /// Returns what all blobs take, in bytes; every one is looked at.
    pub fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.blobs.list()?.iter().map(|(_, size)| size).sum())
    }

    /// Deletes images that are neither `live` nor named, and blobs and unpacked layers that no image has.
    pub fn sweep(&self, live: &BTreeSet<Digest>) -> io::Result<SweepReport> {
        let mut report = SweepReport::default();
        let mut index = self.index();
        let named: BTreeSet<String> = index.names.values().cloned().collect();
        let before = index.images.len();
        index.images.retain(|text| named.contains(text) || text.parse().is_ok_and(|digest| live.contains(&digest)));
        report.images = u64::try_from(before - index.images.len()).map_err(io::Error::other)?;
        let mut needed: BTreeSet<Digest> = BTreeSet::new();
        for text in &index.images {
            let Ok(image) = text.parse() else { continue };
            let (manifest, _) = self.image(&image)?;
            needed.insert(image);
            let parts = manifest.layers.iter().chain([&manifest.config]);
            needed.extend(parts.filter_map(|part| part.digest.parse::<Digest>().ok()));
        }
        index.captured.retain(|layer| layer.parse().is_ok_and(|digest| needed.contains(&digest)));
        index.built.retain(|_, made| made.parse().is_ok_and(|digest| needed.contains(&digest)));
        self.write_index(&index)?;
        for (digest, size) in self.0.blobs.list()? {
            if !needed.contains(&digest) {
                self.0.blobs.remove(&digest)?;
                let unpacked = self.0.folder.join("layers").join(digest.hex());
                if unpacked.exists() {
                    fs::remove_dir_all(unpacked)?;
                }
                report.blobs += 1;
                report.freed_bytes += size;
            }
        }
        Ok(report)
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
        self.write_index(&index)
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
