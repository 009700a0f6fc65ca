//! The hidden subcommand that makes containers: one thread, a mount namespace of its own, little memory.
//!
//! libcontainer forks and then allocates in the child, which deadlocks in a process with threads, and forks cost more the
//! more memory a process has. So the daemon makes no container itself: it asks spawners. A container's init is made a child of
//! the daemon (`as_sibling`), so that it outlives its spawner and is waited for by the daemon.
#![expect(unsafe_code, reason = "descriptors and namespaces are handed around by number")]

mod bind;
mod executor;
mod guest;
mod zygote;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifySocket};
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::executor::LateBinding;
use self::guest::{Guest, Room};
use self::zygote::Zygote;
use super::cgroup::{Cgroup, Version, version};
use super::layout::Layout;
use super::protocol::{Answer, BlankNetwork, CgroupLimits, Request, Role, Workload, receive, send};
use super::seccomp::Profile;
use super::spec::{ID_SHIFT, blank};
use crate::{error_chain, priority};

/// The name of the hidden subcommand.
pub const SUBCOMMAND: &str = "spawner";

/// The exit code of a spawner that could not begin.
const EXIT_FAILURE: i32 = 1;

/// Runs a spawner if that is what this process was started as; returns its exit code then.
///
/// To be called before anything starts a thread.
pub fn main_if_spawner() -> Option<i32> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != SUBCOMMAND {
        return None;
    }
    let (run_dir, cgroup_parent) = (arguments.next()?, arguments.next()?);
    priority::go_along();
    let spawner = Spawner::new(PathBuf::from(run_dir), cgroup_parent.to_string_lossy().into_owned());
    let result = spawner.and_then(|mut spawner| spawner.run());
    Some(match result {
        Ok(()) => 0,
        Err(error) => {
            // The daemon passes its standard error on; nobody listens to a log here.
            let _ = io::Write::write_all(&mut io::stderr(), format!("spawner: {error}\n").as_bytes());
            EXIT_FAILURE
        }
    })
}

struct Spawner {
    layout: Layout,
    cgroup_parent: String,
    version: Version,
    profile: Profile,
    home: File,
    home_network: File,
    /// The address that the next sandbox with a way out may get. Spawners begin anywhere, to be out of each other's way.
    next_address: u32,
    slots: BTreeMap<String, Slot>,
    zygote: Option<Zygote>,
}

/// A blank sandbox.
struct Slot {
    pid: i32,
    control: UnixStream,
    mounts: File,
    has_sys: bool,
    room: Room,
    guest: Option<Guest>,
}

/// What is to become of a blank sandbox.
struct Start {
    layers: Vec<PathBuf>,
    tmp_bytes: u64,
    limits: CgroupLimits,
    workload: Workload,
    is_fork: bool,
}

