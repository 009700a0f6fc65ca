//! The OCI container around an instance.
//!
//! ```text
//!   daemon ── asks ──▶ spawner × cores: hidden subcommand, one thread, libcontainer lives there and nowhere else
//!     │                   │ fills the pool ahead of time: blank sandboxes in OCI state `created`
//!     │                   └ binds a function's root into one, sets its limits, starts it
//!     └ owns the processes: waits for them by pidfd, ends them, removes what they leave
//! ```
//!
//! A sandbox is used once. It runs in namespaces of its own (user, mount, pid, network, ipc, uts, cgroup), as a user that is
//! nobody outside, without capabilities, under a filter of system calls, on a read-only root with a `/tmp` of its own.
//! What must outlive the daemon exists by name in the run directory: pipes, the channel's socket, the label.

pub mod bundle;
mod cgroup;
mod filter;
mod layout;
mod loopback;
mod pool;
mod process;
mod protocol;
pub mod roster;
mod seccomp;
pub mod spawner;
mod spawner_link;
mod spec;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub use self::cgroup::Usage;
pub use self::pool::{Config, Sandboxes, StartError};
pub use self::process::Exit;
pub use self::spec::{ID_COUNT, ID_SHIFT};

use self::cgroup::Cgroup;
use self::layout::Layout;
use self::process::Process as Child;
use crate::net::OpenError;

/// What a sandbox is to run.
#[derive(Clone, Debug)]
pub struct LaunchRequest {
    /// Its name for people; the sandbox's own name is another.
    pub id: String,
    /// Directories that make its root, lowest first; their owners are shifted by [`ID_SHIFT`].
    pub layers: Vec<PathBuf>,
    /// Its process.
    pub process: Process,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: Network,
    /// Whether it gets a listening Unix socket as descriptor 3.
    pub channel: bool,
    /// A TCP port of its loopback on which the daemon listens.
    pub loopback_port: Option<u16>,
    /// How its process comes to be.
    pub start: Start,
    /// What a later daemon is told when it adopts it; at most 4 KiB.
    pub label: String,
}

/// The process of a sandbox.
#[derive(Clone, Debug)]
pub struct Process {
    /// Program and arguments; a program without a slash is looked up in `PATH`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: String,
    /// The user inside the sandbox.
    pub uid: u32,
    /// The group inside the sandbox.
    pub gid: u32,
}

/// What a sandbox may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory in bytes, with what it writes to `/tmp`.
    pub memory_bytes: u64,
    /// Processor time in thousandths of a core.
    pub cpu_milli: u32,
    /// Processes and threads.
    pub pids: u32,
    /// The size of `/tmp` in bytes.
    pub tmp_bytes: u64,
}

/// What a sandbox may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Its own loopback interface.
    #[default]
    None,
    /// What lies beyond its host: neither the host itself nor other sandboxes; see [`crate::net`].
    Egress,
    /// Everything its host reaches: it shares the host's network.
    Host,
}

/// How a sandbox's process comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// By executing its program.
    Exec,
    /// By a fork of a warmed Python interpreter where there is one, else by executing; one is kept from the first such
    /// request on.
    Zygote(ZygoteSpec),
}

/// A Python interpreter that is kept warm outside all sandboxes, to be forked into them.
///
/// It runs as root outside of any sandbox: its layer must be one that was captured from this machine, whose code root
/// trusts anyway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteSpec {
    /// The directory that is its root, with the interpreter and its standard library in it.
    pub layer: PathBuf,
    /// The interpreter's path below that.
    pub interpreter: String,
}

/// A signal that ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Why a sandbox could not be started; nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The spawner could not do it.
    #[error("the sandbox could not be started: {0}")]
    Refused(String),
    /// No spawner answered in time.
    #[error("no spawner answered within {0:?}")]
    Timeout(std::time::Duration),
    /// It was to have a way out, and there is none.
    #[error("the sandbox has no way out")]
    Egress(#[from] OpenError),
    /// The sandbox was there, but could not be used.
    #[error("the sandbox could not be used")]
    Unusable(#[source] io::Error),
    /// The pool has been shut down.
    #[error("the sandboxes are shut down")]
    ShutDown,
}

/// What is kept beside a running sandbox for a later daemon.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: String,
    label: String,
    pid: i32,
    #[serde(default)]
    network: Network,
}

impl Kept {
    /// Reads what is kept of a sandbox; of a blank one that is nothing.
    fn read(layout: &Layout, slot: &str) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(layout.slot(slot).join("kept.json")).ok()?).ok()
    }
}

/// The reading ends of a sandbox's output.
#[derive(Debug)]
pub struct Output {
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
}

/// A running sandbox. Dropping it leaves the sandbox running.
#[derive(Debug)]
pub struct Sandbox {
    id: String,
    label: String,
    slot: String,
    layout: Layout,
    cgroup: Cgroup,
    child: Child,
    output: Mutex<Option<Output>>,
    listener: Mutex<Option<TcpListener>>,
}

impl Sandbox {
    /// Returns its name for people.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns what it was launched with for a later daemon.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns its process outside.
    pub fn pid(&self) -> u32 {
        self.child.pid().unsigned_abs()
    }

    /// Returns the socket behind which its process listens on descriptor 3.
    pub fn channel_path(&self) -> PathBuf {
        self.layout.slot(&self.slot).join("channel.sock")
    }

    /// Connects to a TCP port of its loopback.
    pub async fn connect_loopback(&self, port: u16) -> io::Result<TcpStream> {
        loopback::connect(self.child.pid(), port).await
    }

    /// Returns the listener on its loopback that was asked for; once, and never after an adoption.
    pub fn take_loopback_listener(&self) -> Option<TcpListener> {
        self.listener.lock().expect("no holder of this lock panics").take()
    }

    /// Returns the reading ends of its output; once.
    pub fn take_output(&self) -> Option<Output> {
        self.output.lock().expect("no holder of this lock panics").take()
    }

    /// Waits until its process has ended; any number of callers may wait.
    pub async fn wait(&self) -> Exit {
        self.child.wait().await
    }

    /// Sends its process a signal; one that has ended needs none.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Returns what it has used so far.
    pub fn usage(&self) -> Usage {
        self.cgroup.usage()
    }

    /// Ends it and removes everything it leaves; what has ended already is only removed.
    pub async fn destroy(&self) {
        self.child.signal(Signal::Kill);
        self.child.wait().await;
        let (layout, cgroup, slot) = (self.layout.clone(), self.cgroup.clone(), self.slot.clone());
        let removed = tokio::task::spawn_blocking(move || {
            layout.remove(&slot);
            cgroup.remove();
        });
        if let Err(error) = removed.await {
            tracing::warn!(sandbox = %self.id, %error, "a sandbox was not removed");
        }
    }
}

/// Tells many what one process came to.
type ExitWatch = Arc<watch::Sender<Option<Exit>>>;
