//! Gives peers the blobs that are here.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use control_plane::model::Digest;
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::v1::images_server::{Images, ImagesServer};
use proto::v1::{BlobChunk, BlobRequest, HasReply, HasRequest};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use super::super::Store;
use super::super::blob::Blobs;
use super::CHUNK_BYTES;

/// Chunks of one stream that may wait for the network.
const CHUNKS_MAX: usize = 2;

/// The longest request, in bytes.
const REQUEST_MAX_BYTES: usize = 1024;

/// Answers peers out of a store.
#[derive(Debug)]
pub struct Sharing {
    store: Store,
    streams: Arc<Semaphore>,
}

impl Store {
    /// Returns the service that gives peers what is in this store: all of it, so that only peers may reach it.
    ///
    /// There should be one, because its limits are its own.
    pub fn sharing(&self) -> ImagesServer<Sharing> {
        ImagesServer::new(Sharing::new(self)).max_decoding_message_size(REQUEST_MAX_BYTES)
    }
}

impl Sharing {
    pub(in super::super) fn new(store: &Store) -> Self {
        let streams = Arc::new(Semaphore::new(store.settings().peer.streams_max));
        Self { store: store.clone(), streams }
    }
}

#[tonic::async_trait]
impl Images for Sharing {
    type BlobStream = BoxStream<'static, Result<BlobChunk, Status>>;

    async fn has(&self, request: Request<HasRequest>) -> Result<Response<HasReply>, Status> {
        let digest = digest(&request.into_inner().sha256)?;
        let blobs = self.store.blobs().clone();
        let size = blocking(move || blobs.size(&digest)).await?;
        Ok(Response::new(HasReply { size }))
    }

    async fn blob(&self, request: Request<BlobRequest>) -> Result<Response<Self::BlobStream>, Status> {
        let BlobRequest { sha256, offset } = request.into_inner();
        let digest = digest(&sha256)?;
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            return Err(Status::resource_exhausted("it sends as many blobs as it may"));
        };
        let blobs = self.store.blobs().clone();
        let reading = blocking(move || Reading::open(&blobs, digest, offset)).await??;
        let (chunks, mut arriving) = mpsc::channel(CHUNKS_MAX);
        tokio::spawn(send(self.store.clone(), reading, chunks, permit));
        let mut is_over = false;
        let chunks = stream::poll_fn(move |context| {
            if is_over {
                return Poll::Ready(None);
            }
            let next = match ready!(arriving.poll_recv(context)) {
                Some(Ok(Some(bytes))) => return Poll::Ready(Some(Ok(BlobChunk { bytes }))),
                Some(Ok(None)) => None,
                Some(Err(status)) => Some(Err(status)),
                // Only the whole blob ends well.
                None => Some(Err(Status::aborted("it was taken too slowly"))),
            };
            is_over = true;
            Poll::Ready(next)
        });
        Ok(Response::new(chunks.boxed()))
    }
}

/// Sends chunk after chunk, then nothing as a sign that this was all of it.
async fn send(
    store: Store,
    mut reading: Reading,
    chunks: mpsc::Sender<Result<Option<Bytes>, Status>>,
    permit: OwnedSemaphorePermit,
) {
    let silence_max = store.settings().peer.silence_max;
    loop {
        let (read, chunk) = match blocking(move || Ok(reading.next())).await {
            Ok((read, chunk)) => (read, chunk),
            Err(status) => {
                // The receiver is gone, or it hears of it.
                let _ = timeout(silence_max, chunks.send(Err(status))).await;
                return;
            }
        };
        reading = read;
        if let Err(status) = &chunk {
            tracing::error!(blob = %reading.digest, error = status.message(), "a blob cannot be given to a peer");
        }
        let is_last = !matches!(chunk, Ok(Some(_)));
        let count = chunk.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
        match timeout(silence_max, chunks.send(chunk)).await {
            Ok(Ok(())) => store.peer_traffic().served(count),
            // It is gone, or it takes nothing.
            Ok(Err(_)) | Err(_) => return,
        }
        if is_last {
            drop(permit);
            return;
        }
    }
}

/// A blob that is read from its beginning, whatever of it is wanted: only whole it can be verified.
struct Reading {
    digest: Digest,
    file: File,
    hash: Sha256,
    size: u64,
    /// How much of it was read.
    done: u64,
    offset: u64,
}

impl Reading {
    fn open(blobs: &Blobs, digest: Digest, offset: u64) -> io::Result<Result<Self, Status>> {
        let file = match File::open(blobs.path(&digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(Status::not_found(format!("it does not have {digest}"))));
            }
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        if offset > size {
            return Ok(Err(Status::out_of_range(format!("its {digest} has {size} bytes"))));
        }
        Ok(Ok(Self { digest, file, hash: Sha256::new(), size, done: 0, offset }))
    }

    /// Returns the next chunk, nothing after the last one, or what is wrong with the blob.
    fn next(mut self) -> (Self, Result<Option<Bytes>, Status>) {
        let chunk = self.read();
        (self, chunk)
    }

    fn read(&mut self) -> Result<Option<Bytes>, Status> {
        while self.done < self.offset {
            self.piece(self.offset - self.done)?;
        }
        let chunk = if self.done < self.size { Some(self.piece(self.size - self.done)?) } else { None };
        // The last chunk is held back until it is known that they are all what they must be.
        if self.done == self.size {
            let actual = Digest::from_bytes(self.hash.clone().finalize().into());
            if actual != self.digest {
                return Err(Status::data_loss(format!("its {} is damaged: it is {actual}", self.digest)));
            }
        }
        Ok(chunk)
    }

    /// Reads and hashes the next bytes, at most a chunk.
    fn piece(&mut self, most: u64) -> Result<Bytes, Status> {
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        let most = most.min(u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX));
        (&self.file).take(most).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        if bytes.is_empty() {
            return Err(Status::data_loss(format!("its {} became shorter", self.digest)));
        }
        self.hash.update(&bytes);
        self.done += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(bytes.into())
    }
}

/// Takes the 32 bytes of a digest.
fn digest(sha256: &[u8]) -> Result<Digest, Status> {
    let bytes = sha256.try_into().map_err(|_| Status::invalid_argument("a digest has 32 bytes"))?;
    Ok(Digest::from_bytes(bytes))
}

/// Does what waits for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    done.flatten().map_err(|error| unreadable(&error))
}

/// A disk that cannot be read says nothing about the blob on others.
fn unreadable(error: &io::Error) -> Status {
    Status::failed_precondition(format!("its store cannot be read: {error}"))
}
