//! A rack of hosts: network namespaces on a bridge of their own, a real agent in each, and hands that cut cables, kill and pause.
//!
//! ```text
//!  this process ── 10.X.Y.254 ─┐
//!                              ├─ bridge in a namespace of its own ─┬─ 10.X.Y.1  host 1
//!                              │                                    ├─ 10.X.Y.2  host 2
//! ```

mod cable;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Reply, binary, request_with};
use crate::{Disk, eventually};

/// How long an agent may take until it is ready: it may have to fetch what happened while it was away.
const READY_MAX: Duration = Duration::from_secs(60);

/// How long an agent may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(60);

/// How long the instances of a test may take to end with it.
const EMPTY_MAX: Duration = Duration::from_secs(30);

/// How large the disk of a host is, in MiB: images, and a log that is never long.
const DISK_MIB: u64 = 2048;

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(15);

/// Counts the racks of this process.
static RACKS: AtomicU32 = AtomicU32::new(0);

/// Held by the rack that stands: two of them have more hosts than a small machine can keep on time.
static FLOOR: Mutex<()> = Mutex::new(());

/// Hosts and the network between them; dropping it ends and removes everything.
#[derive(Debug)]
pub struct Rack {
    name: String,
    /// The first three parts of every address.
    subnet: String,
    hosts: Vec<Host>,
    /// What every agent finds in its environment.
    environment: Vec<(String, String)>,
    client: ureq::Agent,
    _floor: MutexGuard<'static, ()>,
}

/// A host and the agent on it.
#[derive(Debug)]
struct Host {
    /// The last part of its address.
    place: usize,
    /// What the data directory lies on, where it has a disk of its own.
    disk: Option<Disk>,
    data: TempDir,
    agent: Option<Child>,
}

impl Rack {
    /// Makes a rack of hosts that each have a disk of their own, which can lose its power and be full.
    pub fn with_disks(hosts: usize) -> Self {
        let mut rack = Self::new(hosts);
        for host in &mut rack.hosts {
            let folder = host.data.path();
            host.disk = Some(Disk::make(&folder.join("disk.img"), &folder.join("disk"), DISK_MIB));
        }
        rack
    }

