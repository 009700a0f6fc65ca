//! A fork of the zygote that waits in a blank sandbox until it is told which function it is.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::zygote::{Entry, Zygote};
use super::{bind, executor};
use crate::sandbox::cgroup::Cgroup;
use crate::sandbox::protocol::Workload;

/// What a blank sandbox holds for a guest: what its own init has, too.
pub(super) struct Room {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) channel: UnixListener,
}

/// A fork that waits.
pub(super) struct Guest {
    control: UnixStream,
    /// Its number in the sandbox.
    pub(super) pid: i32,
}

impl Guest {
    /// Has a warm zygote fork into the sandbox of an init.
    pub(super) fn invite(zygote: &mut Zygote, init: i32, room: &Room, cgroup: &Cgroup) -> io::Result<Self> {
        let sandbox = bind::pidfd(init)?;
        let (control, theirs) = UnixStream::pair()?;
        let null = File::open("/dev/null")?;
        let entry = Entry {
            stdin: null.as_fd(),
            stdout: room.stdout.as_fd(),
            stderr: room.stderr.as_fd(),
            channel: room.channel.as_fd(),
            control: theirs.as_fd(),
        };
        let pid = zygote.fork_into(sandbox.as_fd(), &entry, &cgroup.doors()?)?;
        Ok(Self { control, pid })
    }

    /// Makes it the function; a failure is told on the socket that is returned.
    pub(super) fn become_workload(mut self, workload: &Workload) -> io::Result<UnixStream> {
        executor::send(&mut self.control, workload)?;
        Ok(self.control)
    }

    /// Tells it that it is not needed and returns its number, for its init to reap.
    pub(super) fn dismiss(mut self) -> io::Result<i32> {
        self.control.write_all(&[0; 4])?;
        Ok(self.pid)
    }
}
