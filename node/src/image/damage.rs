//! Finds blobs that rotted on the disk or are gone, so that they can be fetched again.

use std::fs::File;
use std::io;

use control_plane::model::Digest;
use sha2::{Digest as _, Sha256};

use super::Store;
use super::blob::Blobs;

impl Store {
    /// Forgets those blobs of an image that are not what they must be.
    ///
    /// Layers that are unpacked were verified when they were, and their blobs are left alone: sandboxes may stand on them.
    pub(super) async fn forget_damaged(&self, image: &Digest) -> io::Result<()> {
        let (store, image) = (self.clone(), *image);
        tokio::task::spawn_blocking(move || store.forget_damaged_now(image)).await.map_err(io::Error::other)?
    }

    fn forget_damaged_now(&self, image: Digest) -> io::Result<()> {
        if self.forget_if_damaged(&image)? {
            // Without its manifest it is no image, until it comes again.
            let mut index = self.index();
            if index.images.remove(&image.to_string()) {
                self.write_index(&index)?;
            }
            return Ok(());
        }
        for digest in self.parts(&image)? {
            if !self.0.folder.join("layers").join(digest.hex()).is_dir() {
                self.forget_if_damaged(&digest)?;
            }
        }
        Ok(())
    }

    /// Returns whether a blob is missing; one that is damaged is deleted, unless it is on its way for somebody.
    fn forget_if_damaged(&self, digest: &Digest) -> io::Result<bool> {
        let claim = self.claims().claim([*digest]);
        match is_sound(self.blobs(), digest) {
            Ok(true) => return Ok(false),
            Ok(false) => {
                tracing::error!(blob = %digest, "a blob is damaged and is deleted");
                claim.give_up(&[*digest], |digest| self.forget_blob(digest))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Returns the config and the layers of an image.
    pub(super) fn parts(&self, image: &Digest) -> io::Result<Vec<Digest>> {
        let manifest: super::oci::Manifest = serde_json::from_slice(&self.blobs().read(image)?)?;
        let parts = manifest.layers.iter().chain([&manifest.config]);
        parts.map(|part| part.digest.parse().map_err(io::Error::other)).collect()
    }
}

/// Returns whether a blob is what its name says.
fn is_sound(blobs: &Blobs, digest: &Digest) -> io::Result<bool> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(blobs.path(digest))?, &mut hash)?;
    Ok(Digest::from_bytes(hash.finalize().into()) == *digest)
}
