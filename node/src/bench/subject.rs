//! The daemon that is measured: `hearth agent` in a process of its own, with data and ports of its own, gone at the end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::http::{Connection, get};
use super::{Bench, BenchError, LOOK_EVERY, PATIENCE, folder_in, io_at, until};
use crate::config;
use crate::sandbox::roster::{Resident, blanks, residents};

/// How long the daemon may take to end: it finishes calls in flight first.
const END_MAX: Duration = Duration::from_secs(40);

/// The end of the daemon's own words that is shown when it fails.
const LOG_TAIL: usize = 2000;

/// What the daemon logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logging {
    /// What a node logs unless it is told otherwise, every call among it.
    Default,
    /// Only what is wrong.
    Quiet,
}

/// A daemon; dropping it ends it and everything it runs.
#[derive(Debug)]
pub(super) struct Subject {
    executable: PathBuf,
    child: Option<Child>,
    logging: Logging,
    /// What it is told beside what every subject is.
    told: Vec<String>,
    gateway: SocketAddr,
    api: SocketAddr,
    peers: SocketAddr,
    data: TempDir,
    // Below /run: what lives there must be on tmpfs.
    run: TempDir,
}

impl Subject {
    /// Starts one that founds a cluster, or belongs to none.
    pub(super) fn start(bench: &Bench<'_>, logging: Logging) -> Result<Self, BenchError> {
        Self::start_told(bench, logging, &[])
    }

    /// Starts one with more arguments, and waits until it is ready.
    pub(super) fn start_told(bench: &Bench<'_>, logging: Logging, told: &[&str]) -> Result<Self, BenchError> {
        let what = io_at("the daemon cannot be started");
        let free = || free_address().map_err(&what);
        let mut subject = Self {
            executable: bench.executable.clone(),
            child: None,
            logging,
            told: told.iter().map(|argument| (*argument).to_owned()).collect(),
            gateway: free()?,
            api: free()?,
            peers: free()?,
            data: folder_in(std::env::temp_dir()).map_err(&what)?,
            run: folder_in("/run").map_err(&what)?,
        };
        subject.launch()?;
        Ok(subject)
    }

    /// Starts it where it ended, and waits until it is ready.
    pub(super) fn launch(&mut self) -> Result<(), BenchError> {
        let what = io_at("the daemon cannot be started");
        let log = File::options().create(true).append(true).open(self.data.path().join("log")).map_err(&what)?;
        let mut command = own_command(&self.executable, self.data.path());
        command.arg("agent").args(["--bind", "127.0.0.1"]).args(&self.told);
        let ports = [("--gateway-port", self.gateway), ("--api-port", self.api), ("--peers-port", self.peers)];
        for (flag, address) in ports {
            command.args([flag, &address.port().to_string()]);
        }
        command.env("HEARTH_RUN_DIR", self.run.path());
        if self.logging == Logging::Quiet {
            command.env("HEARTH_LOG", "warn");
        }
        // Ctrl-C is for the benchmark, which ends the daemon when it is ready to.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.child = Some(command.spawn().map_err(&what)?);
        let start = Instant::now();
        while !self.is_ready() {
            let has_ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if has_ended || start.elapsed() > PATIENCE {
                return Err(self.failed("it did not come up"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let ask = || Connection::tcp(self.api)?.send(&get("/readyz", ""));
        ask().is_ok_and(|answer| answer.status == 200)
    }

    fn failed(&self, why: &str) -> BenchError {
        let log = fs::read_to_string(self.data.path().join("log")).unwrap_or_default();
        let tail = log.char_indices().nth_back(LOG_TAIL).map_or(0, |(at, _)| at);
        BenchError::Program { program: "hearth agent".to_owned(), reason: format!("{why}\n{}", log[tail..].trim()) }
    }

    pub(super) fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Returns where other nodes reach it.
    pub(super) fn peers(&self) -> SocketAddr {
        self.peers
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends a signal to the daemon, if it runs.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills the daemon and all that it runs, in the middle of whatever they do.
    pub(super) fn kill(&mut self) {
        let residents = self.residents();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            residents.iter().flat_map(|resident| &resident.processes).for_each(|process| {
                let _ = kill(Pid::from_raw(*process), Signal::SIGKILL);
            });
            let _ = child.wait();
        }
    }

    /// Deploys the app in a folder and waits until it serves.
    pub(super) fn apply(&self, app: &Path) -> Result<(), BenchError> {
        self.command(&["apply".as_ref(), app.as_os_str()]).map(drop)
    }

    /// Runs a command of this program against it, and returns what it prints.
    pub(super) fn tell(&self, arguments: &[&str]) -> Result<String, BenchError> {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        self.command(&arguments)
    }

    /// Runs a command of this program against it, and reads what it prints.
    pub(super) fn ask<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, BenchError> {
        let printed = self.tell(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed)
            .map_err(|error| self.failed(&format!("{arguments:?} printed {printed}: {error}")))
    }

    fn command(&self, arguments: &[&OsStr]) -> Result<String, BenchError> {
        let output = own_command(&self.executable, self.data.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(io_at("this program cannot be started"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(&String::from_utf8_lossy(&output.stderr)))
    }

    /// The daemon's own directory below its run root, and its cgroup.
    fn places(&self) -> Option<(PathBuf, String)> {
        let own = fs::read_dir(self.run.path()).ok()?.flatten().find(|entry| entry.path().is_dir())?;
        Some((own.path(), format!("hearth-{}", own.file_name().to_string_lossy())))
    }

    /// Returns the instances that run.
    pub(super) fn residents(&self) -> Vec<Resident> {
        self.places().map_or_else(Vec::new, |(run, cgroup)| residents(&run, &cgroup))
    }

    /// Returns the sandboxes that wait: their processes, and what their cgroups count.
    pub(super) fn blanks(&self) -> Vec<(Vec<i32>, u64)> {
        self.places().map_or_else(Vec::new, |(run, cgroup)| blanks(&run, &cgroup))
    }

    /// Waits until no instance is left and the pool is full.
    pub(super) fn wait_for_zero(&self) -> Result<(), BenchError> {
        let pool = usize::try_from(config::Config::default().sandbox.pool).unwrap_or(1);
        until("the functions go to zero", || self.residents().is_empty())?;
        until("the pool fills", || self.blanks().len() >= pool)
    }

    /// Returns the sum of a metric over all its labels.
    pub(super) fn metric(&self, name: &str) -> Result<f64, BenchError> {
        let ask = || Connection::tcp(self.api)?.send(&get("/metrics", ""));
        let answer = ask().map_err(io_at("the daemon's metrics cannot be read"))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Ends everything that runs on the nodes of its cluster.
    ///
    /// An agent leaves its instances running on purpose; a benchmark leaves nothing.
    pub(super) fn delete_all(&self) -> Result<(), BenchError> {
        self.tell(&["delete", "--all", "--yes"]).map(drop)
    }

    /// Waits until it has gone, after it was asked to.
    pub(super) fn wait_gone(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > END_MAX {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        if self.delete_all().is_ok() {
            let _ = until("the instances end", || self.residents().is_empty());
        }
        self.signal(Signal::SIGTERM);
        self.wait_gone();
    }
}

/// This program, told nothing by the environment of whoever measures.
fn own_command(executable: &Path, data: &Path) -> Command {
    let mut command = Command::new(executable);
    let own = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HEARTH_"));
    for (name, _) in own {
        command.env_remove(name);
    }
    command.arg("--data-dir").arg(data.join("data")).env("NO_COLOR", "1");
    command
}

/// Returns an address of loopback that nobody listens on.
pub(super) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