    /// Makes a rack of hosts that are numbered from 1, with nothing running on them, once no other rack of this process stands.
    pub fn new(hosts: usize) -> Self {
        // What is timed does not begin with building it.
        binary();
        let floor = FLOOR.lock().unwrap_or_else(PoisonError::into_inner);
        let (process, number) = (std::process::id(), RACKS.fetch_add(1, Ordering::Relaxed));
        let name = format!("hr{}n{number}", process % 100_000);
        let subnet = format!("10.{}.{}", 64 + number % 64, process % 250);
        let client = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_MAX))
            .build()
            .new_agent();
        let empty = || tempfile::Builder::new().prefix("hearth-host-").tempdir().expect("a directory can be made");
        let host = |place| Host { place, disk: None, data: empty(), agent: None };
        let hosts = (1..=hosts).map(host).collect();
        let rack = Self { name, subnet, hosts, environment: Vec::new(), client, _floor: floor };
        rack.wire();
        rack
    }

    /// Gives every agent that is started from here on a variable.
    #[must_use]
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns the address of this process among the hosts.
    pub fn own_address(&self) -> String {
        format!("{}.254", self.subnet)
    }

    /// Returns the address of a host.
    pub fn address(&self, host: usize) -> String {
        format!("{}.{}", self.subnet, self.host(host).place)
    }

    /// Returns which host is reached at an address with a port.
    fn host_at(&self, address: &str) -> Option<usize> {
        let host = address.rsplit_once(':')?.0;
        (1..=self.hosts.len()).find(|number| self.address(*number) == host)
    }

    /// Founds a cluster on the first host and lets all others join it; returns how long that took.
    pub fn found(&mut self) -> Duration {
        self.found_with(&[], self.hosts.len())
    }

    /// Founds a cluster of the first `count` hosts, the first of which takes these arguments; returns how long that took.
    pub fn found_with(&mut self, founder: &[&str], count: usize) -> Duration {
        let began = Instant::now();
        self.start(1, founder);
        let (contact, token) = (format!("{}:8100", self.address(1)), self.token());
        for host in 2..=count {
            self.launch(host, &["--join", &contact, "--token", &token]);
        }
        (2..=count).for_each(|host| self.until_ready(host));
        let voters = count.min(3).div_ceil(2) * 2 - 1;
        eventually("an odd number votes", READY_MAX, || (self.voters(1).len() == voters).then_some(()));
        began.elapsed()
    }

    /// Returns a token that lets machines join.
    pub fn token(&self) -> String {
        self.succeed(1, &["token", "create", "-o", "name"]).trim().to_owned()
    }

    /// Starts the agent of a host and waits until it is ready.
    pub fn start(&mut self, host: usize, arguments: &[&str]) {
        self.launch(host, arguments);
        self.until_ready(host);
    }

    /// Starts the agent of a host.
    pub fn launch(&mut self, host: usize, arguments: &[&str]) {
        assert!(self.host(host).agent.is_none(), "host {host} runs already");
        let log = File::options().create(true).append(true).open(self.log_path(host)).expect("the log can be opened");
        // `ip netns exec` would mount another /sys, without the cgroups that sandboxes live in.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.netns(host)))
            .arg(binary())
            .args(["agent", "--bind", &self.address(host), "--name", &format!("host-{host}")])
            .args(["--zone", &format!("zone-{host}"), "--log", "info,openraft=error,hearth::access=off"])
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir(host))
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("nsenter and hearth can be executed");
        self.host_mut(host).agent = Some(child);
    }

    /// Waits until the agent of a host is ready.
    pub fn until_ready(&mut self, host: usize) {
        let url = format!("http://{}:8090/readyz", self.address(host));
        let began = Instant::now();
        loop {
            let agent = self.host_mut(host).agent.as_mut().expect("the agent runs");
            let ended = agent.try_wait().expect("the child can be waited for");
            assert!(ended.is_none(), "the agent of host {host} ended: {ended:?}\n{}", self.log(host));
            if self.client.get(&url).call().is_ok_and(|reply| reply.status() == 200) {
                return;
            }
            assert!(began.elapsed() < READY_MAX, "host {host} is not ready within {READY_MAX:?}\n{}", self.log(host));
            std::thread::sleep(Duration::from_millis(20)); // between two looks
        }
    }

    /// Ends the agent of a host in the middle of whatever it does; its functions go on.
    pub fn kill(&mut self, host: usize) {
        let mut agent = self.host_mut(host).agent.take().expect("the agent runs");
        agent.kill().expect("the agent can be killed");
        agent.wait().expect("the agent can be waited for");
    }

    /// Cuts the power of hosts at one instant: what their disks were not made to keep is lost, and nothing on them goes on.
    pub fn cut_power(&mut self, hosts: &[usize]) {
        let disks: Vec<&Disk> = hosts.iter().map(|host| self.disk(*host)).collect();
        Disk::cut_power(&disks);
        for host in hosts {
            // It may have ended by itself: its disk has failed.
            let mut agent = self.host_mut(*host).agent.take().expect("the agent runs");
            let _ = agent.kill();
            agent.wait().expect("the agent can be waited for");
        }
        for host in hosts {
            self.host_mut(*host).disk.as_mut().expect("the host has a disk of its own").restore_power();
        }
    }

    /// Returns the disk of a host.
    pub fn disk(&self, host: usize) -> &Disk {
        self.host(host).disk.as_ref().expect("the host has a disk of its own")
    }

    /// Asks the agent of a host to end and waits until it has.
    pub fn stop(&mut self, host: usize) {
        self.signal(host, "TERM");
        let code = self.until_ended(host);
        assert_eq!(code, Some(0), "the agent of host {host} ended\n{}", self.log(host));
    }

    /// Waits until the agent of a host has ended; returns its exit code.
    pub fn until_ended(&mut self, host: usize) -> Option<i32> {
        let agent = self.host_mut(host).agent.as_mut().expect("the agent runs");
        let ended = eventually("the agent ends", STOP_MAX, || agent.try_wait().expect("the child can be waited for"));
        self.host_mut(host).agent = None;
        ended.code()
    }

    /// Stops the agent of a host as if the machine hung; it knows nothing of it.
    pub fn pause(&self, host: usize) {
        self.signal(host, "STOP");
    }

    /// Lets a paused agent go on.
    pub fn resume(&self, host: usize) {
        self.signal(host, "CONT");
    }

    fn signal(&self, host: usize, name: &str) {
        let pid = self.pid(host).to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.expect("kill is there").success(), "the agent of host {host} could not be signalled");
    }

    /// Takes everything away that a host whose agent does not run has kept.
    pub fn wipe(&mut self, host: usize) {
        assert!(self.host(host).agent.is_none(), "host {host} runs");
        std::fs::remove_dir_all(self.data_dir(host)).expect("the data directory can be removed");
    }

    /// Returns the process id of a host's agent.
    pub fn pid(&self, host: usize) -> u32 {
        self.host(host).agent.as_ref().expect("the agent runs").id()
    }

    /// Returns the memory of a host's agent, in KiB.
    pub fn resident_kib(&self, host: usize) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(host))).expect("the agent runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("it is a number")
    }

    /// Returns the URL of a path at a host's gateway.
    pub fn url(&self, host: usize, path: &str) -> String {
        format!("http://{}:8080{path}", self.address(host))
    }

    /// Calls a host's gateway; an answer that never came is an error.
    pub fn call(&self, host: usize, path: &str) -> Result<Reply, String> {
        request_with(&self.client, "GET", &self.url(host, path), None, b"")
    }

    /// Calls a host's gateway and returns where the time of the call went.
    pub fn traced(&self, host: usize, path: &str) -> String {
        let traced = Some(("x-hearth-trace", "1".to_owned()));
        let reply = request_with(&self.client, "GET", &self.url(host, path), traced, b"").expect("the gateway answers");
        reply.header("server-timing").unwrap_or_default().to_owned()
    }

    /// Returns what callers of a host's API show.
    pub fn api_token(&self, host: usize) -> String {
        std::fs::read_to_string(self.data_dir(host).join("token")).unwrap_or_default().trim().to_owned()
    }

    /// Asks a host's API.
    pub fn operate(&self, host: usize, method: &str, path: &str, body: &[u8]) -> Result<Reply, String> {
        let header = Some(("authorization", format!("Bearer {}", self.api_token(host))));
        request_with(&self.client, method, &format!("http://{}:8090{path}", self.address(host)), header, body)
    }

    /// Returns what a host answers about the cluster.
    pub fn cluster(&self, host: usize) -> Value {
        let reply = self.operate(host, "GET", "/v1/cluster", b"").expect("the API answers");
        serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("{}", reply.body))
    }

    /// Returns the host that leads, as far as another one knows.
    pub fn leader(&self, host: usize) -> Option<usize> {
        let reply = self.operate(host, "GET", "/v1/cluster", b"").ok()?;
        let cluster: Value = serde_json::from_str(&reply.body).ok()?;
        let leader = cluster["members"].as_array()?.iter().find(|member| member["is_leader"] == true)?;
        self.host_at(leader["address"].as_str()?)
    }

    /// Waits until a host that is one of `among` leads, as all of those know.
    pub fn until_led(&self, among: &[usize]) -> usize {
        eventually("somebody leads", READY_MAX, || {
            let leader = self.leader(*among.first()?).filter(|leader| among.contains(leader))?;
            among.iter().all(|host| self.leader(*host) == Some(leader)).then_some(leader)
        })
    }

    /// Returns the addresses of those that vote, as far as a host knows.
    pub fn voters(&self, host: usize) -> Vec<String> {
        let members = self.cluster(host)["members"].as_array().cloned().unwrap_or_default();
        let voters = members.iter().filter(|member| member["role"] == "voter");
        voters.map(|member| member["address"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Returns whether a host votes, as far as another one knows.
    pub fn votes(&self, asked: usize, host: usize) -> bool {
        self.voters(asked).contains(&format!("{}:8100", self.address(host)))
    }

    /// Returns how many sandboxes of a host have a wire to it.
    pub fn wires(&self, host: usize) -> usize {
        let netns = self.netns(host);
        let output = Command::new("ip").args(["-n", &netns, "-o", "link"]).output().expect("ip is there");
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(": hearth")).count()
    }

    /// Runs a command of the CLI against a host.
    fn run(&self, host: usize, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir(host))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("hearth can be executed")
    }

    /// Runs a command of the CLI against a host, expects it to fail and returns what it says about that.
    pub fn refused(&self, host: usize, arguments: &[&str]) -> String {
        let output = self.run(host, arguments);
        assert!(!output.status.success(), "hearth {arguments:?} did not fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs a command of the CLI against a host, expects exit code 0 and returns its standard output.
    pub fn succeed(&self, host: usize, arguments: &[&str]) -> String {
        let output = self.run(host, arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "hearth {arguments:?}: {told}\n--- host {host}\n{}", self.log(host));
        String::from_utf8(output.stdout).expect("the CLI prints text")
    }

    /// Returns everything that the agent of a host said.
    pub fn log(&self, host: usize) -> String {
        std::fs::read_to_string(self.log_path(host)).unwrap_or_default()
    }

    fn data_dir(&self, host: usize) -> PathBuf {
        let host = self.host(host);
        let folder = host.data.path();
        folder.join(if host.disk.is_some() { "disk/data" } else { "data" })
    }

    fn log_path(&self, host: usize) -> PathBuf {
        self.host(host).data.path().join("log")
    }

    fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    fn host_mut(&mut self, number: usize) -> &mut Host {
        &mut self.hosts[number - 1]
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in 1..=self.hosts.len() {
                eprintln!("--- host {host}\n{}", self.log(host));
            }
        }
        self.empty();
        for host in &mut self.hosts {
            let Some(mut agent) = host.agent.take() else { continue };
            let _ = Command::new("kill").args(["-TERM", &agent.id().to_string()]).status();
            let began = Instant::now();
            while matches!(agent.try_wait(), Ok(None)) {
                if began.elapsed() > STOP_MAX {
                    let _ = agent.kill();
                    let _ = agent.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20)); // between two looks
            }
        }
        self.unwire();
    }
}

