//! The daemon that is measured: `hearth agent` in a process of its own, with data and ports of its own, gone at the end.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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
    gateway: SocketAddr,
    api: SocketAddr,
    data: TempDir,
    // Below /run: what lives there must be on tmpfs.
    run: TempDir,
}

impl Subject {
    pub(super) fn start(bench: &Bench<'_>, logging: Logging) -> Result<Self, BenchError> {
        let what = io_at("the daemon cannot be started");
        let data = folder_in(std::env::temp_dir()).map_err(&what)?;
        let run = folder_in("/run").map_err(&what)?;
        let (gateway, api) = (free_address().map_err(&what)?, free_address().map_err(&what)?);
        let log = File::create(data.path().join("log")).map_err(&what)?;
        let mut command = own_command(&bench.executable, data.path());
        command.arg("agent").args(["--bind", "127.0.0.1"]);
        command.args(["--gateway-port", &gateway.port().to_string(), "--api-port", &api.port().to_string()]);
        command.args(["--peers-port", "0"]);
        command.env("HEARTH_RUN_DIR", run.path());
        if logging == Logging::Quiet {
            command.env("HEARTH_LOG", "warn");
        }
        // Ctrl-C is for the benchmark, which ends the daemon when it is ready to.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.spawn().map_err(&what)?;
        let executable = bench.executable.clone();
        let mut subject = Self { executable, child: Some(child), gateway, api, data, run };
        let start = Instant::now();
        while !subject.is_ready() {
            let has_ended = subject.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if has_ended || start.elapsed() > PATIENCE {
                return Err(subject.failed("it did not come up"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(subject)
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

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Deploys the app in a folder and waits until it serves.
    pub(super) fn apply(&self, app: &Path) -> Result<(), BenchError> {
        self.command(&["apply".as_ref(), app.as_os_str()])
    }

    fn command(&self, arguments: &[&std::ffi::OsStr]) -> Result<(), BenchError> {
        let output = own_command(&self.executable, self.data.path())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(io_at("this program cannot be started"))?;
        if output.status.success() {
            return Ok(());
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

    /// Ends it and waits until it has gone.
    fn end(&mut self) {
        if self.child.is_none() {
            return;
        }
        // An agent leaves its instances running on purpose; a benchmark leaves nothing.
        let deleted = self.command(&["delete".as_ref(), "--all".as_ref(), "--yes".as_ref()]);
        if deleted.is_ok() {
            let _ = until("the instances end", || self.residents().is_empty());
        }
        let Some(mut child) = self.child.take() else { return };
        if let Ok(pid) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
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
        self.end();
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
