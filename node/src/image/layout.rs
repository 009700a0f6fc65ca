//! OCI layouts: images in a folder, as other tools write them.
//!
//! ```text
//!   oci-layout     {"imageLayoutVersion": "1.0.0"}
//!   index.json     which images there are, and their tags
//!   blobs/sha256/  what they are made of
//! ```
//! The folder comes from somebody: nothing in it is followed out of it, and links are not followed at all.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::blob::BlobWriter;
use super::oci::{DOCUMENT_MAX, Descriptor, Index, TAG_ANNOTATION};
use super::pull::{Found, Origin, PullError, PullProgress, verify};
use super::registry::digest_of;
use super::{Built, Store};

/// Bytes of a blob that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// A folder that holds images.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
}

impl Store {
    /// Brings an image of an OCI layout into the store; a name leads to it, if one is given.
    ///
    /// The folder is the layout, or holds nothing but it, or nothing but a tar of it. Without a tag the layout must hold
    /// one image, or one for this machine.
    pub async fn import(
        &self,
        folder: &Path,
        tag: Option<&str>,
        name: Option<&str>,
        progress: PullProgress,
    ) -> Result<Built, PullError> {
        let _work = self.begin_work().await;
        self.import_upload(folder, tag, name, progress).await
    }

    pub(super) async fn import_in_work(
        &self,
        folder: &Path,
        tag: Option<&str>,
        name: Option<&str>,
        progress: PullProgress,
    ) -> Result<Built, PullError> {
        let layout = Layout { folder: folder.to_path_buf() };
        let found = layout.top(tag)?;
        let _pulling = self.pulling().lock().await;
        self.take_in(&Origin::Layout(layout), found, name, progress).await
    }
}

/// Returns whether a folder is an OCI layout.
pub(super) fn is_layout(folder: &Path) -> bool {
    folder.join("oci-layout").is_file() && folder.join("index.json").is_file()
}

impl Layout {
    /// Returns the document that a tag leads to.
    fn top(&self, tag: Option<&str>) -> Result<Found, PullError> {
        let invalid = |reason: String| PullError::Invalid { reason };
        if !is_layout(&self.folder) {
            return Err(invalid("there is no oci-layout and no index.json at the top of it".to_owned()));
        }
        let bytes = self.read("index.json", DOCUMENT_MAX)?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|error| invalid(format!("index.json is malformed: {error}")))?;
        let tag_of = |part: &Descriptor| part.annotations.as_ref().and_then(|all| all.get(TAG_ANNOTATION).cloned());
        if let Some(tag) = tag {
            // Some tools write the whole reference there.
            let is_meant = |part: &&Descriptor| {
                tag_of(part)
                    .is_some_and(|known| known == tag || known.rsplit_once(':').is_some_and(|(_, end)| end == tag))
            };
            return match index.manifests.iter().find(is_meant) {
                Some(part) => self.document(part),
                None => {
                    let known: Vec<String> = index.manifests.iter().filter_map(tag_of).collect();
                    let reason = if known.is_empty() { "it has no tags".to_owned() } else { known.join(", ") };
                    Err(PullError::NotFound { reference: format!("tag {tag} in the layout"), reason })
                }
            };
        }
        match &index.manifests[..] {
            [] => Err(invalid("there is no image in the layout".to_owned())),
            [only] => self.document(only),
            several if several.iter().all(|part| part.platform.is_some()) => self.document(index.choose()?),
            several => {
                let known: Vec<String> = several.iter().filter_map(tag_of).collect();
                Err(invalid(format!(
                    "there are {} images in the layout, name a tag: {}",
                    several.len(),
                    known.join(", ")
                )))
            }
        }
    }

    pub(super) fn document(&self, part: &Descriptor) -> Result<Found, PullError> {
        let digest = digest_of(part)?;
        let bytes = self.read(&format!("blobs/sha256/{}", digest.hex()), DOCUMENT_MAX)?;
        verify(&digest, &bytes)?;
        Ok(Found { bytes: bytes.into(), kind: Some(part.media_type.clone()) })
    }

    pub(super) async fn blob(&self, part: &Descriptor, writer: &mut BlobWriter) -> Result<(), PullError> {
        let path = format!("blobs/sha256/{}", digest_of(part)?.hex());
        let mut file = tokio::fs::File::from_std(self.open(&path)?);
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            if tokio::io::AsyncReadExt::read_buf(&mut file, &mut piece).await? == 0 {
                return Ok(());
            }
            writer.write(Bytes::from(piece)).await?;
        }
    }

    fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>, PullError> {
        let mut bytes = Vec::new();
        self.open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
            return Err(PullError::Limit { what: "bytes in a document", limit });
        }
        Ok(bytes)
    }

    /// Opens a plain file of the layout; a link or a pipe is none.
    fn open(&self, path: &str) -> Result<File, PullError> {
        let folder: OwnedFd = File::open(&self.folder)?.into();
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let missing = |error: io::Error| PullError::Invalid { reason: format!("{path} cannot be read: {error}") };
        let file =
            rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve).map_err(|error| missing(error.into()))?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(io::Error::from)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(missing(io::Error::other("it is no file")));
        }
        Ok(file.into())
    }
}
