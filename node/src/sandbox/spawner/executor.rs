//! What runs inside a blank sandbox from its creation on: waits to be told what it is, and becomes that.
//!
//! libcontainer calls it in the container's init, after the namespaces, the cgroups and the start signal. It is the last code
//! of ours in the sandbox: it takes the function's user id, gives up every capability, loads the system call filter, and
//! executes the function.
#![expect(unsafe_code, reason = "raw descriptors are inherited across the fork, and a new program is executed")]

use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid};
use serde::Serialize;

use crate::sandbox::process::SIGNALLED;
use crate::sandbox::protocol::{MESSAGE_MAX, Role, Workload};
use crate::sandbox::seccomp::Profile;

/// The descriptor of the channel inside a sandbox.
const CHANNEL_FD: RawFd = 3;

/// The exit code of a sandbox whose process could not be executed, as shells have it.
const EXEC_FAILED: i32 = 127;

/// What is said when descriptors stay open.
const NOT_CLOSED: &str = "descriptors could not be closed";

/// Becomes whatever the spawner says over a socket.
#[derive(Clone, Debug)]
pub(super) struct LateBinding {
    /// Where the workload arrives, and where a failure is told; closed by a successful exec.
    pub(super) control: RawFd,
    /// The listening socket of the channel.
    pub(super) channel: RawFd,
    /// What system calls the workload may make.
    pub(super) profile: Profile,
}

