//! The program inside a sandbox: tries one thing and says what came of it, by the name of the error.
#![expect(unsafe_code, reason = "system calls are made that no library makes")]

mod calls;
mod foreign;

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

/// The first argument that makes this program a probe.
pub(crate) const MARK: &str = "probe";

/// How long a server on the same machine may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The key under which siblings look for each other's shared memory.
const SHARED_KEY: i32 = 0x4845_4152;

/// Runs a probe if that is what this process was started as.
pub(crate) fn main_if_probe() -> bool {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [MARK, "calls"] => calls::try_all(),
        [MARK, "sockets"] => calls::try_sockets(),
        [MARK, "foreign"] => foreign::try_all(),
        [MARK, "read", path] => say(open(path, OFlags::RDONLY)),
        [MARK, "write", path] => say(open(path, OFlags::WRONLY)),
        [MARK, "both", path] => say(open(path, OFlags::RDWR)),
        [MARK, "listen", "abstract", name] => {
            hold("listening", abstract_name(name).and_then(|n| UnixListener::bind_addr(&n)))
        }
        [MARK, "listen", "all", port] => hold("listening", TcpListener::bind(format!("0.0.0.0:{port}"))),
        [MARK, "listen", port] => hold("listening", TcpListener::bind(format!("127.0.0.1:{port}"))),
        [MARK, "connect", "abstract", name] => say(abstract_name(name).and_then(|n| UnixStream::connect_addr(&n))),
        [MARK, "connect", "unix", path] => say(UnixStream::connect(path)),
        [MARK, "connect", address] => say(TcpStream::connect(address)),
        [MARK, "fetch", address] => told(fetch(address)),
        [MARK, "ask", address] => told(ask(address)),
        [MARK, "ask", "from", source, address] => told(ask_from(source, address)),
        [MARK, "who"] => who(),
        [MARK, "shm", "make"] => hold("made", shared_memory(libc::IPC_CREAT | 0o666)),
        [MARK, "shm", "find"] => say(shared_memory(0)),
        [MARK, "flood", "inotify"] => flood(|| rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::empty())),
        [MARK, "flood", "descriptors"] => flood(|| File::open("/")),
        [MARK, "flood", "zombies"] => flood(zombie),
        [MARK, "bomb"] => bomb(),
        [MARK, "flood", "queues"] => flood(message_queue()),
        [MARK, "flood", "signals"] => flood(pending_signal()),
        [MARK, ..] => panic!("there is no probe {words:?}"),
        _ => return false,
    }
    true
}

/// Writes a line at once: whoever waits for it may end this process next.
fn line(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Returns the name of an error.
fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
        None => error.to_string(),
    }
}

/// Says `ok`, or the name of the error.
fn say<T, E: Into<io::Error>>(result: Result<T, E>) {
    match result {
        Ok(_) => line("ok"),
        Err(error) => line(&name(&error.into())),
    }
}

/// Says what came back, or the name of the error.
fn told(result: io::Result<String>) {
    match result {
        Ok(text) => line(&text),
        Err(error) => line(&name(&error)),
    }
}

/// Returns what a server says by itself.
fn fetch(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Returns what a server answers to one packet.
fn ask(address: &str) -> io::Result<String> {
    exchange(&UdpSocket::bind("0.0.0.0:0")?, "who am I?", address)
}

/// Asks from one address among several, and says which.
fn ask_from(source: &str, address: &str) -> io::Result<String> {
    exchange(&UdpSocket::bind(format!("{source}:0"))?, source, address)
}

fn exchange(socket: &UdpSocket, question: &str, address: &str) -> io::Result<String> {
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    socket.connect(address)?;
    socket.send(question.as_bytes())?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// Says that something is there, and keeps it there until this process is ended.
fn hold<T>(word: &str, result: io::Result<T>) {
    match result {
        Ok(_held) => {
            line(word);
            wait_for_the_end();
        }
        Err(error) => line(&name(&error)),
    }
}

fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}

/// Takes as many of something as there are, says how many and what stopped it, and keeps them.
fn flood<T, E: Into<io::Error>>(mut take: impl FnMut() -> Result<T, E>) {
    let mut taken = Vec::new();
    let error = loop {
        match take() {
            Ok(one) => taken.push(one),
            Err(error) => break error.into(),
        }
    };
    line(&format!("{} {}", taken.len(), name(&error)));
    wait_for_the_end();
}

fn open(path: &str, flags: OFlags) -> rustix::io::Result<rustix::fd::OwnedFd> {
    rustix::fs::open(path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

fn abstract_name(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// Says which user this is, and which capabilities it has and could have.
fn who() {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    for wanted in ["Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let found = status.lines().find(|line| line.starts_with(wanted)).expect("the kernel says so");
        line(&found.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

fn shared_memory(flags: i32) -> io::Result<()> {
    // SAFETY: shmget takes three integers and touches no memory of this process.
    if unsafe { libc::shmget(SHARED_KEY, 4096, flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a child that ends at once and that nobody waits for.
fn zombie() -> io::Result<()> {
    // SAFETY: the child does nothing but end, by a call that is safe after a fork.
    unsafe {
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => libc::_exit(0),
            _ => Ok(()),
        }
    }
}

/// Makes message queues, each as large as the kernel lets it be.
fn message_queue() -> impl FnMut() -> io::Result<()> {
    let mut count = 0;
    move || {
        count += 1;
        let name = std::ffi::CString::new(format!("/queue{count}"))?;
        // SAFETY: the name is zero-terminated and outlives the call; no attributes means those of the kernel.
        let queue = unsafe {
            libc::mq_open(name.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, std::ptr::null::<libc::mq_attr>())
        };
        if queue < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Sends this process signals that it never takes.
fn pending_signal() -> impl FnMut() -> io::Result<()> {
    let number = libc::SIGRTMIN();
    // SAFETY: zeros are a valid set, which outlives the calls; nothing is written but the set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, number);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    move || {
        let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
        // SAFETY: sigqueue takes numbers and a null pointer that nobody follows.
        let result = unsafe { libc::sigqueue(libc::getpid(), number, value) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Forks and forks, deaf to what would end it kindly.
fn bomb() -> ! {
    // SAFETY: ignoring a signal runs no code of ours; every fork does nothing but go round this loop.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
        loop {
            libc::fork();
        }
    }
}
