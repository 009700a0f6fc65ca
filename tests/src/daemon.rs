//! One daemon as a real process, with a data directory of its own, and a client for it.

use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::{Disk, eventually};

/// How long a daemon may take until it answers.
const START_MAX: Duration = Duration::from_secs(60);

/// How long a daemon may take to end after SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(60);

/// How long the instances of a test may take to end with it.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How long one request may take.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// Returns the repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Builds `hearth` once, in the profile of these tests, and returns where it is.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        build(&["--package", "node", "--bin", "hearth"]);
        profile().join("hearth")
    })
}

/// Builds an example of this package, in the profile of these tests, and returns where it is.
pub fn example(name: &str) -> PathBuf {
    build(&["--package", "tests", "--example", name]);
    profile().join("examples").join(name)
}

fn build(what: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked"]).args(what).current_dir(repository());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo is there, it built this test");
    assert!(status.success(), "{what:?} does not build");
}

/// Returns where what is built in the profile of these tests lies.
fn profile() -> PathBuf {
    let tests = std::env::current_exe().expect("a process knows its executable");
    tests.parent().and_then(Path::parent).expect("tests lie in deps below their profile").to_path_buf()
}

/// Lets each node take a port for other nodes that is free: many run at once.
const PEERS_PORT: (&str, &str) = ("HEARTH_PORTS_PEERS", "0");

/// Runs one command against no daemon in particular and returns what it said.
pub fn hearth(arguments: &[&str]) -> Output {
    Command::new(binary())
        .env(PEERS_PORT.0, PEERS_PORT.1)
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("hearth can be executed")
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
    headers: Vec<(String, String)>,
}

impl Reply {
    /// Returns a header's value; the name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A daemon; dropping it ends it and everything it runs.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    // Unmounted after the process has ended, before its folder goes.
    disk: Option<Disk>,
    data: TempDir,
    gateway: u16,
    api: u16,
    mode: Vec<String>,
    client: ureq::Agent,
}

impl Daemon {
    /// Starts `hearth agent` on an empty data directory.
    pub fn agent() -> Self {
        Self::launch(vec!["agent".to_owned()])
    }

    /// Starts `hearth dev` for an app.
    pub fn dev(app: &Path) -> Self {
        Self::launch(vec!["dev".to_owned(), app.to_string_lossy().into_owned()])
    }

    /// Starts `hearth agent` on an empty data directory that is a small disk of its own.
    pub fn agent_on_disk(mebibytes: u32) -> Self {
        let data = tempfile::Builder::new().prefix("hearth-e2e-").tempdir().expect("a directory can be made");
        let disk = Disk::mount(&data.path().join("data"), mebibytes);
        Self::launch_in(vec!["agent".to_owned()], data, Some(disk))
    }

    fn launch(mode: Vec<String>) -> Self {
        let data = tempfile::Builder::new().prefix("hearth-e2e-").tempdir().expect("a directory can be made");
        Self::launch_in(mode, data, None)
    }

