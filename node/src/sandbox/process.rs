//! The process of a sandbox, seen from the daemon: waited for by pidfd, never by number.
#![expect(unsafe_code, reason = "pidfd_open and waitid hand out raw results")]

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::cgroup::Cgroup;
use super::{ExitWatch, Signal};

/// What is added to the number of the signal that ended a process to make an exit code of it, as shells have it.
pub(super) const SIGNALLED: i32 = 128;

/// How a sandbox's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, if it exited and this daemon was its parent.
    pub code: Option<i32>,
    /// The signal, if one ended it and this daemon was its parent.
    pub signal: Option<i32>,
    /// Whether the kernel ended a process of the sandbox for going over its memory limit.
    pub out_of_memory: bool,
}

/// Processes that somebody waits for by pidfd, and that nobody else may reap.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<BTreeSet<i32>>>);

impl Known {
    pub(super) fn insert(&self, pid: i32) {
        self.lock().insert(pid);
    }

    pub(super) fn remove(&self, pid: i32) {
        self.lock().remove(&pid);
    }

    fn contains(&self, pid: i32) -> bool {
        self.lock().contains(&pid)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

/// One process and the task that waits for it.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    pidfd: OwnedFd,
    exit: ExitWatch,
}

impl Process {
    /// Watches a process; its cgroups tell whether it ran out of memory.
    ///
    /// A reaper ends as its child did: by a signal with the code that shells have for it, as an init cannot end by one itself.
    pub(super) fn watch(pid: i32, is_reaper: bool, cgroup: Cgroup, known: Known) -> io::Result<Self> {
        let pidfd = open(pid)?;
        // SAFETY: the duplicate is owned by the registration and stays open as long as that.
        let waiting = unsafe { AsyncFd::register(pidfd.try_clone()?) }?;
        let exit = ExitWatch::new(watch::Sender::new(None));
        let told = ExitWatch::clone(&exit);
        tokio::spawn(async move {
            // An error here means that the reactor is gone, and with it everybody who could wait.
            if waiting.readable().await.is_ok() {
                let mut ended = status(waiting.get_ref());
                if let (true, Some(code)) = (is_reaper, ended.code.filter(|code| *code > SIGNALLED)) {
                    (ended.code, ended.signal) = (None, Some(code - SIGNALLED));
                }
                known.remove(pid);
                ended.out_of_memory = cgroup.has_run_out_of_memory();
                told.send_replace(Some(ended));
            }
        });
        Ok(Self { pid, pidfd, exit })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let known = exit.wait_for(Option::is_some).await;
        known.ok().and_then(|exit| *exit).expect("the sender lives as long as this process")
    }

    pub(super) fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
        };
        // SAFETY: the pidfd is open, and no extra information is passed.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), number, std::ptr::null::<()>(), 0)
        };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::ESRCH) {
                tracing::warn!(pid = self.pid, %error, "a process could not be signalled");
            }
        }
    }
}

/// Opens a descriptor that stands for a process, whatever becomes of its number.
fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers; the descriptor it returns is owned by nobody else.
    unsafe {
        let result = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(i32::try_from(result).map_err(io::Error::other)?))
    }
}

/// Reaps a process that has ended and returns how; of one that is no child of ours nothing is known.
fn status(pidfd: &OwnedFd) -> Exit {
    let mut exit = Exit { code: None, signal: None, out_of_memory: false };
    // SAFETY: zeros are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = pidfd.as_raw_fd().unsigned_abs();
    // SAFETY: waitid writes one siginfo_t, which outlives the call.
    if unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) } != 0 {
        return exit;
    }
    // SAFETY: waitid has filled the part of the union that belongs to an ended child.
    let value = unsafe { info.si_status() };
    match info.si_code {
        libc::CLD_EXITED => exit.code = Some(value),
        _ => exit.signal = Some(value),
    }
    exit
}

/// Returns whether a process is one of libcontainer's own: they name themselves. Other children are waited for elsewhere.
fn is_of_libcontainer(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("youki:"))
}

/// Reaps children that ended and that nobody waits for: the intermediate processes of libcontainer.
pub(super) fn reap_strangers(known: &Known) {
    loop {
        // SAFETY: zeros are a valid siginfo_t, and waitid writes one.
        let peeked = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            (libc::waitid(libc::P_ALL, 0, &raw mut info, options) == 0).then(|| info.si_pid())
        };
        match peeked {
            Some(pid) if pid > 0 && !known.contains(pid) && is_of_libcontainer(pid) => {
                let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            }
            // The first that ended is somebody's: the next look comes with the next sandbox.
            Some(_) | None => return,
        }
    }
}
