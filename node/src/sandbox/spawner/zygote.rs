//! A warmed Python interpreter that forks itself into blank sandboxes: started, told what it must know, asked for children.
//!
//! It is a child of the spawner and ends with it; what it forked lives on. Its other half is `languages/python3/zygote.py`.
#![expect(unsafe_code, reason = "the interpreter gets its root between fork and exec")]

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use super::bind;
use crate::sandbox::ZygoteSpec;
use crate::sandbox::layout::Layout;
use crate::sandbox::protocol::MESSAGE_MAX;
use crate::sandbox::seccomp::Profile;
use crate::sandbox::spec::{files_max, process_limits};

/// The script that the interpreter runs.
const SCRIPT: &str = "/opt/hearth/zygote.py";

/// How long a fork into a sandbox may take: a thousand times what it takes.
const FORK_MAX: Duration = Duration::from_secs(5);

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 4096;

/// What it is told once.
#[derive(Serialize)]
struct Setup {
    /// Programs of the system call filter, in hexadecimal digits.
    filters: Vec<String>,
    /// The most open files of a child.
    files: u64,
    /// Limits of a child by their numbers.
    limits: Vec<(u32, u64)>,
}

/// What it answers to a fork.
#[derive(Deserialize)]
struct Answer {
    pid: Option<i32>,
    error: Option<String>,
}

/// A zygote and the socket to it.
pub(super) struct Zygote {
    child: Child,
    socket: OwnedFd,
    is_warm: bool,
}

/// What a child is to have as its descriptors 0 to 4.
pub(super) struct Entry<'a> {
    pub(super) stdin: BorrowedFd<'a>,
    pub(super) stdout: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) channel: BorrowedFd<'a>,
    pub(super) control: BorrowedFd<'a>,
}

impl Zygote {
    /// Starts an interpreter, which then warms up by itself.
    pub(super) fn start(layout: &Layout, spec: &ZygoteSpec, profile: &Profile) -> Result<Self, String> {
        let root = bind::overlay(&[layout.skeleton(), spec.layer.clone(), layout.zygote()])
            .map_err(|error| error.to_string())?;
        let at = layout.blank_root().join("newroot").to_string_lossy().into_owned();
        let begin = || -> io::Result<Self> {
            let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
            for end in [&socket, &theirs] {
                setsockopt(end, sockopt::SndBuf, &(2 * MESSAGE_MAX))?;
            }
            let limit = TimeVal::milliseconds(i64::try_from(FORK_MAX.as_millis()).map_err(io::Error::other)?);
            setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
            let mut command = Command::new(&spec.interpreter);
            command.arg(SCRIPT).env_clear().env("LANG", "C.UTF-8").env("PATH", "/usr/local/bin:/usr/bin:/bin");
            command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
            // SAFETY: this process has one thread, so that its child may do between fork and exec whatever it could do.
            unsafe {
                command.pre_exec(move || {
                    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                    bind::enter_root(&root, &at).map_err(io::Error::other)
                });
            }
            let zygote = Self { child: command.spawn()?, socket, is_warm: false };
            let limits = process_limits().into_iter().map(|limit| (limit.number, limit.value)).collect();
            let setup = Setup { filters: profile.programs(), files: files_max(), limits };
            let home = bind::namespace("self", "pid")?;
            zygote.send(&serde_json::to_vec(&setup)?, &[home.as_raw_fd()])?;
            Ok(zygote)
        };
        begin().map_err(|error| format!("the zygote could not be started: {error}"))
    }

    fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; ANSWER_MAX];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zygote has ended"));
        }
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Returns whether it can fork by now.
    pub(super) fn is_warm(&mut self) -> io::Result<bool> {
        if !self.is_warm {
            let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if nix::poll::poll(&mut socket, PollTimeout::ZERO)? > 0 {
                self.receive()?;
                self.is_warm = true;
            }
        }
        Ok(self.is_warm)
    }

    /// Forks a child into the sandbox behind a pidfd and returns its number there.
    pub(super) fn fork_into(
        &mut self,
        sandbox: BorrowedFd<'_>,
        entry: &Entry<'_>,
        cgroups: &[std::fs::File],
    ) -> io::Result<i32> {
        let Entry { stdin, stdout, stderr, channel, control } = entry;
        let descriptors: Vec<RawFd> = [sandbox, *stdin, *stdout, *stderr, *channel, *control]
            .into_iter()
            .chain(cgroups.iter().map(AsFd::as_fd))
            .map(|descriptor| descriptor.as_raw_fd())
            .collect();
        self.send(b"fork", &descriptors)?;
        let answer: Answer = serde_json::from_slice(&self.receive()?)?;
        answer.pid.ok_or_else(|| io::Error::other(answer.error.unwrap_or_default()))
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
