//! The roots of images: layers unpacked once, each of them what its digests say.

use std::fs;
use std::io;
use std::path::PathBuf;

use control_plane::model::Digest;

use super::unpack::{self, UnpackError, UnpackLimits};
use super::user::{self, User};
use super::{Store, is_damage};

/// How many roots are remembered.
const ROOTS_MAX: usize = 1024;

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
    /// As whom, if it says so.
    pub user: Option<User>,
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

impl RootfsError {
    /// Returns whether fetching what is missing or damaged may help.
    pub(super) fn may_be_damage(&self) -> bool {
        match self {
            Self::Unreadable { source, .. } | Self::Layer { source: UnpackError::Io(source), .. } => is_damage(source),
            Self::Layer { source: UnpackError::Digest { .. }, .. } => true,
            // What was verified when it came is what its maker made of it.
            Self::Layer { .. } => false,
        }
    }
}

impl Store {
    /// Returns the root of an image, unpacked on first need.
    pub async fn rootfs(&self, image: &Digest) -> Result<Rootfs, RootfsError> {
        let known = self.roots().get(image).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let unreadable = |source| RootfsError::Unreadable { image: *image, source };
        let (manifest, config) = self.image(image).map_err(unreadable)?;
        let (mut layers, mut captured) = (Vec::new(), Vec::new());
        let contents = config.rootfs.diff_ids.iter().map(Some).chain(std::iter::repeat(None));
        for (descriptor, content) in manifest.layers.iter().zip(contents) {
            let parse = |text: &String| text.parse::<Digest>().map_err(|error| unreadable(io::Error::other(error)));
            let digest = parse(&descriptor.digest)?;
            let content = content.map(parse).transpose()?;
            let path =
                self.unpacked(digest, content).await.map_err(|source| RootfsError::Layer { image: *image, source })?;
            // An overlay honours this in every folder but the root.
            if unpack::is_opaque(&path) {
                layers.clear();
                captured.clear();
            }
            if self.index().captured.contains(&descriptor.digest) {
                captured.push(path.clone());
            }
            layers.push(path);
        }
        let execution = config.config;
        let user = execution.user.as_deref().and_then(|user| user::find(user, &layers));
        let config = ImageConfig {
            entrypoint: execution.entrypoint.unwrap_or_default(),
            cmd: execution.cmd.unwrap_or_default(),
            env: execution.env.unwrap_or_default(),
            working_dir: execution.working_dir.filter(|folder| !folder.is_empty()),
            user,
        };
        let root = Rootfs { layers, captured, config };
        let mut roots = self.roots();
        if roots.len() >= ROOTS_MAX {
            roots.clear();
        }
        roots.insert(*image, root.clone());
        Ok(root)
    }

    /// Returns a layer as a directory; `content` is the digest it must have once it is decompressed.
    async fn unpacked(&self, digest: Digest, content: Option<Digest>) -> Result<PathBuf, UnpackError> {
        let path = self.0.folder.join("layers").join(digest.hex());
        if path.is_dir() {
            return Ok(path);
        }
        let _unpacking = self.0.unpacking.lock().await;
        if path.is_dir() {
            return Ok(path);
        }
        let (store, target) = (self.clone(), path.clone());
        let unpacked = tokio::task::spawn_blocking(move || {
            let blob = fs::File::open(store.0.blobs.path(&digest))?;
            let unfinished = tempfile::Builder::new().prefix("layer-").tempdir_in(store.work_dir())?;
            let found = unpack::unpack_layer(&blob, unfinished.path(), &UnpackLimits::default())?;
            // Of the very bytes that were unpacked: nothing can be put in their place in between.
            for (expected, actual) in [(Some(digest), found.file), (content, found.content)] {
                if let Some(expected) = expected.filter(|expected| *expected != actual) {
                    return Err(UnpackError::Digest { expected, actual });
                }
            }
            fs::rename(unfinished.keep(), target)?;
            Ok(())
        });
        unpacked.await.map_err(io::Error::other)??;
        Ok(path)
    }
}
