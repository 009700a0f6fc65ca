//! What lies where on disk, which format it has, and who may use it.
//!
//! ```text
//! /var/lib/hearth/        kept for ever; readable only as far as sandboxes and users of the socket need
//!     FORMAT              names the layout; a newer one is refused
//!     LOCK                locked by the one agent that uses the directory, holds its process id
//!     token               what callers of the API over TCP show
//!     hearth.sock         the API for callers on this machine
//!     cluster/            which node of which cluster this is
//!     raft/               what the cluster agreed on
//!     images/             blobs and unpacked layers
//!     logs/               what functions wrote
//!     index/              rebuildable indexes
//!     uploads/            sources on their way to the builder; emptied at every start
//! /run/hearth/<hash>/     gone after a reboot; the hash is of the data directory's path
//!     agent.json          which agent uses that data directory
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Where data lies unless configured.
pub const DATA_DIR_DEFAULT: &str = "/var/lib/hearth";

/// Where what a reboot ends lies unless configured; on tmpfs.
pub const RUN_ROOT_DEFAULT: &str = "/run/hearth";

/// The layout this version writes and reads.
pub const FORMAT: u32 = 1;

/// The longest path of a socket, in bytes: the kernel takes 107, and it is made under a name that is longer by one.
pub const SOCKET_PATH_MAX_BYTES: usize = 106;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_PREFIX: &str = "hearth data directory, format ";
const LOCK_FILE: &str = "LOCK";
const AGENT_FILE: &str = "agent.json";
const SOCKET_FILE: &str = "hearth.sock";
/// The rooms and who may look into them: sandboxes see layers of images through their mounts, nobody the rest.
const ROOMS: [(&str, u32); 6] =
    [("cluster", 0o700), ("raft", 0o700), ("images", 0o755), ("logs", 0o700), ("index", 0o700), (UPLOADS, 0o700)];

const UPLOADS: &str = "uploads";

/// Where in the run directory sandboxes lie as long as they are there.
const RUN_FOLDERS: [&str; 2] = ["sandboxes", "containers"];

/// How much of a small file is read at most, in bytes: a damaged one may have any length.
const SMALL_FILE_MAX_BYTES: u64 = 64 * 1024;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent uses it.
    #[error("data directory {} is in use{}", path.display(), by(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process id of the agent, where its lock file tells it.
        pid: Option<u32>,
    },
    /// A newer version of Hearth wrote it.
    #[error("data directory {} has format {found}, this version knows up to {FORMAT}", path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// The format it has.
        found: u32,
    },
    /// A file does not hold what it must.
    #[error("{} is damaged: {reason}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The path is too long for the socket inside.
    #[error(
        "the path {} is {} bytes too long for a socket",
        path.display(),
        path.as_os_str().len().saturating_sub(SOCKET_PATH_MAX_BYTES)
    )]
    PathTooLong {
        /// The path of the socket.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it was refused.
        source: io::Error,
    },
}

impl OpenError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Locked { pid: Some(pid), .. } => {
                Some(format!("use that agent, stop it with `kill {pid}`, or choose another directory with --data-dir"))
            }
            Self::Locked { pid: None, .. } | Self::PathTooLong { .. } => {
                Some("choose another directory with --data-dir".to_owned())
            }
            Self::NewerFormat { .. } => Some("run the version of hearth that wrote it, or a newer one".to_owned()),
            Self::Damaged { .. } => Some(
                "if this is a data directory of hearth, restore it from a backup; else choose another with --data-dir"
                    .to_owned(),
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run hearth as root".to_owned())
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk".to_owned())
            }
            Self::Io { .. } => None,
        }
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

/// An agent that uses a data directory on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process id.
    pub pid: u32,
    /// Its data directory, absolute.
    pub data_dir: PathBuf,
    /// The socket of its API.
    pub socket: PathBuf,
}

/// A data directory that this process alone uses, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    run: PathBuf,
    /// Held for its lock.
    lock: File,
}

impl DataDir {
    /// Takes the directory at `root`, making it if it is not there, and its run directory below `run_root`.
    ///
    /// Fails when another process has it, when a newer version wrote it, or when its format file is damaged.
    pub fn open(root: &Path, run_root: &Path) -> Result<Self, OpenError> {
        make_dir(root, 0o755)?;
        let root = fs::canonicalize(root).map_err(failed("resolve", root))?;
        if root.as_os_str().len() + 1 + SOCKET_FILE.len() > SOCKET_PATH_MAX_BYTES {
            return Err(OpenError::PathTooLong { path: root.join(SOCKET_FILE) });
        }
        let lock = lock(&root)?;
        check_format(&root)?;
        for (room, mode) in ROOMS {
            make_dir(&root.join(room), mode)?;
        }
        empty(&root.join(UPLOADS))?;
        make_dir(run_root, 0o755)?;
        let run = run_root.join(run_name(&root));
        make_dir(&run, 0o755)?;
        let this = Self { root, run, lock };
        this.announce()?;
        Ok(this)
    }

