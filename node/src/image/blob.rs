//! Content by its digest: every blob is a file named after the sha256 of what it holds.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use control_plane::model::Digest;
use sha2::{Digest as _, Sha256};

/// Counts unfinished files of this process.
static UNFINISHED: AtomicU64 = AtomicU64::new(0);

/// The blobs in one folder.
#[derive(Clone, Debug)]
pub(super) struct Blobs {
    folder: PathBuf,
}

/// A blob that is being written; dropped unfinished, nothing of it is left.
pub(super) struct NewBlob<'a> {
    blobs: &'a Blobs,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
    is_kept: bool,
}

impl Blobs {
    /// Opens a folder of blobs and deletes what an earlier process left unfinished.
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(folder.join("sha256"))?;
        let unfinished = folder.join("unfinished");
        match fs::remove_dir_all(&unfinished) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir_all(&unfinished)?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("sha256").join(digest.hex())
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Returns a small blob whole, after checking that it still is what its name says.
    pub(super) fn read(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.path(digest))?;
        if of(&bytes) != *digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("blob {digest} is damaged")));
        }
        Ok(bytes)
    }

    /// Begins a blob.
    pub(super) fn create(&self) -> io::Result<NewBlob<'_>> {
        let number = UNFINISHED.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join("unfinished").join(number.to_string());
        let file = File::options().create_new(true).write(true).open(&path)?;
        Ok(NewBlob { blobs: self, path, file, hash: Sha256::new(), size: 0, is_kept: false })
    }

    /// Keeps a small blob.
    pub(super) fn put(&self, bytes: &[u8]) -> io::Result<Digest> {
        let mut blob = self.create()?;
        blob.write_all(bytes)?;
        Ok(blob.finish()?.0)
    }

    /// Returns the digests and sizes of all blobs.
    pub(super) fn list(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder.join("sha256"))? {
            let entry = entry?;
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            if let Ok(digest) = name.parse() {
                found.push((digest, entry.metadata()?.len()));
            }
        }
        Ok(found)
    }

    pub(super) fn remove(&self, digest: &Digest) -> io::Result<()> {
        fs::remove_file(self.path(digest))
    }
}

impl NewBlob<'_> {
    /// Makes the blob durable under its name; returns its digest and size.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        self.file.sync_all()?;
        fs::rename(&self.path, self.blobs.path(&digest))?;
        self.is_kept = true;
        File::open(self.blobs.folder.join("sha256"))?.sync_all()?;
        Ok((digest, self.size))
    }
}

impl Write for NewBlob<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewBlob<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // What is left is deleted at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the digest of some bytes.
pub(super) fn of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Returns the digest of a file.
pub(super) fn of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            count => hash.update(&buffer[..count]),
        }
    }
}