impl Executor for LateBinding {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        // SAFETY: the descriptor was opened for this executor before the fork, and nothing else in this process uses it.
        let mut control = unsafe { UnixStream::from_raw_fd(self.control) };
        let role = self.prepare().and_then(|()| receive(&mut control).map_err(BecomeError::Unbound));
        let result = role.and_then(|role| match role {
            Role::Program { workload, dismissed } => self.become_workload(&workload, dismissed),
            Role::Reaper { child, uid, gid } => self.reap(Pid::from_raw(child), uid, gid),
        });
        let error = match result {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // Nobody may be left to hear it; the exit code says that it failed.
        let _ = control.write_all(error.to_string().as_bytes());
        std::process::exit(EXEC_FAILED);
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    fn setup_envs(&self, _envs: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}

/// Why a workload could not be executed.
#[derive(Debug, thiserror::Error)]
enum BecomeError {
    #[error("nobody said what to run: {0}")]
    Unbound(#[source] io::Error),
    #[error("a text holds a zero byte: {0}")]
    Zero(#[from] NulError),
    #[error("{step}: {source}")]
    Step { step: &'static str, source: io::Error },
    #[error("{program} cannot be executed: {source}")]
    Exec { program: String, source: nix::Error },
}

impl LateBinding {
    /// Does ahead of time, while nobody waits for it, what is the same whatever this becomes.
    fn prepare(&self) -> Result<(), BecomeError> {
        let step = |step| move |source: io::Error| BecomeError::Step { step, source };
        let mut kept = [self.control, self.channel];
        kept.sort_unstable();
        // Closing the last descriptor of a namespace of a sandbox that has gone takes the kernel half a millisecond.
        close_all_but(&kept, CHANNEL_FD).map_err(step(NOT_CLOSED))?;
        drop_bounding_set().map_err(step("the bounding set could not be emptied"))
    }

    /// Becomes the function by executing it.
    fn become_workload(&self, workload: &Workload, dismissed: Option<i32>) -> Result<Infallible, BecomeError> {
        let step = |step| move |source: io::Error| BecomeError::Step { step, source };
        let errno = |name| move |source: nix::Error| BecomeError::Step { step: name, source: source.into() };
        if let Some(child) = dismissed {
            // The function is to find no child that it did not make.
            waitpid(Pid::from_raw(child), None).map_err(errno("a fork that was not needed did not end"))?;
        }
        if workload.has_channel {
            // SAFETY: dup2 touches descriptor numbers only; the copy does not close at exec, which is the point.
            if unsafe { libc::dup2(self.channel, CHANNEL_FD) } < 0 {
                return Err(step("the channel could not be handed over")(io::Error::last_os_error()));
            }
        }
        let first = if workload.has_channel { CHANNEL_FD + 1 } else { CHANNEL_FD };
        close_all_but(&[self.control], first).map_err(step(NOT_CLOSED))?;
        confine(workload.uid, workload.gid)?;
        nix::unistd::chdir(workload.cwd.as_str()).map_err(errno("the working directory could not be entered"))?;
        let program = CString::new(find(workload))?;
        let argv: Vec<CString> =
            workload.argv.iter().map(|word| CString::new(word.as_str())).collect::<Result<_, _>>()?;
        let env: Vec<CString> = workload
            .env
            .iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")))
            .collect::<Result<_, _>>()?;
        self.profile.load().map_err(step("the system call filter could not be loaded"))?;
        nix::unistd::execve(&program, &argv, &env)
            .map_err(|source| BecomeError::Exec { program: program.to_string_lossy().into_owned(), source })
    }

    /// Waits for a child, and for whatever is orphaned meanwhile, and ends as the child did.
    fn reap(&self, child: Pid, uid: u32, gid: u32) -> Result<Infallible, BecomeError> {
        let step = |step| move |source: io::Error| BecomeError::Step { step, source };
        let errno = |name| move |source: nix::Error| BecomeError::Step { step: name, source: source.into() };
        // Nothing is executed here that would close them: above all the channel.
        close_all_but(&[], CHANNEL_FD).map_err(step(NOT_CLOSED))?;
        confine(uid, gid)?;
        self.profile.load().map_err(step("the system call filter could not be loaded"))?;
        loop {
            match waitpid(None, None).map_err(errno("there is nothing to wait for"))? {
                WaitStatus::Exited(pid, code) if pid == child => std::process::exit(code),
                WaitStatus::Signaled(pid, signal, _) if pid == child => std::process::exit(SIGNALLED + signal as i32),
                _ => {}
            }
        }
    }
}

/// Closes every descriptor from `first` on but those `kept`, which are in ascending order.
///
/// All would close at exec; until then a working directory or a program by way of `/proc/self/fd` would lead through them:
/// libcontainer leaves a `/proc` open that is not the sandbox's, and the spawner holds its other sandboxes'.
fn close_all_but(kept: &[RawFd], mut first: RawFd) -> io::Result<()> {
    for kept in kept.iter().copied().chain([RawFd::MAX]) {
        if first < kept {
            // SAFETY: whatever owns these descriptors is never used or dropped again: this process executes or exits.
            let result = unsafe { libc::close_range(first.unsigned_abs(), (kept - 1).unsigned_abs(), 0) };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        first = first.max(kept.saturating_add(1));
    }
    Ok(())
}

/// Gives up every privilege and takes on a user and a group.
fn confine(uid: u32, gid: u32) -> Result<(), BecomeError> {
    let step = |step| move |source: io::Error| BecomeError::Step { step, source };
    let errno = |name| move |source: nix::Error| BecomeError::Step { step: name, source: source.into() };
    nix::unistd::setgroups(&[]).map_err(errno("groups could not be left"))?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::unistd::setresgid(gid, gid, gid).map_err(errno("the group could not be taken"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(errno("the user could not be taken"))?;
    drop_capabilities().map_err(step("capabilities could not be dropped"))
}

/// Reads the length and the JSON of a role.
fn receive(control: &mut UnixStream) -> io::Result<Role> {
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if length > MESSAGE_MAX {
        return Err(io::Error::other("the workload is over the limit"));
    }
    let mut bytes = vec![0; length];
    control.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Sends a role to a [`LateBinding`], or a workload to a guest.
pub(super) fn send(control: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    control.write_all(&[&length.to_le_bytes()[..], &bytes].concat())
}

/// Returns the path of the program, looked up as a shell does.
fn find(workload: &Workload) -> String {
    let program = workload.argv.first().map(String::as_str).unwrap_or_default();
    if program.contains('/') {
        return program.to_owned();
    }
    let path = workload.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_str()).unwrap_or_default();
    path.split(':')
        .map(|folder| format!("{folder}/{program}"))
        .find(|candidate| nix::unistd::access(candidate.as_str(), nix::unistd::AccessFlags::X_OK).is_ok())
        .unwrap_or_else(|| program.to_owned())
}

/// Takes every capability out of the bounding set, so that no later program gains one.
fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..=libc::c_ulong::from(63_u8) {
        // SAFETY: PR_CAPBSET_DROP reads its integer argument only.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            // The kernel knows fewer capabilities than the type has room for.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// Gives up every capability; changing to a user other than root did that already.
fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: capset reads a header of two words and two sets of three words, which these arrays are.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
