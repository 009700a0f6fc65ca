//! The files of the log: segments of one size, filled with zeros before they are used.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::{Found, HEAD, read};
use control_plane::raft::Record;

/// The size of a segment; a batch that needs more gets a segment of its own.
pub(super) const SEGMENT_BYTES: u64 = 16 << 20;

/// What a segment begins with, and with it the version of the format.
const MAGIC: [u8; 8] = *b"HRTHWAL1";

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DamageError {
    /// A file cannot be read or written.
    #[error("{path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A batch is bad, and it is not the last thing that was written: no power cut does that.
    #[error("{path} is damaged at offset {offset}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A segment is missing between others.
    #[error("segment {missing:016x} is missing in {folder}")]
    Missing {
        /// Where it should be.
        folder: PathBuf,
        /// Which one.
        missing: u64,
    },
    /// The file is no log, or of a newer version.
    #[error("{path} is no write-ahead log of this version")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// What a segment holds.
pub(super) struct Content {
    pub(super) records: Vec<Record>,
    /// Where the next batch goes.
    pub(super) end: u64,
    /// The number of the next batch.
    pub(super) next: u64,
    /// Whether something torn follows, which must be erased before anything is written.
    pub(super) is_torn: bool,
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> DamageError + '_ {
    |source| DamageError::Io { path: path.to_path_buf(), source }
}

/// Returns where a segment lies.
pub(super) fn path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("{segment:016x}.wal"))
}

/// Returns the numbers of all segments, lowest first; a gap between them is damage.
pub(super) fn list(folder: &Path) -> Result<Vec<u64>, DamageError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let name = entry.map_err(io_at(folder))?.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.strip_suffix(".wal").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
            found.push(number);
        }
    }
    found.sort_unstable();
    for pair in found.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(DamageError::Missing { folder: folder.to_path_buf(), missing: pair[0] + 1 });
        }
    }
    Ok(found)
}

/// Makes a segment with room for `bytes`, durably; it has its name only once it is whole.
pub(super) fn create(folder: &Path, segment: u64, bytes: u64) -> io::Result<File> {
    let unfinished = folder.join("next.tmp");
    let made = fill(folder, &unfinished, segment, bytes);
    if made.is_err() {
        // On a full disk the half that fitted would be in the way of everybody else.
        let _ = fs::remove_file(&unfinished);
    }
    made
}

fn fill(folder: &Path, unfinished: &Path, segment: u64, bytes: u64) -> io::Result<File> {
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(unfinished)?;
    file.write_all(&MAGIC)?;
    let zeros = vec![0; 1 << 20];
    let mut left = bytes.max(SEGMENT_BYTES) - 8;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all(&zeros[..part])?;
        left -= u64::try_from(part).map_err(io::Error::other)?;
    }
    file.sync_all()?;
    fs::rename(unfinished, path(folder, segment))?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// Reads a segment; only the last one may end in something torn.
pub(super) fn load(folder: &Path, segment: u64, next: u64, is_last: bool) -> Result<Content, DamageError> {
    let path = path(folder, segment);
    let bytes = fs::read(&path).map_err(io_at(&path))?;
    if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(DamageError::Foreign { path });
    }
    let mut content = Content { records: Vec::new(), end: 8, next, is_torn: false };
    let mut at = MAGIC.len();
    loop {
        match read(&bytes, at) {
            Found::Batch { number, records, end } if number == content.next || content.next == 0 => {
                content.records.extend(records);
                content.next = number + 1;
                at = end;
            }
            Found::End if bytes[at..].iter().all(|byte| *byte == 0) => break,
            Found::Batch { .. } | Found::End | Found::Bad => {
                if !is_last || is_followed(&bytes, at, content.next) {
                    let offset = u64::try_from(at).unwrap_or(u64::MAX);
                    return Err(DamageError::Damaged { path, offset });
                }
                content.is_torn = true;
                break;
            }
        }
    }
    content.end = u64::try_from(at).unwrap_or(u64::MAX);
    Ok(content)
}

/// Returns whether a whole batch with a later number than the expected one follows: then it was not the last write that is bad.
fn is_followed(bytes: &[u8], bad: usize, expected: u64) -> bool {
    (bad + 1..bytes.len().saturating_sub(HEAD))
        .any(|at| bytes[at] != 0 && matches!(read(bytes, at), Found::Batch { number, .. } if number > expected))
}

/// Overwrites everything from an offset on with zeros, durably.
pub(super) fn erase(file: &File, from: u64) -> io::Result<()> {
    let length = file.metadata()?.len();
    let zeros = vec![0; 1 << 20];
    let mut at = from;
    while at < length {
        let part = usize::try_from(length - at).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all_at(&zeros[..part], at)?;
        at += u64::try_from(part).map_err(io::Error::other)?;
    }
    file.sync_data()
}
