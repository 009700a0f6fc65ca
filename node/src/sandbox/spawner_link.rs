//! The daemon's end of one spawner: one request at a time, each with a deadline; a silent spawner is replaced.
#![expect(unsafe_code, reason = "the spawner is told to die with the daemon, between fork and exec")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::protocol::{Answer, MESSAGE_MAX, Request, receive, send};
use super::spawner::SUBCOMMAND;

/// How long a spawner may take for one request: a thousand times what it takes.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A spawner process and the socket to it.
#[derive(Debug)]
pub(super) struct SpawnerLink {
    child: Child,
    /// None once it was closed.
    socket: Option<AsyncFd<OwnedFd>>,
}

/// Why a spawner did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the spawner did not answer in time")]
    Timeout,
    #[error("the spawner has gone")]
    Gone,
    #[error("the spawner could not be asked")]
    Io(#[from] io::Error),
}

impl SpawnerLink {
    /// Starts a spawner.
    pub(super) fn start(executable: &Path, run_dir: &Path, cgroup_parent: &str) -> io::Result<Self> {
        let (mine, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for socket in [&mine, &theirs] {
            setsockopt(socket, sockopt::SndBuf, &(2 * MESSAGE_MAX))?;
        }
        let mut command = Command::new(executable);
        command.arg(SUBCOMMAND).arg(run_dir).arg(cgroup_parent).stdin(Stdio::from(theirs)).stdout(Stdio::null());
        // SAFETY: prctl and setpgid are async-signal-safe. The process group keeps Ctrl-C for the daemon alone: a spawner
        // ends when its socket closes.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))?;
                Ok(())
            });
        }
        let child = command.spawn()?;
        rustix::io::ioctl_fionbio(&mine, true)?;
        // SAFETY: the socket is owned by the registration and stays open as long as that.
        Ok(Self { child, socket: Some(unsafe { AsyncFd::register(mine) }?) })
    }

    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are positive numbers of 32 bits")
    }

    /// Asks for something and waits for the answer; after an error the spawner is of no use any more.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<(Answer, Vec<OwnedFd>), AskError> {
        let socket = self.socket.as_ref().ok_or(AskError::Gone)?;
        let exchange = async {
            socket.async_io(Interest::WRITABLE, |socket| send(socket.as_fd(), request, &[])).await?;
            socket.async_io(Interest::READABLE, |socket| receive(socket.as_fd())).await?.ok_or(AskError::Gone)
        };
        tokio::time::timeout(ANSWER_MAX, exchange).await.map_err(|_| AskError::Timeout)?
    }

    /// Lets the spawner finish what it does and end.
    pub(super) async fn close(mut self) {
        self.socket = None;
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < ANSWER_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for SpawnerLink {
    fn drop(&mut self) {
        // What it made lives on; a blank whose spawner has gone is of no use and is ended by the pool.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
