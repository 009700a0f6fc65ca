//! Three processes that agree on a log, ours or etcd's, on one machine; gone at the end.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::subject::free_address;
use super::{Bench, BenchError, find, folder_in, io_at};

/// Three voters; dropping them ends them.
#[derive(Debug)]
pub(super) struct Trio {
    children: Vec<Child>,
    /// Where clients reach each.
    pub(super) clients: Vec<SocketAddr>,
    // Last: what runs uses it.
    _folder: TempDir,
}

impl Trio {
    /// Starts three of ours: the first founds the cluster and takes the others in.
    pub(super) fn ours(bench: &Bench<'_>) -> Result<Self, BenchError> {
        let what = io_at("the voters cannot be started");
        let folder = folder_in(std::env::temp_dir()).map_err(&what)?;
        let clients = addresses().map_err(&what)?;
        let mut trio = Self { children: Vec::new(), clients, _folder: folder };
        // The founder comes last: it expects the others.
        for number in [2, 3, 1] {
            let mut command = Command::new(&bench.executable);
            command.args(["bench-voter", "--node", &number.to_string()]);
            command.arg("--dir").arg(trio.folder().join(format!("voter-{number}")));
            command.args(["--address", &trio.clients[number - 1].to_string()]);
            if number == 1 {
                for other in [2, 3] {
                    command.args(["--admit", &format!("{other}={}", trio.clients[other - 1])]);
                }
            }
            trio.spawn(command, &format!("voter-{number}.log")).map_err(&what)?;
        }
        Ok(trio)
    }

    /// Starts three of etcd, if it is installed: as it comes but for the timing of elections, which is as tight as ours.
    pub(super) fn etcd() -> Result<Option<Self>, BenchError> {
        let Some(program) = find("etcd") else { return Ok(None) };
        let what = io_at("etcd cannot be started");
        let folder = folder_in(std::env::temp_dir()).map_err(&what)?;
        let (clients, peers) = (addresses().map_err(&what)?, addresses().map_err(&what)?);
        let mut trio = Self { children: Vec::new(), clients, _folder: folder };
        let members: Vec<String> = (1..).zip(&peers).map(|(number, peer)| format!("n{number}=http://{peer}")).collect();
        for (number, peer) in (1..).zip(&peers) {
            let (client, peer) = (format!("http://{}", trio.clients[number - 1]), format!("http://{peer}"));
            let mut command = Command::new(&program);
            command.args(["--name", &format!("n{number}"), "--initial-cluster-state", "new", "--log-level", "error"]);
            command.arg("--data-dir").arg(trio.folder().join(format!("etcd-{number}")));
            command.args(["--initial-cluster", &members.join(","), "--heartbeat-interval", "50"]);
            command.args(["--election-timeout", "300", "--quota-backend-bytes", "8000000000"]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            trio.spawn(command, &format!("etcd-{number}.log")).map_err(&what)?;
        }
        Ok(Some(trio))
    }

    fn folder(&self) -> &Path {
        self._folder.path()
    }

    fn spawn(&mut self, mut command: Command, log: &str) -> std::io::Result<()> {
        let log = File::create(self.folder().join(log))?;
        // Ctrl-C is for the benchmark, which ends them when it is ready to.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        self.children.push(command.spawn()?);
        Ok(())
    }

    /// Returns the processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn addresses() -> std::io::Result<Vec<SocketAddr>> {
    (0..3).map(|_| free_address()).collect()
}