    /// Returns the directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where it is kept which node of which cluster this is.
    pub fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    /// Returns where the Raft log and its snapshots lie.
    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// Returns where images lie.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Returns where the output of functions lies.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Returns where rebuildable indexes lie.
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Returns where uploads lie until they are built. It is on the disk, not on tmpfs: they may be large.
    pub fn uploads(&self) -> PathBuf {
        self.root.join(UPLOADS)
    }

    /// Returns the file with the token of the API.
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// Returns the socket of the API.
    pub fn socket(&self) -> PathBuf {
        socket_of(&self.root)
    }

    /// Returns the directory for what a reboot ends: sandboxes and their sockets.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Tells other processes which agent uses this directory.
    fn announce(&self) -> Result<(), OpenError> {
        let running = Running { pid: std::process::id(), data_dir: self.root.clone(), socket: self.socket() };
        let text = serde_json::to_vec(&running).map_err(|error| failed("write", &self.run)(error.into()))?;
        let path = self.run.join(AGENT_FILE);
        replace_file(&path, &text, 0o644).map_err(failed("write", &path))
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // Whoever finds one of these stale still sees that the directory is not locked.
        let _ = fs::remove_file(self.run.join(AGENT_FILE));
        let _ = fs::remove_file(self.socket());
        // Instances that go on keep theirs, and with them the folder.
        let holds_something =
            |folder: &str| fs::read_dir(self.run.join(folder)).is_ok_and(|mut entries| entries.next().is_some());
        if !RUN_FOLDERS.into_iter().any(holds_something) {
            let _ = fs::remove_dir_all(&self.run);
        }
        // A process that is just being started holds a copy of every descriptor until it executes, and with it the lock: closing
        // ours would not end it.
        let mut unlock = whole_file_lock();
        unlock.l_type = libc::F_UNLCK.try_into().expect("the kernel's constant fits the kernel's field");
        let _ = fcntl(&self.lock, FcntlArg::F_OFD_SETLK(&unlock));
    }
}

/// Returns the socket of the API of the agent that uses the data directory `root`.
pub fn socket_of(root: &Path) -> PathBuf {
    root.join(SOCKET_FILE)
}

/// Returns the agents that run on this machine with run directories below `run_root`, by data directory.
///
/// What a killed agent left behind is passed over: its data directory is not locked.
pub fn running(run_root: &Path) -> Vec<Running> {
    let Ok(entries) = fs::read_dir(run_root) else { return Vec::new() };
    let mut found: Vec<Running> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| read_small(&entry.path().join(AGENT_FILE)).ok())
        .filter_map(|text| serde_json::from_slice(&text).ok())
        .filter(|running: &Running| is_locked(&running.data_dir))
        .collect();
    found.sort_by(|one, other| one.data_dir.cmp(&other.data_dir));
    found
}

/// Replaces a file so that a crash leaves either the old content or all of the new one, durably.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = path.parent().ok_or_else(|| io::Error::other("a file lies in a folder"))?;
    let mut name = path.file_name().ok_or_else(|| io::Error::other("a file has a name"))?.to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    // An interrupted attempt may have left one, with another mode.
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&temporary)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn run_name(root: &Path) -> String {
    let hash = Sha256::digest(root.as_os_str().as_encoded_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn make_dir(path: &Path, mode: u32) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("make the directory", path))
}

/// Deletes what a crash left in a folder.
fn empty(folder: &Path) -> Result<(), OpenError> {
    for entry in fs::read_dir(folder).map_err(failed("read", folder))? {
        let entry = entry.map_err(failed("read", folder))?;
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let deleted = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        deleted.map_err(failed("delete", &path))?;
    }
    Ok(())
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + use<'a> {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(SMALL_FILE_MAX_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// Locks the directory and leaves this process's id in the lock file.
fn lock(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK_FILE);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed("open", &path))?;
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file_lock())) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let text = read_small(&path).unwrap_or_default();
            let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
            return Err(OpenError::Locked { path: root.to_owned(), pid });
        }
        Err(error) => return Err(failed("lock", &path)(error.into())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed("write", &path))?;
    Ok(file)
}