    fn launch_in(mode: Vec<String>, data: TempDir, disk: Option<Disk>) -> Self {
        let client = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(REQUEST_MAX))
            .build()
            .new_agent();
        let mut daemon = Self { child: None, disk, data, gateway: free_port(), api: free_port(), mode, client };
        daemon.start();
        daemon
    }

    /// Starts the process, again after it ended, and waits until it answers.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the log can be opened");
        let child = Command::new(binary())
            .env(PEERS_PORT.0, PEERS_PORT.1)
            .args(&self.mode)
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--bind", "127.0.0.1"])
            .args(["--gateway-port", &self.gateway.to_string()])
            .args(["--api-port", &self.api.to_string()])
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("hearth can be executed");
        self.child = Some(child);
        eventually("the daemon is ready", START_MAX, || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("the child can be waited for"));
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            let url = format!("http://127.0.0.1:{}/readyz", self.api);
            self.client.get(&url).call().ok().filter(|reply| reply.status() == 200).map(drop)
        });
    }

    /// Returns where the daemon keeps what must last.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.data.path().join("log")
    }

    /// Returns everything the daemon said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// Returns the port of the gateway.
    pub fn gateway_port(&self) -> u16 {
        self.gateway
    }

    /// Returns the URL of a path at the gateway.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.gateway)
    }

    /// Calls the gateway; an answer that never came is an error.
    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply, String> {
        request(&self.client, method, &self.url(path), body)
    }

    /// Gets a path at the gateway and expects an answer of any status.
    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, b"").unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", self.log()))
    }

    /// Posts to a path at the gateway and expects an answer of any status.
    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.call("POST", path, body.as_bytes()).unwrap_or_else(|error| panic!("POST {path}: {error}\n{}", self.log()))
    }

    /// Gets a path at the operator's port.
    pub fn operator(&self, path: &str) -> Reply {
        self.operate("GET", path, None, b"")
    }

    /// Asks at the operator's port, with a token or without.
    pub fn operate(&self, method: &str, path: &str, token: Option<&str>, body: &[u8]) -> Reply {
        let url = format!("http://127.0.0.1:{}{path}", self.api);
        let header = token.map(|token| ("authorization", format!("Bearer {token}")));
        request_with(&self.client, method, &url, header, body).expect("the API answers")
    }

    /// Returns the disk that the data directory is, if it was started on one of its own.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the daemon has a disk of its own")
    }

    /// Runs a command of the CLI against this daemon.
    pub fn hearth(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .env(PEERS_PORT.0, PEERS_PORT.1)
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .expect("hearth can be executed")
    }

    /// Runs a command of the CLI, expects exit code 0 and returns its standard output.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.hearth(arguments);
        assert!(
            output.status.success(),
            "hearth {arguments:?}: {}\n{}{}\n--- daemon\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).expect("the CLI prints text")
    }

    /// Deploys the app in a folder and waits until it serves.
    pub fn apply(&self, app: &Path) {
        self.succeed(&["apply", &app.to_string_lossy()]);
    }

    /// Returns the instances of this node, as the CLI prints them in JSON.
    pub fn instances(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.succeed(&["get", "instances", "-o", "json"])).expect("the CLI prints JSON")
    }

    /// Waits until no instance is left.
    pub fn wait_for_zero(&self, limit: Duration) {
        eventually("every instance is gone", limit, || self.instances().is_empty().then_some(()));
    }

    /// Waits until no instance of a function is left.
    pub fn wait_for_zero_of(&self, function: &str, limit: Duration) {
        eventually("every instance of the function is gone", limit, || {
            self.instances().iter().all(|instance| instance["function"] != function).then_some(())
        });
    }

    /// Sends a signal to the daemon alone.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill is there").success(), "the daemon could not be signalled");
    }

    /// Ends the daemon in the middle of whatever it does, as a crash would; what it started goes on.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("the daemon can be killed");
        child.wait().expect("the daemon can be waited for");
    }

    /// Asks the daemon to end and waits until it has; returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Waits until the daemon has ended after it was asked to; returns its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the daemon runs");
        let status = eventually("the daemon ends", STOP_MAX, || child.try_wait().expect("the child can be waited for"));
        status.code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- daemon\n{}", self.log());
        }
        if self.child.is_none() {
            return;
        }
        // Instances outlive an agent on purpose; a test leaves none behind.
        let _ = self.hearth(&["delete", "--all", "--yes"]);
        let start = std::time::Instant::now();
        while !self.hearth(&["get", "instances", "-o", "name"]).stdout.is_empty() && start.elapsed() < DRAIN_MAX {
            std::thread::sleep(Duration::from_millis(20)); // between two looks
        }
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let start = std::time::Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > STOP_MAX {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20)); // between two looks
        }
    }
}

fn request(client: &ureq::Agent, method: &str, url: &str, body: &[u8]) -> Result<Reply, String> {
    request_with(client, method, url, None, body)
}

/// Makes one request; an answer that never came is an error.
pub(crate) fn request_with(
    client: &ureq::Agent,
    method: &str,
    url: &str,
    header: Option<(&str, String)>,
    body: &[u8],
) -> Result<Reply, String> {
    let mut request = http::Request::builder().method(method).uri(url);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(body).map_err(|error| error.to_string())?;
    let mut response = client.run(request).map_err(|error| error.to_string())?;
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let mut body = Vec::new();
    response.body_mut().as_reader().read_to_end(&mut body).map_err(|error| error.to_string())?;
    Ok(Reply { status: response.status().as_u16(), body: String::from_utf8_lossy(&body).into_owned(), headers })
}

/// Returns a port of loopback that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
