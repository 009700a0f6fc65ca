//! Unpacks layers, which may come from anybody.
//!
//! Nothing is resolved by joining strings: folders are opened below the root with `openat2(RESOLVE_IN_ROOT)`, so that no
//! link leads out of it. Owners are shifted into the range of sandboxes; setuid, setgid, devices, pipes and extended
//! attributes do not get in. Limits hold while the archive streams, decompression included.

mod archive;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use control_plane::model::Digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};

use self::archive::{Gate, Stream};
use crate::sandbox::{ID_COUNT, ID_SHIFT};

pub(super) use self::archive::Digests;

/// What an archive may hold.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Entries of any kind.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of the archive once it is decompressed.
    pub archive: u64,
    /// How many bytes may come out of one that goes in, once more than [`RATIO_FREE`] have.
    pub ratio: u64,
    /// Bytes of names and attributes of one entry.
    pub names: u64,
    /// Folders a path leads through.
    pub depth: usize,
    /// Bytes of one path.
    pub path: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self { entries: 500_000, bytes: 8 << 30, archive: 9 << 30, ratio: 250, names: 1 << 20, depth: 64, path: 1024 }
    }
}

/// Bytes that may come out of however few: what is small cannot fill a disk.
pub const RATIO_FREE: u64 = 64 << 20;

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
    /// It is another archive than was named.
    #[error("{expected} is damaged: it is {actual}")]
    Digest {
        /// What it must be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
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

/// What marks an opaque folder for an overlay.
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Unpacks a tar into a folder that is empty; it may be compressed by gzip or zstd.
pub fn unpack(archive: &File, root: &Path, limits: &UnpackLimits) -> Result<(), UnpackError> {
    unpack_layer(archive, root, limits).map(drop)
}

/// Unpacks a layer into a folder that is empty; returns the digests of what was read, as it is and decompressed.
pub(super) fn unpack_layer(archive: &File, root: &Path, limits: &UnpackLimits) -> Result<Digests, UnpackError> {
    let stream = Stream::new(archive, limits);
    // What a limit refused looks like a broken archive to whoever reads it.
    unpack_stream(&stream, root, limits).map_err(|error| stream.refusal().unwrap_or(error))
}

fn unpack_stream(stream: &Stream<'_>, root: &Path, limits: &UnpackLimits) -> Result<Digests, UnpackError> {
    let root: OwnedFd = File::open(root)?.into();
    let mut archive = tar::Archive::new(stream.open()?);
    let place = rustix::fs::fstat(&root)?;
    let mut unpacking =
        Unpacking { root, place: (place.st_dev, place.st_ino), limits: *limits, stream, entries: 0, bytes: 0 };
    let mut entries = archive.entries()?;
    loop {
        stream.expect_names();
        let Some(entry) = entries.next() else { break };
        unpacking.take(&mut entry?)?;
    }
    rustix::fs::fchown(&unpacking.root, Some(Uid::from_raw(ID_SHIFT)), Some(Gid::from_raw(ID_SHIFT)))?;
    rustix::fs::fchmod(&unpacking.root, Mode::from_raw_mode(0o755))?;
    stream.finish(archive.into_inner())
}

/// Returns whether a layer hides everything below its root.
pub(super) fn is_opaque(root: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(root, OPAQUE_ATTRIBUTE, &mut value[..]).is_ok_and(|length| length == 1 && value == *b"y")
}

struct Unpacking<'a> {
    root: OwnedFd,
    /// Device and inode of the root.
    place: (u64, u64),
    limits: UnpackLimits,
    stream: &'a Stream<'a>,
    entries: u64,
    bytes: u64,
}

impl Unpacking<'_> {
    fn take(&mut self, entry: &mut tar::Entry<'_, Gate<'_>>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(UnpackError::Limit { what: "entries", limit: self.limits.entries });
        }
        let given = entry.path()?.into_owned();
        // Some tools write the root itself like this; any other absolute path is refused.
        let path = if given == Path::new("/") { PathBuf::new() } else { self.clean(&given)? };
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            return Ok(());
        };
        let parent = self.folder(path.parent().unwrap_or(Path::new("")))?;
        let text = name.to_string_lossy();
        if text == OPAQUE {
            return hide_below(&parent);
        }
        if let Some(hidden) = text.strip_prefix(WHITEOUT) {
            if matches!(hidden, "" | "." | "..") {
                return Err(UnpackError::Path(given));
            }
            return white_out(&parent, OsStr::new(hidden));
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
                if self.is_root(&parent)? && KERNEL_FOLDERS.contains(&&*text) {
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

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, Gate<'_>>,
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
        self.stream.expect_body();
        // The header may lie about the size: what counts is what comes.
        let copied = io::copy(&mut entry.by_ref().take(left + 1), &mut file)?;
        self.bytes += copied;
        if copied > left {
            return Err(UnpackError::Limit { what: "bytes", limit });
        }
        if copied < entry.size() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        rustix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
        Ok(())
    }

    /// Returns whether a folder is the root, by whatever path it was reached.
    fn is_root(&self, folder: &OwnedFd) -> Result<bool, UnpackError> {
        let place = rustix::fs::fstat(folder)?;
        Ok((place.st_dev, place.st_ino) == self.place)
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
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
                    make_folder(&folder, part.as_os_str())?;
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

/// Makes a folder; what else is there gives way, and where it was deleted, nothing below shows through.
fn make_folder(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
    match make() {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => {
            let known = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(known.st_mode) {
                FileType::Directory => Ok(()),
                kind => {
                    remove(parent, name)?;
                    make()?;
                    // Archives have no devices: this one is ours.
                    if kind == FileType::CharacterDevice {
                        let folder = open_below(parent, Path::new(name), OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
                        hide_below(&folder)?;
                    }
                    Ok(())
                }
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Hides what layers below have in a folder.
fn hide_below(folder: &OwnedFd) -> Result<(), UnpackError> {
    Ok(rustix::fs::fsetxattr(folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())?)
}

/// Deletes a name of the layers below; what this layer has under that name stays, whichever came first.
fn white_out(parent: &OwnedFd, name: &OsStr) -> Result<(), UnpackError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(known) if FileType::from_raw_mode(known.st_mode) == FileType::Directory => {
            hide_below(&open_below(parent, Path::new(name), OFlags::DIRECTORY | OFlags::NOFOLLOW)?)
        }
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            // What an overlay takes for "nothing here": a character device of zeros.
            Ok(rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)?)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
