//! Binds a function's root into a blank sandbox from outside.
//!
//! The overlay is mounted detached, moved into the mount namespace of the sandbox, and pivoted to; the init of the sandbox
//! waits meanwhile, and its root moves with the pivot. `/proc`, `/dev` and `/sys` move along with what is masked in them.
//! The caller is single-threaded, so that it may enter another mount namespace and come back.
#![expect(unsafe_code, reason = "the mount calls used here take raw descriptors and have no safe wrapper in use here")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

/// Why a root could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct BindError {
    step: &'static str,
    source: io::Error,
}

fn at(step: &'static str) -> impl Fn(rustix::io::Errno) -> BindError {
    move |source| BindError { step, source: source.into() }
}

/// Returns a detached, read-only overlay of directories, lowest first.
pub(super) fn overlay(layers: &[PathBuf]) -> Result<OwnedFd, BindError> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("overlay is not available"))?;
    // The kernel wants the uppermost first.
    for layer in layers.iter().rev() {
        fsconfig_set_string(context.as_fd(), "lowerdir+", layer.as_path())
            .map_err(at("a layer could not be added to the overlay"))?;
    }
    fsconfig_create(context.as_fd()).map_err(at("the overlay could not be made"))?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("the overlay could not be mounted"))
}

/// Returns a detached tmpfs for `/tmp`.
pub(super) fn temporary(bytes: u64) -> Result<OwnedFd, BindError> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("tmpfs is not available"))?;
    fsconfig_set_string(context.as_fd(), "size", bytes.to_string()).map_err(at("the size of /tmp is not taken"))?;
    fsconfig_set_string(context.as_fd(), "mode", "1777").map_err(at("the mode of /tmp is not taken"))?;
    fsconfig_create(context.as_fd()).map_err(at("/tmp could not be made"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("/tmp could not be mounted"))
}

/// Makes `root` the root of the sandbox whose mount namespace is given, with `/tmp` in it, and returns home.
pub(super) fn bind_root(
    sandbox: &File,
    home: &File,
    root: &OwnedFd,
    temporary: &OwnedFd,
    has_sys: bool,
) -> Result<(), BindError> {
    let result = enter(sandbox).and_then(|()| attach(root, temporary, has_sys));
    let returned = enter(home);
    // A spawner that cannot come home would work in a stranger's mount namespace from here on.
    assert!(returned.is_ok(), "the spawner could not return to its own mount namespace");
    result
}

fn enter(namespace: &File) -> Result<(), BindError> {
    // SAFETY: setns reads its integer arguments; the process has one thread.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } == 0 {
        Ok(())
    } else {
        Err(last("a mount namespace could not be entered"))
    }
}

fn attach(root: &OwnedFd, temporary: &OwnedFd, has_sys: bool) -> Result<(), BindError> {
    attach_mount(root, "/newroot").map_err(|source| BindError { step: "the root could not be attached", source })?;
    let kept: &[&str] = if has_sys { &["proc", "dev", "sys"] } else { &["proc", "dev"] };
    for folder in kept {
        // Not by MS_MOVE: that would follow a link which a layer has in the place of a folder.
        let result = move_mount(libc::AT_FDCWD, &format!("/{folder}"), &format!("/newroot/{folder}"));
        result.map_err(|source| BindError { step: "a file system of the kernel could not be moved", source })?;
    }
    attach_mount(temporary, "/newroot/tmp")
        .map_err(|source| BindError { step: "/tmp could not be attached", source })?;
    pivot("/newroot")
}

/// Makes `root` the root of the calling process, in a mount namespace of its own; `at` is where it is mounted on the way.
pub(super) fn enter_root(root: &OwnedFd, at: &str) -> Result<(), BindError> {
    // SAFETY: unshare takes an integer; the process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(last("a mount namespace could not be made"));
    }
    attach_mount(root, at).map_err(|source| BindError { step: "the root could not be attached", source })?;
    pivot(at)
}

/// Makes a mount the root of its mount namespace, and takes away what was the root before.
fn pivot(new_root: &str) -> Result<(), BindError> {
    let (new_root, here) = (path(new_root), path("."));
    // SAFETY: the paths are zero-terminated and outlive the calls; pivoting "." onto "." is what pivot_root(2) describes,
    // and the old root that ends up on top is unmounted right away.
    unsafe {
        if libc::chdir(new_root.as_ptr()) != 0 {
            return Err(last("the root could not be entered"));
        }
        if libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()) != 0 {
            return Err(last("the root could not be made the root"));
        }
        if libc::umount2(here.as_ptr(), libc::MNT_DETACH) != 0 {
            return Err(last("the blank root could not be taken away"));
        }
    }
    Ok(())
}

fn attach_mount(mount: &OwnedFd, target: &str) -> io::Result<()> {
    move_mount(mount.as_raw_fd(), "", target)
}

/// Moves the mount at `from`, below a descriptor or that descriptor itself, to `target`; follows no link at the end of either.
fn move_mount(descriptor: RawFd, from: &str, target: &str) -> io::Result<()> {
    let flags = if from.is_empty() { libc::MOVE_MOUNT_F_EMPTY_PATH } else { 0 };
    let (from, target) = (path(from), path(target));
    // SAFETY: both paths are zero-terminated and outlive the call, which changes no memory of this process.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, descriptor, from.as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn path(text: &str) -> CString {
    CString::new(text).expect("the paths of this file hold no zero byte")
}

fn last(step: &'static str) -> BindError {
    BindError { step, source: io::Error::last_os_error() }
}

/// Opens a namespace of a process.
pub(super) fn namespace(process: impl std::fmt::Display, kind: &str) -> io::Result<File> {
    File::open(Path::new("/proc").join(process.to_string()).join("ns").join(kind))
}

/// Opens a descriptor that stands for a process and its namespaces.
pub(super) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process has this number"))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}
