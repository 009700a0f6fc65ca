//! Real sandboxes on the real kernel: what runs in them, what they can reach, and what is left of them. Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use node::sandbox::{Config, Exit, LaunchRequest, Limits, Network, Process, Sandbox, Sandboxes, Signal, Start};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

/// Sandboxes with a layer that holds a static shell.
struct Host {
    sandboxes: Sandboxes,
    run_dir: TempDir,
    layer: TempDir,
    config: Config,
}

fn shell() -> PathBuf {
    let shell = PathBuf::from("/bin/busybox");
    assert!(shell.exists(), "these tests need a static shell: install busybox-static");
    shell
}

impl Host {
    fn start() -> Self {
        let run_dir = tempfile::Builder::new().prefix("hearth-").tempdir_in("/run").expect("/run can be written to");
        let layer = tempfile::tempdir().expect("a directory can be made");
        std::fs::set_permissions(layer.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        std::fs::create_dir_all(layer.path().join("bin")).expect("a folder can be made");
        std::fs::copy(shell(), layer.path().join("bin/busybox")).expect("the shell can be copied");
        for name in
            ["sh", "cat", "echo", "id", "ls", "mount", "unshare", "wc", "dd", "mknod", "ip", "sleep", "touch", "true"]
        {
            std::os::unix::fs::symlink("busybox", layer.path().join("bin").join(name)).expect("a link can be made");
        }
        let config = Config {
            run_dir: run_dir.path().to_path_buf(),
            executable: PathBuf::from(env!("CARGO_BIN_EXE_hearth")),
            spawners: 1,
            pool_size: 1,
            cgroup_parent: run_dir.path().file_name().expect("it has a name").to_string_lossy().into_owned(),
        };
        let (sandboxes, adopted) = Sandboxes::start(config.clone()).expect("sandboxes can be made; they need root");
        assert!(adopted.is_empty());
        Self { sandboxes, run_dir, layer, config }
    }

    fn request(&self, script: &str) -> LaunchRequest {
        LaunchRequest {
            id: "test".to_owned(),
            layers: vec![self.layer.path().to_path_buf()],
            process: Process {
                argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
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

    async fn launch(&self, script: &str) -> Sandbox {
        self.sandboxes.launch(self.request(script)).await.expect("the sandbox starts")
    }

    /// Runs a script to its end and returns what it wrote and how it ended.
    async fn run(&self, script: &str) -> (String, Exit) {
        let sandbox = self.launch(script).await;
        finish(&sandbox).await
    }
}

async fn finish(sandbox: &Sandbox) -> (String, Exit) {
    let mut output = sandbox.take_output().expect("the output is taken once");
    let exit = tokio::time::timeout(Duration::from_secs(10), sandbox.wait()).await.expect("the script ends");
    let mut text = String::new();
    output.stdout.read_to_string(&mut text).await.expect("the output can be read");
    output.stderr.read_to_string(&mut text).await.expect("the output can be read");
    sandbox.destroy().await;
    (text, exit)
}

fn cgroup_exists(host: &Host) -> bool {
    ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().any(|mount| {
        let folder = Path::new(mount).join(&host.config.cgroup_parent);
        std::fs::read_dir(folder).map(|entries| entries.flatten().any(|entry| entry.path().is_dir())).unwrap_or(false)
    })
}

#[tokio::test]
async fn a_process_runs_as_nobody_without_privileges_on_a_read_only_root() {
    let host = Host::start();
    let (text, exit) =
        host.run("id -u; cat /proc/self/status; touch /file 2>&1 || echo refused; echo x > /tmp/f && cat /tmp/f").await;
    assert_eq!(exit, Exit { code: Some(0), signal: None, out_of_memory: false }, "{text}");
    assert!(text.starts_with("1000\n"), "{text}");
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(text.contains(line), "{line} is missing: {text}");
    }
    assert!(text.contains("refused") && text.ends_with("x\n"), "{text}");
    host.sandboxes.shutdown().await;
    assert!(!cgroup_exists(&host), "cgroups are left behind");
}

#[tokio::test]
async fn a_sandbox_sees_nothing_of_its_host() {
    let host = Host::start();
    let (text, _) = host.run("ls /proc | wc -l; ls -l /proc/self/fd; ip addr; cat /proc/kcore; ls /sys/firmware").await;
    assert!(text.contains("127.0.0.1/8") && text.contains("LOOPBACK,UP"), "lo is up: {text}");
    assert!(!text.contains("eth0") && !text.contains("veth"), "{text}");
    let descriptors = text.lines().filter(|line| line.contains(" -> ")).count();
    assert_eq!(descriptors, 3, "0, 1 and 2: {text}");
    host.sandboxes.shutdown().await;
}

#[tokio::test]
async fn dangerous_calls_are_refused() {
    let host = Host::start();
    for script in ["unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "mknod /tmp/null c 1 3"] {
        let (text, exit) = host.run(script).await;
        assert!(exit.code.is_some_and(|code| code != 0), "{script} went through: {text}");
        assert!(text.contains("not permitted") || text.contains("denied"), "{script}: {text}");
    }
    host.sandboxes.shutdown().await;
}

#[tokio::test]
async fn limits_hold_and_out_of_memory_is_told_apart() {
    let host = Host::start();
    let (text, exit) = host.run("dd if=/dev/zero of=/tmp/fill bs=1M count=64").await;
    assert!(text.contains("No space left"), "/tmp is limited: {text}");
    assert_eq!(exit.code, Some(1));
    let (text, exit) = host.run("for i in $(busybox seq 100); do sleep 5 & done; wait").await;
    assert!(text.contains("fork"), "tasks are limited: {text} {exit:?}");
    let (text, exit) =
        host.run("x=$(dd if=/dev/zero bs=1M count=256 2>/dev/null | busybox tr '\\0' 'a'); echo $x | wc -c").await;
    assert!(exit.out_of_memory, "memory is limited: {text} {exit:?}");
    host.sandboxes.shutdown().await;
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_and_any_number_may_wait() {
    let host = Host::start();
    let (_, exit) = host.run("exit 42").await;
    assert_eq!((exit.code, exit.signal), (Some(42), None));
    let sandbox = host.launch("sleep 60").await;
    sandbox.signal(Signal::Kill);
    let (first, second) = tokio::join!(sandbox.wait(), sandbox.wait());
    assert_eq!((first.signal, second.signal), (Some(9), Some(9)));
    sandbox.destroy().await;
    let (text, exit) = host.run_missing().await;
    assert_eq!(exit.code, Some(127), "{text}");
    host.sandboxes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_read_however_soon_its_writer_ended() {
    let host = Host::start();
    let runs = futures_util::future::join_all((0..60).map(|_| host.run("echo done"))).await;
    for (text, exit) in runs {
        assert_eq!((text.as_str(), exit.code), ("done\n", Some(0)));
    }
    host.sandboxes.shutdown().await;
}

impl Host {
    async fn run_missing(&self) -> (String, Exit) {
        let mut request = self.request("");
        request.process.argv = vec!["/bin/nothing".to_owned()];
        let sandbox = self.sandboxes.launch(request).await.expect("the sandbox starts");
        finish(&sandbox).await
    }
}

#[tokio::test]
async fn a_running_sandbox_is_adopted_by_the_next_daemon_and_a_blank_one_is_not() {
    let host = Host::start();
    let sandbox = host.launch("echo before; read line < /tmp/never || sleep 60").await;
    let pid = sandbox.pid();
    drop(sandbox);
    host.sandboxes.shutdown().await;
    let (again, mut adopted) = Sandboxes::start(host.config.clone()).expect("sandboxes can be made");
    let sandbox = adopted.pop().expect("the sandbox still runs");
    assert!(adopted.is_empty(), "a blank sandbox was adopted");
    assert_eq!((sandbox.pid(), sandbox.label(), sandbox.id()), (pid, "a label", "test"));
    let mut output = sandbox.take_output().expect("the output is there again");
    let mut line = [0; 7];
    output.stdout.read_exact(&mut line).await.expect("what was written meanwhile is read");
    assert_eq!(&line, b"before\n");
    sandbox.destroy().await;
    again.shutdown().await;
    assert!(!cgroup_exists(&host), "cgroups are left behind");
    drop(host.run_dir);
}
