//! What every test of this folder starts from: sandboxes of its own, a layer with a shell, and one with the probe.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use node::net;
use node::sandbox::{Config, Exit, LaunchRequest, Limits, Network, Output, Process, Sandbox, Sandboxes, Signal, Start};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use crate::probe::MARK;

/// How long a script may take to its end.
const SCRIPT_MAX: Duration = Duration::from_secs(10);

/// Where the probe lies in a sandbox.
pub(crate) const PROBE: &str = "/probe/sandbox";

/// The layer with the probe, made once for all tests: the program is large.
static PROBE_LAYER: Mutex<Option<TempDir>> = Mutex::new(None);

/// Sandboxes with a layer that holds a static shell.
pub(crate) struct Host {
    pub(crate) sandboxes: Sandboxes,
    pub(crate) run_dir: TempDir,
    pub(crate) layer: TempDir,
    pub(crate) config: Config,
}

/// Runs an asynchronous test.
pub(crate) fn in_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be made")
        .block_on(test);
}

/// Returns a directory that anybody may pass through.
pub(crate) fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a directory can be made");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("the mode can be set");
    folder
}

/// Returns the layer with this very program as the probe, and with the libraries that it needs.
pub(crate) fn probe_layer() -> PathBuf {
    let mut layer = PROBE_LAYER.lock().expect("no test panics while it makes the layer");
    let folder = layer.get_or_insert_with(|| {
        let folder = open_folder();
        let executable = std::env::current_exe().expect("a program has a path");
        let place = |from: &Path, to: &str| {
            let to = folder.path().join(to.trim_start_matches('/'));
            std::fs::create_dir_all(to.parent().expect("it has a folder")).expect("a folder can be made");
            std::fs::copy(from, to).expect("a file can be copied");
        };
        place(&executable, PROBE);
        let output = Command::new("ldd").arg(&executable).output().expect("ldd is there");
        let listed = String::from_utf8(output.stdout).expect("paths of libraries are text");
        let libraries: Vec<&str> =
            listed.split_whitespace().filter(|word| word.starts_with('/') && Path::new(word).is_file()).collect();
        assert!(!libraries.is_empty(), "the program needs its libraries: {listed}");
        for library in libraries {
            place(Path::new(library), library);
        }
        folder
    });
    folder.path().to_path_buf()
}

/// Removes the layer with the probe; to be called when all tests have ended.
pub(crate) fn remove_probe() {
    drop(PROBE_LAYER.lock().ok().and_then(|mut layer| layer.take()));
}

