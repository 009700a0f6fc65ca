//! What the daemon and a spawner say to each other: one JSON message per packet, descriptors beside it.
//!
//! A packet keeps its borders (`SOCK_SEQPACKET`), so there is nothing to frame; the order is strictly request, answer.
#![expect(unsafe_code, reason = "descriptors that arrive beside a packet become owned here")]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use super::ZygoteSpec;
use crate::net::Wiring;

/// The longest message, in bytes; environments are bounded well below it.
pub(super) const MESSAGE_MAX: usize = 256 * 1024;

/// The most descriptors beside a message.
const DESCRIPTORS_MAX: usize = 4;

/// What the daemon asks a spawner for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Make a blank sandbox.
    Fill {
        /// Its name: of its run directory, its container and its cgroups.
        slot: String,
        /// What it will reach.
        network: BlankNetwork,
    },
    /// Bind a root into a blank sandbox and start it.
    Start {
        /// The blank sandbox.
        slot: String,
        /// Directories that make its root, lowest first.
        layers: Vec<PathBuf>,
        /// The size of `/tmp`.
        tmp_bytes: u64,
        /// What its cgroups allow.
        limits: CgroupLimits,
        /// What its process is.
        workload: Workload,
        /// Whether the fork of the zygote that waits in it becomes the process, instead of an execution.
        is_fork: bool,
    },
    /// Start warming up a zygote, in place of the one before.
    StartZygote {
        /// Which.
        spec: ZygoteSpec,
    },
    /// Let the zygote fork into a blank sandbox.
    Attach {
        /// The blank sandbox.
        slot: String,
    },
}

/// The network of a blank sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum BlankNetwork {
    /// One of its own, with loopback alone.
    Own,
    /// One of its own, with a wire to the host.
    Wired(Wiring),
    /// That of the host.
    Host,
}

/// What a spawner answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// A blank sandbox is there; its status descriptor comes with this.
    Filled {
        /// Its init, a child of the daemon.
        pid: i32,
    },
    /// It was done. After a start, the descriptor on which the process would tell a failure comes with this.
    Done,
    /// The zygote is not warm yet; nothing was done.
    NotReady,
    /// It could not be done; nothing of it is left.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What cgroups allow a sandbox.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct CgroupLimits {
    pub(super) memory_bytes: u64,
    pub(super) cpu_milli: u32,
    pub(super) pids: u32,
}

/// What the executor inside a sandbox does once it is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Workload {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) cwd: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether descriptor 3 is the listening socket of the channel.
    pub(super) has_channel: bool,
}

/// What the init of a sandbox becomes once it is started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Role {
    /// The function.
    Program {
        /// What it is.
        workload: Workload,
        /// A child that was told to end, as the sandbox sees it; to be reaped first.
        dismissed: Option<i32>,
    },
    /// The parent of the function, which was forked into the sandbox; it ends with it and as it does.
    Reaper {
        /// The function, as the sandbox sees it.
        child: i32,
        /// The user inside the sandbox.
        uid: u32,
        /// The group inside the sandbox.
        gid: u32,
    },
}

/// Sends one message with descriptors beside it.
pub(super) fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, descriptors: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message to a spawner is over the limit"));
    }
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message with its descriptors; none when the other side has gone.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_MAX];
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let (length, descriptors) = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                // SAFETY: the kernel has just installed these descriptors in this process, and nothing else knows them.
                descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, descriptors)
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptors)))
}
