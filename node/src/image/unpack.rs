//! Unpacks layers, which may come from anybody.
//!
//! Nothing is resolved by joining strings: folders are opened below the root with `openat2(RESOLVE_IN_ROOT)`, so that no
//! link leads out of it. Owners are shifted into the range of sandboxes; setuid, setgid, devices, pipes and extended
//! attributes do not get in. Limits hold while the archive streams.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};

use crate::sandbox::{ID_COUNT, ID_SHIFT};

/// What an archive may hold.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Entries of any kind.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Folders a path leads through.
    pub depth: usize,
    /// Bytes of one path.
    pub path: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { entries: 500_000, bytes: 8 << 30, depth: 64, path: 1024 }
    }
}

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It cannot be read, or the disk cannot take it.
    #[error("the archive cannot be unpacked")]
    Io(#[from] io::Error),
    /// A path leads out of the root, or is none.
    #[error("{0:?} leads out of the image")]
    Path(PathBuf),
    /// Something that has no place in an image.
    #[error("{path:?} is a {kind}")]
    Kind {
        /// The entry.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A folder of the kernel as a link: whatever is mounted there would land elsewhere.
    #[error("{0:?} must not be a link")]
    KernelLink(PathBuf),
    /// A limit is reached.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
}

impl From<rustix::io::Errno> for UnpackError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Names at the root that the kernel's own file systems are mounted on.
const KERNEL_FOLDERS: [&str; 3] = ["proc", "sys", "dev"];

/// What marks a deleted file in a layer.
const WHITEOUT: &str = ".wh.";

/// What marks a folder whose lower contents are hidden.
const OPAQUE: &str = ".wh..wh..opq";

/// Unpacks a tar into a folder that is empty.
pub fn unpack(archive: impl Read, root: &Path, limits: &UnpackLimits) -> Result<(), UnpackError> {
    let root: OwnedFd = File::open(root)?.into();
    let mut archive = tar::Archive::new(archive);
    let mut unpacking = Unpacking { root, limits: *limits, entries: 0, bytes: 0 };
    for entry in archive.entries()? {
        unpacking.take(&mut entry?)?;
    }
    rustix::fs::fchown(&unpacking.root, Some(Uid::from_raw(ID_SHIFT)), Some(Gid::from_raw(ID_SHIFT)))?;
    rustix::fs::fchmod(&unpacking.root, Mode::from_raw_mode(0o755))?;
    Ok(())
}

struct Unpacking {
    root: OwnedFd,
    limits: UnpackLimits,
    entries: u64,
    bytes: u64,
}

impl Unpacking {
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::Limit { what: "entries", limit: self.limits.entries });
        }
        let given = entry.path()?.into_owned();
        let path = self.clean(&given)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            return Ok(());
        };
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        let text = name.to_string_lossy();
        if text == OPAQUE {
            rustix::fs::fsetxattr(&parent, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
            return Ok(());
        }
        if let Some(hidden) = text.strip_prefix(WHITEOUT) {
            if matches!(hidden, "" | "." | "..") {
                return Err(UnpackError::Path(given));
            }
            remove(&parent, OsStr::new(hidden))?;
            // What an overlay takes for "nothing here": a character device of zeros.
            rustix::fs::mknodat(&parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?;
            return Ok(());
        }
        let header = entry.header();
        let mode = header.mode()? & 0o1777;
        let owner = (Uid::from_raw(shifted(header.uid()?)), Gid::from_raw(shifted(header.gid()?)));
        let kind = header.entry_type();
        match kind {
            tar::EntryType::Directory => {
                make_folder(&parent, &name)?;
                let folder = open_below(&parent, Path::new(&name), OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
                rustix::fs::fchown(&folder, Some(owner.0), Some(owner.1))?;
                rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                self.file(entry, &parent, &name, mode, owner)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.ok_or_else(|| UnpackError::Path(given.clone()))?;
                let is_at_root = path.components().count() == 1;
                if is_at_root && KERNEL_FOLDERS.contains(&&*text) {
                    return Err(UnpackError::KernelLink(given));
                }
                remove(&parent, &name)?;
                rustix::fs::symlinkat(&*target, &parent, &name)?;
                let (uid, gid) = owner;
                rustix::fs::chownat(&parent, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name()?.ok_or_else(|| UnpackError::Path(given.clone()))?.into_owned();
                let target = self.clean(&target)?;
                let folder = self.folder(target.parent().unwrap_or(Path::new("")))?;
                let file = target.file_name().ok_or(UnpackError::Path(given))?;
                remove(&parent, &name)?;
                // Without AT_SYMLINK_FOLLOW, a link to a symbolic link is a second name of that link, not of what it names.
                rustix::fs::linkat(&folder, file, &parent, &name, AtFlags::empty())?;
            }
            tar::EntryType::Char | tar::EntryType::Block => {
                return Err(UnpackError::Kind { path: given, kind: "device" });
            }
            tar::EntryType::Fifo => return Err(UnpackError::Kind { path: given, kind: "named pipe" }),
            tar::EntryType::XGlobalHeader => {}
            _ => return Err(UnpackError::Kind { path: given, kind: "thing that no image has" }),
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        parent: &OwnedFd,
        name: &OsStr,
        mode: u32,
        owner: (Uid, Gid),
    ) -> Result<(), UnpackError> {
        let limit = self.limits.bytes;
        if self.bytes.saturating_add(entry.size()) > limit {
            return Err(UnpackError::Limit { what: "bytes", limit });
        }
        remove(parent, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?);
        let left = limit - self.bytes;
        // The header may lie about the size: what counts is what comes.
        let copied = io::copy(&mut entry.by_ref().take(left + 1), &mut file)?;
        self.bytes += copied;
        if copied > left {
            return Err(UnpackError::Limit { what: "bytes", limit });
        }
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(())
    }

    /// Returns a path without leading slash and dots; one that goes up is refused.
    fn clean(&self, given: &Path) -> Result<PathBuf, UnpackError> {
        let mut path = PathBuf::new();
        for component in given.components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                    return Err(UnpackError::Path(given.to_path_buf()));
                }
            }
        }
        let depth = path.components().count();
        if depth > self.limits.depth {
            let limit = u64::try_from(self.limits.depth).unwrap_or(u64::MAX);
            return Err(UnpackError::Limit { what: "folders in a path", limit });
        }
        if path.as_os_str().len() > self.limits.path {
            let limit = u64::try_from(self.limits.path).unwrap_or(u64::MAX);
            return Err(UnpackError::Limit { what: "bytes in a path", limit });
        }
        Ok(path)
    }

    /// Opens a folder below the root and makes what is missing of it; links are followed inside the root only.
    fn folder(&self, path: &Path) -> Result<OwnedFd, UnpackError> {
        let mut folder = self.root.try_clone()?;
        let mut walked = PathBuf::new();
        for part in path.components() {
            walked.push(part);
            match open_below(&self.root, &walked, OFlags::DIRECTORY) {
                Ok(next) => folder = next,
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                    folder = open_below(&self.root, &walked, OFlags::DIRECTORY)?;
                    rustix::fs::fchown(&folder, Some(Uid::from_raw(ID_SHIFT)), Some(Gid::from_raw(ID_SHIFT)))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(folder)
    }
}

/// Returns an id in the range of sandboxes; one beyond it does not exist there and becomes nobody's.
fn shifted(id: u64) -> u32 {
    /// `nobody`.
    const NOBODY: u32 = 65_534;
    ID_SHIFT + u32::try_from(id).ok().filter(|id| *id < ID_COUNT).unwrap_or(NOBODY)
}

fn open_below(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty(), resolve)
}

/// Removes what a later entry of the same name takes the place of; a folder stays, because its entry comes first.
fn remove(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(parent))).join(name);
            Ok(std::fs::remove_dir_all(path)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn make_folder(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => {
            let known = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(known.st_mode) != FileType::Directory {
                remove(parent, name)?;
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// One entry of an archive, as hostile as a header can be.
    struct Raw<'a> {
        kind: tar::EntryType,
        path: &'a str,
        link: &'a str,
        mode: u32,
        size: Option<u64>,
    }

    fn raw<'a>(kind: tar::EntryType, path: &'a str, link: &'a str) -> Raw<'a> {
        Raw { kind, path, link, mode: 0o4777, size: None }
    }

    fn file(path: &str) -> Raw<'_> {
        raw(tar::EntryType::Regular, path, "")
    }

    fn link<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
        raw(tar::EntryType::Symlink, path, target)
    }

    /// Writes headers byte by byte: a well-meant builder would refuse most of these.
    fn archive(entries: &[Raw<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(entry.kind);
            let old = header.as_old_mut();
            old.name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
            old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
            header.set_mode(entry.mode);
            header.set_uid(7);
            header.set_gid(1 << 20);
            header.set_mtime(0);
            let body: &[u8] = if entry.kind == tar::EntryType::Regular { b"body" } else { b"" };
            header.set_size(entry.size.unwrap_or(body.len() as u64));
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(body);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    /// Unpacks into a root beside a file that nothing may touch.
    fn attempt(entries: &[Raw<'_>], limits: &UnpackLimits) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let root = folder.path().join("root");
        std::fs::create_dir(&root).expect("a folder can be made");
        std::fs::write(folder.path().join("outside"), "untouched").expect("a file can be written");
        let result = unpack(&archive(entries)[..], &root, limits);
        let outside = std::fs::read_to_string(folder.path().join("outside"));
        assert_eq!(outside.expect("it is still there"), "untouched");
        let beside = std::fs::read_dir(folder.path()).expect("it can be read").count();
        assert_eq!(beside, 2, "something was written beside the root");
        (folder, result)
    }

    #[test]
    fn hostile_archives_are_refused() {
        use tar::EntryType as Kind;
        let cases: [(&str, Vec<Raw<'_>>); 11] = [
            ("a path that goes up", vec![file("../outside")]),
            ("an absolute path", vec![file("/etc/passwd")]),
            ("a path that goes up inside", vec![file("a/../../outside")]),
            ("a hard link to outside", vec![raw(Kind::Link, "a", "../outside")]),
            ("an absolute hard link", vec![raw(Kind::Link, "a", "/etc/passwd")]),
            ("a device", vec![raw(Kind::Char, "null", "")]),
            ("a disk", vec![raw(Kind::Block, "disk", "")]),
            ("a named pipe", vec![raw(Kind::Fifo, "pipe", "")]),
            ("/proc as a link", vec![link("proc", "/tmp")]),
            ("a whiteout of the parent", vec![file("a/.wh...")]),
            ("a whiteout of nothing", vec![file("a/.wh.")]),
        ];
        for (what, entries) in cases {
            let (_, result) = attempt(&entries, &UnpackLimits::default());
            assert!(result.is_err(), "{what} was taken");
        }
    }

    #[test]
    fn a_link_leads_nowhere_but_into_the_root() {
        for target in ["..", "../..", "/", "/../.."] {
            let entries = [link("door", target), file("door/outside")];
            let (folder, result) = attempt(&entries, &UnpackLimits::default());
            assert!(result.is_ok(), "{target}: {result:?}");
            assert!(folder.path().join("root/outside").exists(), "{target} is the root itself");
        }
    }

    #[test]
    fn limits_hold_while_the_archive_streams() {
        let many: Vec<Raw<'_>> = (0..4).map(|_| file("a")).collect();
        let limits = UnpackLimits { entries: 3, bytes: 100, depth: 3, path: 20 };
        let refused = |entries: &[Raw<'_>]| matches!(attempt(entries, &limits).1, Err(UnpackError::Limit { .. }));
        assert!(refused(&many), "entries");
        assert!(refused(&[file("a/b/c/d")]), "depth");
        assert!(refused(&[file("a-name-of-more-than-twenty-bytes")]), "path");
        assert!(refused(&[Raw { size: Some(1 << 40), ..file("bomb") }]), "bytes");
    }

    #[test]
    fn owners_are_shifted_and_no_mode_gives_rights() {
        let (folder, result) = attempt(&[file("a/b")], &UnpackLimits::default());
        result.expect("it is harmless");
        let metadata = std::fs::metadata(folder.path().join("root/a/b")).expect("it is there");
        assert_eq!((metadata.uid(), metadata.gid()), (ID_SHIFT + 7, ID_SHIFT + 65_534));
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o777, "setuid is gone");
    }

    #[test]
    fn a_later_entry_takes_the_place_of_an_earlier_link_and_not_of_what_it_names() {
        let (folder, result) = attempt(&[file("target"), link("a", "target"), file("a")], &UnpackLimits::default());
        result.expect("it is harmless");
        let metadata = std::fs::symlink_metadata(folder.path().join("root/a")).expect("it is there");
        assert!(metadata.is_file());
    }
}