fn shell() -> PathBuf {
    let shell = PathBuf::from("/bin/busybox");
    assert!(shell.exists(), "these tests need a static shell: install busybox-static");
    shell
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| ())
    }

    /// Starts sandboxes with a configuration that differs.
    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let run_dir = tempfile::Builder::new().prefix("hearth-").tempdir_in("/run").expect("/run can be written to");
        let layer = open_folder();
        std::fs::create_dir_all(layer.path().join("bin")).expect("a folder can be made");
        std::fs::copy(shell(), layer.path().join("bin/busybox")).expect("the shell can be copied");
        for name in
            ["sh", "cat", "echo", "id", "ls", "mount", "unshare", "wc", "dd", "mknod", "ip", "sleep", "touch", "true"]
        {
            std::os::unix::fs::symlink("busybox", layer.path().join("bin").join(name)).expect("a link can be made");
        }
        let name = run_dir.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        let mut config = Config {
            run_dir: run_dir.path().to_path_buf(),
            executable: PathBuf::from(env!("CARGO_BIN_EXE_hearth")),
            spawners: 1,
            pool_size: 1,
            egress: net::Config {
                name: name.clone(),
                folder: run_dir.path().join("egress"),
                subnet: net::Subnet::default(),
                dns: Vec::new(),
                peers: watch::Sender::new(BTreeSet::new()).subscribe(),
            },
            cgroup_parent: name,
        };
        change(&mut config);
        let (sandboxes, adopted) = Sandboxes::start(config.clone()).expect("sandboxes can be made; they need root");
        assert!(adopted.is_empty());
        Self { sandboxes, run_dir, layer, config }
    }

    /// Returns the request to run a program, with the layer of the shell.
    pub(crate) fn program(&self, argv: &[&str]) -> LaunchRequest {
        LaunchRequest {
            id: "test".to_owned(),
            layers: vec![self.layer.path().to_path_buf()],
            process: Process {
                argv: argv.iter().map(|&word| word.to_owned()).collect(),
                env: vec![("PATH".to_owned(), "/bin".to_owned())],
                cwd: "/".to_owned(),
                uid: 1000,
                gid: 1000,
            },
            limits: Limits { memory_bytes: 64 << 20, cpu_milli: 1000, pids: 32, tmp_bytes: 8 << 20 },
            network: Network::None,
            channel: false,
            loopback_port: None,
            start: Start::Exec,
            label: "a label".to_owned(),
        }
    }

    /// Returns the request to run a script; it may use the probe.
    pub(crate) fn request(&self, script: &str) -> LaunchRequest {
        self.program(&["sh", "-c", script])
    }

    /// Returns the request to run a script that uses the probe as `$PROBE`.
    pub(crate) fn probing(&self, script: &str) -> LaunchRequest {
        let mut request = self.request(script);
        request.layers.push(probe_layer());
        request.process.env.push(("PROBE".to_owned(), format!("{PROBE} {MARK}")));
        request
    }

    pub(crate) async fn launch(&self, script: &str) -> Sandbox {
        self.start_one(self.request(script)).await
    }

    pub(crate) async fn start_one(&self, request: LaunchRequest) -> Sandbox {
        self.sandboxes.launch(request).await.expect("the sandbox starts")
    }

    /// Runs a script to its end and returns what it wrote and how it ended.
    pub(crate) async fn run(&self, script: &str) -> (String, Exit) {
        self.run_one(self.request(script)).await
    }

    /// Runs a script that uses the probe to its end and returns what it wrote and how it ended.
    pub(crate) async fn probe(&self, script: &str) -> (String, Exit) {
        self.run_one(self.probing(script)).await
    }

    pub(crate) async fn run_one(&self, request: LaunchRequest) -> (String, Exit) {
        finish(&self.start_one(request).await).await
    }

    /// Starts a script that uses the probe, and returns once it wrote its first line, with that line.
    pub(crate) async fn start_until_line(&self, request: LaunchRequest) -> (Sandbox, Output, String) {
        let sandbox = self.start_one(request).await;
        let mut output = sandbox.take_output().expect("the output is taken once");
        let mut line = Vec::new();
        let read = async {
            while !line.ends_with(b"\n") {
                line.push(output.stdout.read_u8().await.expect("the script writes a line"));
            }
        };
        tokio::time::timeout(SCRIPT_MAX, read).await.expect("the script writes a line in time");
        (sandbox, output, String::from_utf8_lossy(&line).trim().to_owned())
    }

    /// Asserts that sandboxes start and answer, ends them all, and asserts that nothing is left.
    pub(crate) async fn end(self) {
        let (text, exit) = self.run("echo alive").await;
        assert_eq!((text.as_str(), exit.code), ("alive\n", Some(0)));
        self.sandboxes.shutdown().await;
        assert!(!cgroup_exists(&self), "cgroups are left behind");
        let left: Vec<PathBuf> = std::fs::read_dir(self.run_dir.path().join("sandboxes"))
            .expect("the run directory is there")
            .map(|entry| entry.expect("it can be read").path())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("a process has mounts");
        let own = self.run_dir.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&own), "mounts are left behind: {mounts}");
    }
}

impl Drop for Host {
    /// Ends what a failed test left running: some of it takes what there is of the machine.
    fn drop(&mut self) {
        for mount in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let folder = Path::new(mount).join(&self.config.cgroup_parent);
            for sandbox in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let processes = std::fs::read_to_string(sandbox.path().join("cgroup.procs")).unwrap_or_default();
                for pid in processes.lines().filter_map(|line| line.parse().ok()) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
    }
}

/// Waits for the end of a sandbox's script, removes the sandbox, and returns what was written and how it ended.
pub(crate) async fn finish(sandbox: &Sandbox) -> (String, Exit) {
    let mut output = sandbox.take_output().expect("the output is taken once");
    let Ok(exit) = tokio::time::timeout(SCRIPT_MAX, sandbox.wait()).await else {
        sandbox.signal(Signal::Kill);
        let _ = sandbox.wait().await;
        let mut text = String::new();
        let _ = output.stdout.read_to_string(&mut text).await;
        let _ = output.stderr.read_to_string(&mut text).await;
        panic!("the script did not end: {text}");
    };
    let mut text = String::new();
    output.stdout.read_to_string(&mut text).await.expect("the output can be read");
    output.stderr.read_to_string(&mut text).await.expect("the output can be read");
    sandbox.destroy().await;
    (text, exit)
}

/// Returns whether any sandbox of a host has cgroups.
pub(crate) fn cgroup_exists(host: &Host) -> bool {
    ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().any(|mount| {
        let folder = Path::new(mount).join(&host.config.cgroup_parent);
        std::fs::read_dir(folder).map(|entries| entries.flatten().any(|entry| entry.path().is_dir())).unwrap_or(false)
    })
}
