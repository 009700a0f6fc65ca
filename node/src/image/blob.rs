//! Content by its digest: every blob is a file named after the sha256 of what it holds.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use control_plane::model::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::pull::PullError;

/// Pieces of a blob that may wait for the disk.
const PIECES_MAX: usize = 16;

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

    /// Returns the size of a blob in bytes, if it is there.
    pub(super) fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(digest)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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

impl NewBlob<'_> {
    /// Forgets what was written.
    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hash = Sha256::new();
        self.size = 0;
        Ok(())
    }

    /// Returns the digest of what was written so far.
    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    /// Keeps the blob if it is what was expected, else tells what it is.
    fn finish_as(self, expected: &Digest) -> io::Result<Result<(), Digest>> {
        let actual = self.digest();
        if actual != *expected {
            return Ok(Err(actual));
        }
        self.finish()?;
        Ok(Ok(()))
    }
}

/// A blob that arrives piece by piece and is hashed and written by a thread that may wait for the disk.
///
/// Dropped before it is finished, nothing of it is left.
pub(super) struct BlobWriter {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<io::Result<Option<Result<(), Digest>>>>,
    expected: Digest,
    size: u64,
    written: u64,
    told: Box<dyn Fn(i64) + Send + Sync>,
}

/// What the thread is told.
enum Piece {
    Bytes(Bytes),
    Restart,
    Digest(oneshot::Sender<Digest>),
    Finish,
}

impl BlobWriter {
    /// Begins a blob of a known digest and size; `told` hears of every byte that comes, and of those that are given up.
    pub(super) fn new(blobs: &Blobs, expected: Digest, size: u64, told: Box<dyn Fn(i64) + Send + Sync>) -> Self {
        let (pieces, mut arriving) = mpsc::channel(PIECES_MAX);
        let blobs = blobs.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut blob = blobs.create()?;
            while let Some(piece) = arriving.blocking_recv() {
                match piece {
                    Piece::Bytes(bytes) => blob.write_all(&bytes)?,
                    Piece::Restart => blob.restart()?,
                    Piece::Digest(answer) => {
                        // Who asked may have gone.
                        let _ = answer.send(blob.digest());
                    }
                    Piece::Finish => return blob.finish_as(&expected).map(Some),
                }
            }
            Ok(None)
        });
        Self { pieces, writing, expected, size, written: 0, told }
    }

    /// Returns how many bytes have come.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Returns how many bytes may still come.
    pub(super) fn room(&self) -> u64 {
        self.size - self.written
    }

    /// Returns the digest of what has come so far.
    pub(super) async fn digest(&mut self) -> Result<Digest, PullError> {
        let (answer, answered) = oneshot::channel();
        self.send(Piece::Digest(answer)).await?;
        match answered.await {
            Ok(digest) => Ok(digest),
            Err(_) => Err(self.ended_early().await),
        }
    }

    /// Takes the next piece; more than the blob may have is refused before it is written.
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), PullError> {
        let count = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        if self.written.saturating_add(count) > self.size {
            let reason = format!("blob {} is longer than the {} bytes it must have", self.expected, self.size);
            return Err(PullError::Invalid { reason });
        }
        self.send(Piece::Bytes(bytes)).await?;
        self.written += count;
        (self.told)(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Begins anew.
    pub(super) async fn restart(&mut self) -> Result<(), PullError> {
        if self.written > 0 {
            self.send(Piece::Restart).await?;
            (self.told)(-i64::try_from(self.written).unwrap_or(i64::MAX));
            self.written = 0;
        }
        Ok(())
    }

    /// Keeps the blob if it has the digest it must have.
    pub(super) async fn finish(mut self) -> Result<(), PullError> {
        self.send(Piece::Finish).await?;
        match self.writing.await.map_err(io::Error::other)?? {
            Some(Ok(())) => Ok(()),
            Some(Err(actual)) => Err(PullError::Corrupt { expected: self.expected, actual }),
            None => Err(io::Error::other("the thread that writes a blob ended early").into()),
        }
    }

    async fn send(&mut self, piece: Piece) -> Result<(), PullError> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        Err(self.ended_early().await)
    }

    /// Returns why the thread has ended: it knows, it is the disk.
    async fn ended_early(&mut self) -> PullError {
        match (&mut self.writing).await {
            Ok(Err(error)) => error.into(),
            Ok(Ok(_)) => io::Error::other("the thread that writes a blob ended early").into(),
            Err(error) => io::Error::other(error).into(),
        }
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
