//! Writes a backup from its beginning to its end, without going back.

use std::io::{self, Read, Write};

use control_plane::model::Digest;
use prost::Message;
use proto::v1;
use sha2::{Digest as _, Sha256};

use super::{BLOB, DEFINITIONS, END, FORMAT, HEADER, Header, MAGIC};

/// Bytes of a blob that are copied at once.
const PIECE_BYTES: usize = 256 << 10;

/// A backup that is being written; without [`finish`](Self::finish) whoever reads it knows that it was cut off.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Writer<W> {
    /// Begins a backup with all that users have defined, as [`encode_definitions`](control_plane::codec::encode_definitions) returns it.
    pub fn begin(out: W, header: &Header, definitions: &[u8]) -> io::Result<Self> {
        let mut writer = Self { out, hash: Sha256::new() };
        writer.put(&MAGIC)?;
        writer.put(&FORMAT.to_le_bytes())?;
        for (kind, content) in [(HEADER, &on_wire(header).encode_to_vec()[..]), (DEFINITIONS, definitions)] {
            writer.open(kind, content.len() as u64)?;
            writer.put(content)?;
        }
        Ok(writer)
    }

    /// Adds a blob of `length` bytes; one that is not what its digest says is refused.
    pub fn blob(&mut self, digest: &Digest, length: u64, mut content: impl Read) -> io::Result<()> {
        self.open(BLOB, 32 + length)?;
        self.put(digest.as_bytes())?;
        let (mut actual, mut left) = (Sha256::new(), length);
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            content.read_exact(&mut piece[..wanted])?;
            actual.update(&piece[..wanted]);
            self.put(&piece[..wanted])?;
            left -= wanted as u64;
        }
        if actual.finalize()[..] != digest.as_bytes()[..] {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("blob {digest} is damaged")));
        }
        Ok(())
    }

    /// Ends the backup and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        let whole = self.hash.clone().finalize();
        self.open(END, whole.len() as u64)?;
        self.put(&whole)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn open(&mut self, kind: u8, length: u64) -> io::Result<()> {
        self.put(&[kind])?;
        self.put(&length.to_le_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

fn on_wire(header: &Header) -> v1::BackupHeader {
    let images = header.images.iter().map(|(digest, note)| v1::BackupImage {
        sha256: digest.as_bytes().to_vec(),
        size_bytes: note.size_bytes,
        is_included: note.is_included,
    });
    v1::BackupHeader {
        created_at_ms: header.created_at.as_millis(),
        cluster: header.cluster.clone(),
        version: header.version.clone(),
        index: header.index,
        apps: header.counts.apps,
        functions: header.counts.functions,
        revisions: header.counts.revisions,
        nodes: header.nodes,
        images: images.collect(),
    }
}
