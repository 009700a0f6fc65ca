//! Reads a backup, and finds out whether it is whole.

use std::collections::BTreeMap;
use std::io::{self, Read};

use control_plane::codec::{self, DecodeError};
use control_plane::model::{Digest, Timestamp};
use control_plane::state::Definitions;
use prost::Message;
use proto::json::ErrorCode;
use proto::v1;
use sha2::{Digest as _, Sha256};

use super::{
    BLOB, Counts, DEFINITIONS, DEFINITIONS_MAX_BYTES, END, FORMAT, HEADER, HEADER_MAX_BYTES, Header, ImageNote, MAGIC,
    images_of,
};

/// What a backup holds, beside blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its format.
    pub format: u32,
    /// What it says about itself.
    pub header: Header,
    /// What users had defined.
    pub definitions: Definitions,
}

/// Why a file cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read, or what it holds cannot be kept.
    #[error("the backup cannot be read")]
    Io(#[source] io::Error),
    /// It is something else.
    #[error("this is no backup")]
    Foreign,
    /// A newer version wrote it.
    #[error("the backup has format {format}, this version reads up to {FORMAT}")]
    Newer {
        /// Its format.
        format: u32,
    },
    /// It ends too early.
    #[error("the backup was cut off")]
    CutOff,
    /// It is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// It holds what this version does not know.
    #[error("the backup means nothing to this version")]
    Decode(#[source] DecodeError),
}

impl ReadError {
    /// Returns what kind of error it is for whoever brought the file.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io(_) => ErrorCode::Internal,
            Self::CutOff | Self::Damaged(_) => ErrorCode::VerificationFailed,
            Self::Foreign | Self::Newer { .. } | Self::Decode(_) => ErrorCode::BadRequest,
        }
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::Foreign => Some("`hearth snapshot save FILE` writes one"),
            Self::Newer { .. } | Self::Decode(_) => Some("use the version of hearth that wrote it, or a newer one"),
            Self::CutOff | Self::Damaged(_) => Some("use another copy of it: nothing of this one was restored"),
        }
    }
}

/// Reads a whole backup and holds it against its checksum; `take` gets each blob before that is known.
pub fn read(
    file: impl Read,
    take: &mut dyn FnMut(&Digest, &mut dyn Read) -> io::Result<()>,
) -> Result<Backup, ReadError> {
    let mut file = Hashed { file, hash: Sha256::new() };
    let mut magic = [0; MAGIC.len()];
    if file.read_exact(&mut magic).is_err() || magic != MAGIC {
        return Err(ReadError::Foreign);
    }
    let format = u32::from_le_bytes(file.array()?);
    if format > FORMAT {
        return Err(ReadError::Newer { format });
    }
    let header = file.part(HEADER, HEADER_MAX_BYTES)?;
    let definitions = file.part(DEFINITIONS, DEFINITIONS_MAX_BYTES)?;
    loop {
        let before = file.hash.clone();
        let [kind] = file.array()?;
        let length = u64::from_le_bytes(file.array()?);
        match (kind, length) {
            (BLOB, 32..) => {
                let digest = Digest::from_bytes(file.array()?);
                let mut blob = Read::by_ref(&mut file).take(length - 32);
                take(&digest, &mut blob).map_err(ReadError::Io)?;
                io::copy(&mut blob, &mut io::sink()).map_err(ReadError::Io)?;
                if blob.limit() > 0 {
                    return Err(ReadError::CutOff);
                }
            }
            (END, 32) => {
                let written: [u8; 32] = file.array()?;
                if before.finalize()[..] != written {
                    return Err(ReadError::Damaged("its checksum is another one".to_owned()));
                }
                break;
            }
            _ => return Err(ReadError::Damaged(format!("it has a part of kind {kind} and {length} bytes"))),
        }
    }
    if io::copy(&mut file, &mut io::sink()).map_err(ReadError::Io)? > 0 {
        return Err(ReadError::Damaged("it goes on after its end".to_owned()));
    }
    // Only what has its checksum is looked at: whatever is wrong from here on was written so.
    let header =
        v1::BackupHeader::decode(&header[..]).map_err(|error| ReadError::Decode(DecodeError::Malformed(error)))?;
    let backup = Backup {
        format,
        header: parse(header)?,
        definitions: codec::decode_definitions(&definitions).map_err(ReadError::Decode)?,
    };
    let is_true = backup.header.counts == Counts::of(&backup.definitions)
        && backup.header.index == backup.definitions.index
        && images_of(&backup.definitions).keys().eq(backup.header.images.keys());
    if !is_true {
        return Err(ReadError::Damaged("its header is about something else".to_owned()));
    }
    Ok(backup)
}

fn parse(header: v1::BackupHeader) -> Result<Header, ReadError> {
    let mut images = BTreeMap::new();
    for image in header.images {
        let bytes = <[u8; 32]>::try_from(image.sha256);
        let bytes = bytes.map_err(|_| ReadError::Damaged("an image has a digest of another length".to_owned()))?;
        let note = ImageNote { size_bytes: image.size_bytes, is_included: image.is_included };
        images.insert(Digest::from_bytes(bytes), note);
    }
    Ok(Header {
        created_at: Timestamp::from_millis(header.created_at_ms),
        cluster: header.cluster,
        version: header.version,
        index: header.index,
        counts: Counts { apps: header.apps, functions: header.functions, revisions: header.revisions },
        nodes: header.nodes,
        images,
    })
}

/// A file of which every byte that is read is hashed.
struct Hashed<R> {
    file: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }
}

impl<R: Read> Hashed<R> {
    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], ReadError> {
        let mut bytes = [0; LENGTH];
        match self.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ReadError::CutOff),
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    /// Reads a part that must come next; memory grows with what is there, not with what is announced.
    fn part(&mut self, wanted: u8, limit: u64) -> Result<Vec<u8>, ReadError> {
        let [kind] = self.array()?;
        let length = u64::from_le_bytes(self.array()?);
        if kind != wanted || length > limit {
            return Err(ReadError::Damaged(format!("it has a part of kind {kind} and {length} bytes")));
        }
        let mut bytes = Vec::new();
        Read::by_ref(self).take(length).read_to_end(&mut bytes).map_err(ReadError::Io)?;
        if (bytes.len() as u64) < length {
            return Err(ReadError::CutOff);
        }
        Ok(bytes)
    }
}