impl Rack {
    /// Ends every instance: they outlive agents on purpose, and a test leaves none behind.
    fn empty(&mut self) {
        let was_founded: Vec<usize> = (1..=self.hosts.len()).filter(|host| self.data_dir(*host).exists()).collect();
        for host in &was_founded {
            self.mend_all(*host);
            match &self.host(*host).agent {
                Some(agent) => drop(silent("kill", &["-CONT", &agent.id().to_string()])),
                None => self.launch(*host, &[]),
            }
        }
        let Some(first) = was_founded.first().copied() else { return };
        let began = Instant::now();
        let mut is_deleted = false;
        while began.elapsed() < EMPTY_MAX {
            let data = self.data_dir(first).to_string_lossy().into_owned();
            is_deleted |= silent(&binary().to_string_lossy(), &["delete", "--all", "--yes", "--data-dir", &data]);
            let is_empty = was_founded.iter().all(|host| {
                let listed = self.operate(*host, "GET", "/v1/instances", b"");
                listed.is_ok_and(|reply| reply.status == 200 && reply.body.trim() == "[]")
            });
            if is_deleted && is_empty {
                return;
            }
            std::thread::sleep(Duration::from_millis(50)); // between two looks
        }
        eprintln!("instances were left behind");
    }
}

/// Runs a command and returns whether it succeeded; what it says is nobody's business.
fn silent(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
