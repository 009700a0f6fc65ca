//! The cgroups of a sandbox: limits, memory kills, usage, and their end; version 1, version 2, and the hybrid, which counts as 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::protocol::CgroupLimits;

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// How long one period of processor time is, in microseconds.
pub(super) const CPU_PERIOD_US: u64 = 100_000;

/// The least quota that the kernel takes, in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;

/// The least limit of tasks: 0 and 1 leave no room for the sandbox's own init.
const PIDS_MIN: u32 = 2;

/// Which version the host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Returns which version the host uses, or nothing where no cgroups are mounted.
pub(super) fn version() -> Option<Version> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        Some(Version::Two)
    } else if mount.join("memory").join("tasks").exists() {
        Some(Version::One)
    } else {
        None
    }
}

/// The cgroups of one sandbox, by their path below each hierarchy.
#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    version: Version,
    path: PathBuf,
}

/// What a sandbox has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in microseconds.
    pub cpu_us: u64,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// The most memory that was in use at once, in bytes.
    pub memory_peak_bytes: u64,
}

impl Cgroup {
    /// Names the cgroups at `path`, which starts with a slash.
    pub(super) fn new(version: Version, path: &str) -> Self {
        Self { version, path: PathBuf::from(path.trim_start_matches('/')) }
    }

    fn file(&self, controller: &str, name: &str) -> PathBuf {
        match self.version {
            Version::One => Path::new(MOUNT).join(controller).join(&self.path).join(name),
            Version::Two => Path::new(MOUNT).join(&self.path).join(name),
        }
    }

    fn write(&self, controller: &str, name: &str, value: impl ToString) -> io::Result<()> {
        let file = self.file(controller, name);
        fs::write(&file, value.to_string())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
    }

    fn number(&self, controller: &str, name: &str) -> u64 {
        fs::read_to_string(self.file(controller, name)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Returns the value behind a word in a file of lines `word value`.
    fn counter(&self, controller: &str, name: &str, word: &str) -> u64 {
        let text = fs::read_to_string(self.file(controller, name)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
    }

    /// Sets what the sandbox may use.
    pub(super) fn limit(&self, limits: &CgroupLimits) -> io::Result<()> {
        let quota = (u64::from(limits.cpu_milli) * CPU_PERIOD_US / 1000).max(CPU_QUOTA_MIN_US);
        let pids = limits.pids.max(PIDS_MIN);
        match self.version {
            Version::One => {
                self.write("memory", "memory.limit_in_bytes", limits.memory_bytes)?;
                // Not there unless the kernel accounts swap; then memory alone is limited.
                if self.file("memory", "memory.memsw.limit_in_bytes").exists() {
                    self.write("memory", "memory.memsw.limit_in_bytes", limits.memory_bytes)?;
                }
                self.write("cpu", "cpu.cfs_period_us", CPU_PERIOD_US)?;
                self.write("cpu", "cpu.cfs_quota_us", quota)?;
                self.write("pids", "pids.max", pids)
            }
            Version::Two => {
                self.write("", "memory.max", limits.memory_bytes)?;
                if self.file("", "memory.swap.max").exists() {
                    self.write("", "memory.swap.max", 0)?;
                }
                self.write("", "cpu.max", format!("{quota} {CPU_PERIOD_US}"))?;
                self.write("", "pids.max", pids)
            }
        }
    }

    /// Returns whether the kernel ended a process of the sandbox for memory.
    pub(super) fn has_run_out_of_memory(&self) -> bool {
        let kills = match self.version {
            Version::One => self.counter("memory", "memory.oom_control", "oom_kill"),
            Version::Two => self.counter("", "memory.events", "oom_kill"),
        };
        kills > 0
    }

    /// Returns what the sandbox has used so far; zeros once its cgroups are gone.
    pub(super) fn usage(&self) -> Usage {
        match self.version {
            Version::One => Usage {
                cpu_us: self.number("cpuacct", "cpuacct.usage") / 1000,
                memory_bytes: self.number("memory", "memory.usage_in_bytes"),
                memory_peak_bytes: self.number("memory", "memory.max_usage_in_bytes"),
            },
            Version::Two => Usage {
                cpu_us: self.counter("", "cpu.stat", "usage_usec"),
                memory_bytes: self.number("", "memory.current"),
                memory_peak_bytes: self.number("", "memory.peak"),
            },
        }
    }

    /// Returns the processes of the sandbox, as the host numbers them.
    pub(super) fn processes(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.file("pids", "cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Opens what another process writes to in order to join them, in every hierarchy that has them.
    pub(super) fn doors(&self) -> io::Result<Vec<fs::File>> {
        let hierarchies = match self.version {
            Version::One => {
                fs::read_dir(MOUNT)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?
            }
            Version::Two => vec![PathBuf::from(MOUNT)],
        };
        hierarchies
            .into_iter()
            // A hierarchy of several controllers has a link for each.
            .filter(|hierarchy| !hierarchy.is_symlink())
            .map(|hierarchy| hierarchy.join(&self.path).join("cgroup.procs"))
            .filter(|door| door.exists())
            .map(|door| fs::OpenOptions::new().write(true).open(door))
            .collect()
    }

    /// Removes the cgroups; their processes must have ended.
    pub(super) fn remove(&self) {
        let hierarchies = match self.version {
            Version::One => fs::read_dir(MOUNT)
                .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
                .unwrap_or_default(),
            Version::Two => vec![PathBuf::from(MOUNT)],
        };
        for hierarchy in hierarchies {
            let folder = hierarchy.join(&self.path);
            // Hierarchies that are links to others, or that never had it, have nothing to remove.
            if folder.exists()
                && let Err(error) = fs::remove_dir(&folder)
            {
                tracing::debug!(folder = %folder.display(), %error, "a cgroup was left behind");
            }
        }
    }
}