impl Spawner {
    fn new(run_dir: PathBuf, cgroup_parent: String) -> io::Result<Self> {
        // Mounts of the host come and go without touching this process, and its own never reach the host.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        Ok(Self {
            layout: Layout::new(run_dir),
            cgroup_parent,
            version: version().ok_or_else(|| io::Error::other("no cgroups are mounted"))?,
            profile: Profile::compile().map_err(io::Error::other)?,
            home: bind::namespace("self", "mnt")?,
            home_network: bind::namespace("self", "net")?,
            next_address: anywhere()?,
            slots: BTreeMap::new(),
            zygote: None,
        })
    }

    /// Serves requests until the daemon has gone.
    fn run(&mut self) -> io::Result<()> {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        while let Some((request, _)) = receive::<Request>(socket.as_fd())? {
            let (answer, descriptor) = self.answer(request);
            let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
            send(socket.as_fd(), &answer, &descriptors)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> (Answer, Option<UnixStream>) {
        let result = match request {
            Request::Fill { slot, network } => self
                .fill(&slot, &network)
                .map(|pid| (Answer::Filled { pid }, None))
                .inspect_err(|_| self.layout.remove(&slot)),
            Request::Start { slot, layers, tmp_bytes, limits, workload, is_fork } => {
                let start = Start { layers, tmp_bytes, limits, workload, is_fork };
                let control = self.start(&slot, &start).inspect_err(|_| {
                    if let Some(slot) = self.slots.remove(&slot) {
                        // It is the daemon's child, and waits for a start that will not come.
                        let _ = kill(Pid::from_raw(slot.pid), Signal::SIGKILL);
                    }
                });
                control.map(|control| (Answer::Done, Some(control)))
            }
            Request::StartZygote { spec } => {
                // The one before ends first: two of them would be a waste.
                self.zygote = None;
                Zygote::start(&self.layout, &spec, &self.profile).map(|zygote| {
                    self.zygote = Some(zygote);
                    (Answer::Done, None)
                })
            }
            Request::Attach { slot } => self.attach(&slot).map(|answer| (answer, None)).inspect_err(|_| {
                self.zygote = None;
                self.slots.remove(&slot);
            }),
        };
        result.unwrap_or_else(|reason| (Answer::Failed { reason }, None))
    }

    /// Lets the zygote fork into a blank sandbox, if it is warm.
    fn attach(&mut self, name: &str) -> Result<Answer, String> {
        let zygote = self.zygote.as_mut().ok_or("there is no zygote")?;
        let slot = self.slots.get_mut(name).ok_or("there is no such blank sandbox")?;
        if !zygote.is_warm().map_err(|error| error.to_string())? {
            return Ok(Answer::NotReady);
        }
        let cgroup = Cgroup::new(self.version, &format!("/{}/{name}", self.cgroup_parent));
        slot.guest = Some(Guest::invite(zygote, slot.pid, &slot.room, &cgroup).map_err(|error| error.to_string())?);
        Ok(Answer::Done)
    }

    fn fill(&mut self, name: &str, network: &BlankNetwork) -> Result<i32, String> {
        let folder = self.layout.slot(name);
        let prepare = || -> io::Result<(OwnedFd, OwnedFd, UnixListener, UnixStream, UnixStream)> {
            fs::create_dir_all(&folder)?;
            let cgroup = format!("/{}/{name}", self.cgroup_parent);
            let mut spec = blank(name, &cgroup, network);
            spec["root"]["path"] = self.layout.blank_root().to_string_lossy().into();
            fs::write(folder.join("config.json"), spec.to_string())?;
            let (mine, theirs) = UnixStream::pair()?;
            Ok((output(&folder, "stdout")?, output(&folder, "stderr")?, listen(&folder)?, mine, theirs))
        };
        let (stdout, stderr, channel, mine, theirs) = prepare().map_err(|error| error.to_string())?;
        let copy = |descriptor: &OwnedFd| descriptor.try_clone().map_err(|error| error.to_string());
        let executor =
            LateBinding { control: theirs.as_raw_fd(), channel: channel.as_raw_fd(), profile: self.profile.clone() };
        let null = File::open("/dev/null").map_err(|error| error.to_string())?;
        let container = ContainerBuilder::new(name.to_owned(), SyscallType::default())
            .with_root_path(self.layout.containers())
            .map_err(|error| error.to_string())?
            .with_stdin(null)
            .with_stdout(copy(&stdout)?)
            .with_stderr(copy(&stderr)?)
            .with_executor(executor)
            .validate_id()
            .and_then(|builder| builder.as_init(&folder).with_systemd(false).with_detach(true).as_sibling(true).build())
            .map_err(|error| error_chain::text(&error))?;
        let pid = container.pid().ok_or("the container has no process")?.as_raw();
        let mounts = bind::namespace(pid, "mnt").map_err(|error| error.to_string())?;
        self.connect(pid, network)?;
        // From here on it waits for what it is to become, and nothing of libcontainer's is between.
        let notify = self.layout.containers().join(name).join(NOTIFY_FILE);
        NotifySocket::new(notify).notify_container_start().map_err(|error| error_chain::text(&error))?;
        let room = Room { stdout, stderr, channel };
        let has_sys = *network != BlankNetwork::Host;
        self.slots.insert(name.to_owned(), Slot { pid, control: mine, mounts, has_sys, room, guest: None });
        Ok(pid)
    }

    /// Starts a blank sandbox and returns where its process would tell why it does not begin.
    fn start(&mut self, name: &str, start: &Start) -> Result<UnixStream, String> {
        let slot = self.slots.get_mut(name).ok_or("there is no such blank sandbox")?;
        let Start { layers, tmp_bytes, limits, workload, is_fork } = start;
        let root = bind::overlay(layers).map_err(|error| error.to_string())?;
        let temporary = bind::temporary(*tmp_bytes).map_err(|error| error.to_string())?;
        bind::bind_root(&slot.mounts, &self.home, &root, &temporary, slot.has_sys)
            .map_err(|error| error.to_string())?;
        Cgroup::new(self.version, &format!("/{}/{name}", self.cgroup_parent))
            .limit(limits)
            .map_err(|error| error.to_string())?;
        let owner = ID_SHIFT.saturating_add(workload.uid);
        for output in ["stdout", "stderr"] {
            // So that a function may open /dev/stdout again.
            chown(self.layout.slot(name).join(output), Some(owner), Some(owner)).map_err(|error| error.to_string())?;
        }
        let mut slot = self.slots.remove(name).ok_or("there is no such blank sandbox")?;
        match slot.begin(workload, *is_fork) {
            Ok(teller) => Ok(teller.unwrap_or(slot.control)),
            Err(error) => {
                // It is the daemon's child, and waits for a start that will not come.
                let _ = kill(Pid::from_raw(slot.pid), Signal::SIGKILL);
                Err(error.to_string())
            }
        }
    }

    /// Gives the network namespace of a process what it is to have.
    fn connect(&mut self, pid: i32, network: &BlankNetwork) -> Result<(), String> {
        if *network == BlankNetwork::Host {
            return Ok(());
        }
        let theirs = bind::namespace(pid, "net").map_err(|error| error.to_string())?;
        self.bring_loopback_up(&theirs).map_err(|error| format!("the loopback interface: {error}"))?;
        if let BlankNetwork::Wired(wiring) = network {
            wiring
                .lay(&mut self.next_address, &theirs, &self.home_network)
                .map_err(|error| format!("the way out: {error}"))?;
        }
        Ok(())
    }

    /// Brings up `lo` in a network namespace.
    fn bring_loopback_up(&self, theirs: &File) -> io::Result<()> {
        nix::sched::setns(theirs, nix::sched::CloneFlags::CLONE_NEWNET)?;
        let result = loopback_up();
        nix::sched::setns(&self.home_network, nix::sched::CloneFlags::CLONE_NEWNET)?;
        result
    }
}

impl Slot {
    /// Says who becomes the function: the guest, which tells a failure on the socket that is returned, or the init itself.
    fn begin(&mut self, workload: &Workload, is_fork: bool) -> io::Result<Option<UnixStream>> {
        let (role, teller) = match self.guest.take() {
            Some(guest) if is_fork => {
                let role = Role::Reaper { child: guest.pid, uid: workload.uid, gid: workload.gid };
                (role, Some(guest.become_workload(workload)?))
            }
            guest => {
                let dismissed = guest.map(Guest::dismiss).transpose()?;
                (Role::Program { workload: workload.clone(), dismissed }, None)
            }
        };
        executor::send(&mut self.control, &role)?;
        Ok(teller)
    }
}

/// Makes a named pipe and opens it for both directions: so it never lacks a reader, and writers never get SIGPIPE.
fn output(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = folder.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600))?;
    Ok(fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)?.into())
}

/// Listens on the channel's socket; its path may be longer than an address has room for.
fn listen(folder: &Path) -> io::Result<UnixListener> {
    let handle = File::open(folder)?;
    UnixListener::bind(format!("/proc/self/fd/{}/channel.sock", handle.as_raw_fd()))
}

/// Returns a random number.
fn anywhere() -> io::Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(bytes))
}

fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: ifreq is a plain structure for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
