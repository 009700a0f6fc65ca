//! The bytes of an archive on their way: hashed, decompressed, hashed again, counted.
//!
//! ```text
//!   file ── sha256 ── gzip or zstd ── limits ── sha256 ──▶ tar
//! ```

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use control_plane::model::Digest;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

use super::{RATIO_FREE, UnpackError, UnpackLimits};

/// Bytes of the file that are read at once.
const READ_BYTES: usize = 1 << 18;

/// The most that a frame of zstd may ask to be kept in memory, in bytes.
const WINDOW_MAX: u64 = 64 << 20;

/// Bytes of one block of a tar.
const BLOCK: u64 = 512;

/// What [`Stream::names`] is while the content of a file is read.
const BODY: u64 = u64::MAX;

/// What the first bytes of a file say.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The digests of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Digests {
    /// Of the file.
    pub(in super::super) file: Digest,
    /// Of what it holds, decompressed.
    pub(in super::super) content: Digest,
}

/// An archive that is read once.
pub(super) struct Stream<'a> {
    file: &'a File,
    limits: UnpackLimits,
    read: Cell<u64>,
    decompressed: Cell<u64>,
    /// How many more bytes may come before they are no names any more.
    names: Cell<u64>,
    refused: Cell<Option<(&'static str, u64)>>,
    file_hash: RefCell<Sha256>,
    content_hash: RefCell<Sha256>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(file: &'a File, limits: &UnpackLimits) -> Self {
        Self {
            file,
            limits: *limits,
            read: Cell::new(0),
            decompressed: Cell::new(0),
            names: Cell::new(limits.names),
            refused: Cell::new(None),
            file_hash: RefCell::default(),
            content_hash: RefCell::default(),
        }
    }

    /// Begins to read; what a file is compressed with is seen by how it begins, because not all who label it tell the truth.
    pub(super) fn open(&'a self) -> io::Result<Gate<'a>> {
        let mut source = BufReader::with_capacity(READ_BYTES, Source(self));
        let head = source.fill_buf()?;
        let inner: Box<dyn Read + 'a> = if head.starts_with(&GZIP_MAGIC) {
            Box::new(flate2::bufread::MultiGzDecoder::new(source))
        } else if head.starts_with(&ZSTD_MAGIC) {
            Box::new(Zstd::new(source))
        } else {
            Box::new(source)
        };
        Ok(Gate { stream: self, inner })
    }

    /// What comes next is the head of an entry: names and attributes, which are kept in memory and must be few.
    pub(super) fn expect_names(&self) {
        self.names.set(self.limits.names);
    }

    /// What comes next is the content of a file.
    pub(super) fn expect_body(&self) {
        self.names.set(BODY);
    }

    /// Reads what is left and returns the digests of everything.
    pub(super) fn finish(&self, mut gate: Gate<'_>) -> Result<Digests, UnpackError> {
        self.expect_body();
        io::copy(&mut gate, &mut io::sink())?;
        // A decoder stops at its own end; the file may have more.
        io::copy(&mut Source(self), &mut io::sink())?;
        let digest = |hash: &RefCell<Sha256>| Digest::from_bytes(hash.take().finalize().into());
        Ok(Digests { file: digest(&self.file_hash), content: digest(&self.content_hash) })
    }

    /// Returns which limit refused to read on, if one did.
    pub(super) fn refusal(&self) -> Option<UnpackError> {
        self.refused.get().map(|(what, limit)| UnpackError::Limit { what, limit })
    }

    fn refuse(&self, what: &'static str, limit: u64) -> io::Error {
        self.refused.set(Some((what, limit)));
        io::Error::other("a limit is reached")
    }
}

/// The file, hashed and counted.
struct Source<'a>(&'a Stream<'a>);

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut &*self.0.file).read(buffer)?;
        self.0.file_hash.borrow_mut().update(&buffer[..count]);
        self.0.read.set(self.0.read.get() + count as u64);
        Ok(count)
    }
}

/// The archive, decompressed, under its limits.
pub(super) struct Gate<'a> {
    stream: &'a Stream<'a>,
    inner: Box<dyn Read + 'a>,
}

impl Read for Gate<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream;
        let count = self.inner.read(buffer)?;
        if count == 0 && stream.names.get() < BODY {
            return Ok(self.fill(buffer));
        }
        let decompressed = stream.decompressed.get() + count as u64;
        stream.decompressed.set(decompressed);
        let limits = &stream.limits;
        if decompressed > limits.archive {
            return Err(stream.refuse("bytes once it is decompressed", limits.archive));
        }
        if decompressed > RATIO_FREE && decompressed / limits.ratio > stream.read.get() {
            return Err(stream.refuse("times its size once it is decompressed", limits.ratio));
        }
        match stream.names.get().checked_sub(count as u64) {
            Some(_) if stream.names.get() == BODY => {}
            Some(left) => stream.names.set(left),
            None => return Err(stream.refuse("bytes in the names and attributes of an entry", limits.names)),
        }
        stream.content_hash.borrow_mut().update(&buffer[..count]);
        Ok(count)
    }
}

impl Gate<'_> {
    /// Completes the last block: some tools end an archive right behind the content of the last file.
    fn fill(&self, buffer: &mut [u8]) -> usize {
        let decompressed = self.stream.decompressed.get();
        let missing = usize::try_from(decompressed.next_multiple_of(BLOCK) - decompressed).unwrap_or(0);
        let count = missing.min(buffer.len());
        buffer[..count].fill(0);
        self.stream.decompressed.set(decompressed + count as u64);
        count
    }
}

/// Frames of zstd, one after the other; those that hold no data are skipped.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    is_inside: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_MAX);
        Self { source, decoder, is_inside: false }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.is_inside {
                if self.decoder.can_collect() > 0 {
                    return self.decoder.read(buffer);
                }
                if !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                    continue;
                }
                self.is_inside = false;
            }
            if self.source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => self.is_inside = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
