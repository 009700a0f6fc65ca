//! Sandboxes of our own, made as the daemon makes its own, and the program that writes one byte in them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::{Bench, BenchError, PATIENCE, folder_in, io_at, program};
use crate::config;
use crate::net;
use crate::sandbox::{self, ID_SHIFT, LaunchRequest, Limits, Network, Process, Sandbox, Sandboxes, Start};

/// The program in its root.
const PROGRAM: &str = "/first";

/// A pool of sandboxes, and a root for them.
#[derive(Debug)]
pub(super) struct Yard {
    pub(super) sandboxes: Sandboxes,
    pub(super) request: LaunchRequest,
    pub(super) cgroup_parent: String,
    pub(super) pool: usize,
    // On tmpfs: bundles, pipes and the root of what runs.
    folder: TempDir,
}

impl Yard {
    /// Opens one with `pool` blank sandboxes, or as many as a node has.
    pub(super) fn open(bench: &Bench<'_>, pool: Option<usize>) -> Result<Self, BenchError> {
        let what = io_at("a root for the benchmark cannot be made");
        let folder = folder_in("/run").map_err(&what)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).map_err(&what)?;
        let root = folder.path().join("root");
        for part in ["", "proc", "sys", "dev", "tmp"] {
            let place = root.join(part);
            fs::create_dir_all(&place).map_err(&what)?;
            chown(&place, Some(ID_SHIFT), Some(ID_SHIFT)).map_err(&what)?;
        }
        let bytes = program::first_byte().map_err(&what)?;
        program::install(&bytes, &root.join(PROGRAM.trim_start_matches('/'))).map_err(&what)?;
        let defaults = config::Config::default().sandbox;
        let count = |number: u32| usize::try_from(number).unwrap_or(1);
        let pool = pool.unwrap_or(count(defaults.pool));
        let cgroup_parent = folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let config = sandbox::Config {
            run_dir: folder.path().join("run"),
            executable: bench.executable.clone(),
            spawners: count(defaults.spawners),
            pool_size: pool,
            egress: net::Config {
                name: cgroup_parent.clone(),
                folder: folder.path().join("egress"),
                subnet: net::Subnet::default(),
                dns: Vec::new(),
                peers: watch::Sender::new(BTreeSet::new()).subscribe(),
            },
            cgroup_parent: cgroup_parent.clone(),
        };
        let (sandboxes, _) = Sandboxes::start(config)?;
        let request = LaunchRequest {
            id: "first".to_owned(),
            layers: vec![root],
            process: Process {
                argv: vec![PROGRAM.to_owned()],
                env: Vec::new(),
                cwd: "/".to_owned(),
                uid: 1000,
                gid: 1000,
            },
            limits: Limits { memory_bytes: 128 << 20, cpu_milli: 1000, pids: 64, tmp_bytes: 64 << 20 },
            network: Network::None,
            channel: false,
            loopback_port: None,
            start: Start::Exec,
            label: String::new(),
        };
        Ok(Self { sandboxes, request, cgroup_parent, pool, folder })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The program outside of any sandbox.
    pub(super) fn program(&self) -> PathBuf {
        self.folder.path().join("root").join(PROGRAM.trim_start_matches('/'))
    }

    /// Waits until the pool is full.
    pub(super) fn wait_full(&self) -> Result<(), BenchError> {
        self.wait_full_of(Network::None)
    }

    /// Waits until the pool of sandboxes for a network is full.
    pub(super) fn wait_full_of(&self, network: Network) -> Result<(), BenchError> {
        super::until("the pool fills", || self.sandboxes.blank_count(network) >= self.pool)
    }

    /// Starts one sandbox and returns the time since `start` until the first byte of its process.
    pub(super) async fn first_byte(&self, request: LaunchRequest, start: Instant) -> Result<Duration, BenchError> {
        let sandbox = self.sandboxes.launch(request).await?;
        let took = match read_byte(&sandbox).await {
            Ok(()) => Ok(start.elapsed()),
            Err(error) => Err(error),
        };
        sandbox.destroy().await;
        took
    }

    /// Ends the spawners and what they made.
    pub(super) async fn close(self) {
        self.sandboxes.shutdown().await;
    }
}

async fn read_byte(sandbox: &Sandbox) -> Result<(), BenchError> {
    let failed = |reason: String| BenchError::Program { program: "the program in the sandbox".to_owned(), reason };
    let mut output = sandbox.take_output().ok_or_else(|| failed("it has no output".to_owned()))?;
    match tokio::time::timeout(PATIENCE, output.stdout.read_u8()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(BenchError::Timeout("the first byte of a sandbox")),
    }
}