/// Returns whether an agent uses the directory; it only asks, so it cannot get in the way of one that starts.
fn is_locked(root: &Path) -> bool {
    let Ok(file) = File::open(root.join(LOCK_FILE)) else { return false };
    let mut lock = whole_file_lock();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

/// Describes an exclusive lock on a whole file that belongs to the open file, not to the process: it ends with the
/// descriptor, and two openings within one process exclude each other too.
fn whole_file_lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK.try_into().expect("the kernel's constant fits the kernel's field"),
        l_whence: libc::SEEK_SET.try_into().expect("the kernel's constant fits the kernel's field"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Refuses a format that is not ours, and writes ours into a directory that has none and holds nothing.
fn check_format(root: &Path) -> Result<(), OpenError> {
    let path = root.join(FORMAT_FILE);
    let damaged = |reason: &str| OpenError::Damaged { file: path.clone(), reason: reason.to_owned() };
    match read_small(&path) {
        Ok(content) => {
            let text = std::str::from_utf8(&content).map_err(|_| damaged("it is not text"))?;
            let number = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.strip_suffix('\n'));
            match number.and_then(|number| number.parse::<u32>().ok()) {
                None => Err(damaged("it does not name a format")),
                Some(0) => Err(damaged("there is no format 0")),
                Some(found) if found > FORMAT => Err(OpenError::NewerFormat { path: root.to_owned(), found }),
                Some(_) => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if ROOMS.iter().any(|(room, _)| root.join(room).exists()) {
                return Err(damaged("it is missing, and the directory is not empty"));
            }
            let text = format!("{FORMAT_PREFIX}{FORMAT}\n");
            replace_file(&path, text.as_bytes(), 0o644).map_err(failed("write", &path))
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Result<DataDir, OpenError> {
        DataDir::open(&folder.join("data"), &folder.join("run"))
    }

    #[test]
    fn a_second_agent_is_told_who_has_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path()).unwrap();
        let told = open(folder.path()).unwrap_err().to_string();
        assert!(told.ends_with(&format!("is in use by process {}", std::process::id())), "{told}");
        drop(first);
        open(folder.path()).unwrap();
    }

    #[test]
    fn running_agents_are_found_and_dead_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let data = open(folder.path()).unwrap();
        let found = running(&folder.path().join("run"));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pid, found[0].socket.clone()), (std::process::id(), data.socket()));

        // What a killed agent leaves: the file, without the lock.
        let file = data.run().join(AGENT_FILE);
        let left = fs::read(&file).unwrap();
        drop(data);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, left).unwrap();
        assert_eq!(running(&folder.path().join("run")), []);
    }

    #[test]
    fn a_run_directory_goes_with_its_agent_unless_something_runs_on() {
        let folder = tempfile::tempdir().unwrap();
        let data = open(folder.path()).unwrap();
        let run = data.run().to_owned();
        fs::create_dir_all(run.join("sandboxes")).unwrap();
        fs::create_dir_all(run.join("skeleton/etc")).unwrap();
        drop(data);
        assert!(!run.exists());

        let data = open(folder.path()).unwrap();
        fs::create_dir_all(run.join("sandboxes/one")).unwrap();
        drop(data);
        assert!(run.join("sandboxes/one").exists() && !run.join(AGENT_FILE).exists());
    }

    #[test]
    fn formats_that_are_not_ours_are_refused_by_name() {
        for (content, expected) in [
            ("hearth data directory, format 2\n", "has format 2, this version knows up to 1"),
            ("hearth data directory, format 0\n", "FORMAT is damaged: there is no format 0"),
            ("", "FORMAT is damaged: it does not name a format"),
            ("hearth data directory, format 1", "FORMAT is damaged: it does not name a format"),
            ("\0\0\0\0", "FORMAT is damaged: it does not name a format"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            drop(open(folder.path()).unwrap());
            fs::write(folder.path().join("data/FORMAT"), content).unwrap();
            let told = open(folder.path()).unwrap_err().to_string();
            assert!(told.ends_with(expected), "{content:?}: {told}");
        }
    }

    #[test]
    fn what_a_crash_left_of_uploads_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let data = open(folder.path()).unwrap();
        fs::write(data.uploads().join("1-1.tar"), "half").unwrap();
        fs::create_dir_all(data.uploads().join("source-1/src")).unwrap();
        fs::write(data.logs().join("kept"), "whole").unwrap();
        drop(data);
        let data = open(folder.path()).unwrap();
        assert_eq!(fs::read_dir(data.uploads()).unwrap().count(), 0);
        assert!(data.logs().join("kept").exists());
    }

    #[test]
    fn a_lost_format_file_is_not_taken_for_an_empty_directory() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()).unwrap());
        fs::remove_file(folder.path().join("data/FORMAT")).unwrap();
        assert!(matches!(open(folder.path()), Err(OpenError::Damaged { .. })));
    }

    #[test]
    fn a_path_too_long_for_the_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("d".repeat(120));
        assert!(matches!(DataDir::open(&long, &folder.path().join("run")), Err(OpenError::PathTooLong { .. })));
    }
}
