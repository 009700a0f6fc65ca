//! Three processes that agree on a log, ours or etcd's, on one machine; gone at the end.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use control_plane::raft::Timing;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::subject::free_address;
use super::{Bench, BenchError, find, folder_in, io_at};

/// Three voters; dropping them ends them.
#[derive(Debug)]
pub(super) struct Trio {
    /// By their numbers: from one on, or from two where the first is not one of these processes.
    voters: Vec<Voter>,
    /// Where the leader takes writes.
    pub(super) clients: Vec<SocketAddr>,
    /// Where each takes writes and hands them on to the leader.
    pub(super) fronts: Vec<SocketAddr>,
    // Last: what runs uses it.
    folder: TempDir,
}

/// One of them.
#[derive(Debug)]
struct Voter {
    child: Child,
    /// Starts it again where it ended.
    again: Command,
    log: PathBuf,
}

impl Trio {
    /// Starts three of ours: the first founds the cluster and takes the others in.
    pub(super) fn ours(bench: &Bench<'_>, timing: Timing) -> Result<Self, BenchError> {
        // The founder comes last: it expects the others.
        Self::some_of_ours(bench, timing, &[3, 2, 1])
    }

    /// Starts the second and the third of ours only; whoever asks for them is the first, and takes them in.
    pub(super) fn followers(bench: &Bench<'_>, timing: Timing) -> Result<Self, BenchError> {
        Self::some_of_ours(bench, timing, &[3, 2])
    }

    fn some_of_ours(bench: &Bench<'_>, timing: Timing, numbers: &[usize]) -> Result<Self, BenchError> {
        let what = io_at("the voters cannot be started");
        let folder = folder_in(std::env::temp_dir()).map_err(&what)?;
        let (clients, fronts) = (addresses().map_err(&what)?, addresses().map_err(&what)?);
        let mut trio = Self { voters: Vec::new(), clients, fronts, folder };
        let command = |trio: &Self, number: usize| {
            let mut command = Command::new(&bench.executable);
            command.args(["bench-voter", "--node", &number.to_string()]);
            command.arg("--dir").arg(trio.folder().join(format!("voter-{number}")));
            command.args(["--address", &trio.clients[number - 1].to_string()]);
            command.args(["--front", &trio.fronts[number - 1].to_string()]);
            command.args(["--heartbeat-ms", &timing.heartbeat_ms.to_string()]);
            command.args(["--election-ms", &format!("{}-{}", timing.election_min_ms, timing.election_max_ms)]);
            command
        };
        for number in numbers.iter().copied() {
            let mut first = command(&trio, number);
            if number == 1 {
                for other in [2, 3] {
                    first.args(["--admit", &format!("{other}={}", trio.clients[other - 1])]);
                }
            }
            let again = command(&trio, number);
            trio.spawn(first, again, &format!("voter-{number}.log")).map_err(&what)?;
        }
        Ok(trio)
    }

    /// Starts three of etcd, if it is installed: as it comes but for the timing of elections, which is as tight as it can be.
    pub(super) fn etcd() -> Result<Option<Self>, BenchError> {
        let Some(program) = find("etcd") else { return Ok(None) };
        let what = io_at("etcd cannot be started");
        let folder = folder_in(std::env::temp_dir()).map_err(&what)?;
        let (clients, peers) = (addresses().map_err(&what)?, addresses().map_err(&what)?);
        let fronts = clients.clone();
        let mut trio = Self { voters: Vec::new(), clients, fronts, folder };
        let members: Vec<String> = (1..).zip(&peers).map(|(number, peer)| format!("n{number}=http://{peer}")).collect();
        for number in [3, 2, 1] {
            let peer = peers[number - 1];
            let (client, peer) = (format!("http://{}", trio.clients[number - 1]), format!("http://{peer}"));
            let [command, again] = [(), ()].map(|()| {
                // It goes as first as ours do.
                let mut command = Command::new("nice");
                command.args(["-n", "-10"]).arg(&program);
                command.args(["--name", &format!("n{number}"), "--initial-cluster-state", "new"]);
                command.args(["--log-level", "error"]);
                command.arg("--data-dir").arg(trio.folder().join(format!("etcd-{number}")));
                command.args(["--initial-cluster", &members.join(","), "--heartbeat-interval", "50"]);
                command.args(["--election-timeout", "300", "--quota-backend-bytes", "8000000000"]);
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command
            });
            trio.spawn(command, again, &format!("etcd-{number}.log")).map_err(&what)?;
        }
        Ok(Some(trio))
    }

    /// Returns where what they write lies.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts one before those that run already.
    fn spawn(&mut self, mut command: Command, again: Command, log: &str) -> std::io::Result<()> {
        let log = self.folder().join(log);
        let child = start(&mut command, &log)?;
        self.voters.insert(0, Voter { child, again, log });
        Ok(())
    }

    /// Returns the processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.voters.iter().map(|voter| voter.child.id()).collect()
    }

    /// Sends a signal to one of them.
    pub(super) fn signal(&self, voter: usize, signal: Signal) -> Result<(), BenchError> {
        let pid = i32::try_from(self.voters[voter].child.id()).map_err(std::io::Error::other);
        let sent = pid.and_then(|pid| kill(Pid::from_raw(pid), signal).map_err(std::io::Error::from));
        sent.map_err(io_at("a voter cannot be signalled"))
    }

    /// Kills one, if it still runs, and starts it again.
    pub(super) fn restart(&mut self, voter: usize) -> Result<(), BenchError> {
        let what = io_at("a voter cannot be started again");
        let voter = &mut self.voters[voter];
        voter.child.kill().and_then(|()| voter.child.wait()).map_err(&what)?;
        voter.child = start(&mut voter.again, &voter.log).map_err(&what)?;
        Ok(())
    }

    /// Returns how often one of ours came to lead.
    pub(super) fn elections(&self) -> usize {
        let lines = |voter: &Voter| {
            let log = std::fs::read_to_string(&voter.log).unwrap_or_default();
            log.lines().filter(|line| *line == super::voter::LEADS).count()
        };
        self.voters.iter().map(lines).sum()
    }
}

fn start(command: &mut Command, log: &Path) -> std::io::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    // Ctrl-C is for the benchmark, which ends them when it is ready to.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0).spawn()
}

impl Drop for Trio {
    fn drop(&mut self) {
        for voter in &mut self.voters {
            let _ = voter.child.kill();
            let _ = voter.child.wait();
        }
    }
}

fn addresses() -> std::io::Result<Vec<SocketAddr>> {
    (0..3).map(|_| free_address()).collect()
}
