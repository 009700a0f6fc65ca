//! Snapshot files: whole or not there, checksummed, the newest two kept.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// What a snapshot begins with, and with it the version of the format.
const MAGIC: [u8; 8] = *b"HRTHSNP1";

/// How many snapshots are kept: the newest may turn out to be damaged.
const KEPT: usize = 2;

/// The snapshots in one folder; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    folder: Arc<PathBuf>,
    /// One is written at a time.
    writing: Arc<Mutex<()>>,
}

impl Snapshots {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder: Arc::new(folder), writing: Arc::default() })
    }

    /// Keeps a snapshot durably and drops those that are not needed any more.
    pub(super) fn put(&self, index: u64, bytes: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().expect("no holder of this lock panics");
        let unfinished = self.folder.join("next.tmp");
        self.write(index, bytes, &unfinished).inspect_err(|_| {
            // On a full disk the half that fitted would be in the way of everybody else.
            let _ = fs::remove_file(&unfinished);
        })?;
        let mut known = self.list()?;
        known.truncate(known.len().saturating_sub(KEPT));
        for index in known {
            fs::remove_file(self.folder.join(format!("{index:016x}.snap")))?;
        }
        Ok(())
    }

    fn write(&self, index: u64, bytes: &[u8], unfinished: &std::path::Path) -> io::Result<()> {
        let mut file = File::create(unfinished)?;
        file.write_all(&MAGIC)?;
        file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(unfinished, self.folder.join(format!("{index:016x}.snap")))?;
        File::open(&*self.folder)?.sync_all()
    }

    /// Returns the newest snapshot that is whole; an error if there are some, but none is.
    pub(super) fn newest(&self) -> io::Result<Option<Vec<u8>>> {
        let known = self.list()?;
        for index in known.iter().rev() {
            let path = self.folder.join(format!("{index:016x}.snap"));
            let bytes = fs::read(&path)?;
            let checksum = bytes.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
            let is_whole = bytes.starts_with(&MAGIC) && checksum == bytes.get(12..).map(crc32fast::hash);
            if is_whole {
                return Ok(Some(bytes[12..].to_vec()));
            }
            tracing::error!(file = %path.display(), "a snapshot is damaged; an older one is used");
        }
        if known.is_empty() {
            return Ok(None);
        }
        let folder = self.folder.display();
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("every snapshot in {folder} is damaged")))
    }

    /// Returns the indexes of the snapshots that are there, lowest first.
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&*self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(index) = name.strip_suffix(".snap").and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
                found.push(index);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_snapshot_gives_way_to_the_one_before() {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let snapshots = Snapshots::open(folder.path().to_path_buf()).expect("the folder can be made");
        assert_eq!(snapshots.newest().expect("an empty folder is fine"), None);
        for index in 1..=3 {
            snapshots.put(index, format!("state {index}").as_bytes()).expect("a snapshot can be kept");
        }
        assert_eq!(snapshots.newest().expect("it is whole").as_deref(), Some(&b"state 3"[..]));
        let path = folder.path().join(format!("{:016x}.snap", 3));
        let mut bytes = fs::read(&path).expect("it can be read");
        *bytes.last_mut().expect("it is not empty") ^= 1;
        fs::write(&path, bytes).expect("it can be written");
        assert_eq!(snapshots.newest().expect("the older is whole").as_deref(), Some(&b"state 2"[..]));
        assert!(!folder.path().join(format!("{:016x}.snap", 1)).exists(), "two are kept");
    }
}
