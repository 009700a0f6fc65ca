//! What this machine has to give to instances.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use control_plane::model::{ARCH_LABEL, Bytes, FeatureLevel, MilliCpu, NodeSpec, Resources};

use crate::config::Config;
use crate::data_dir::DataDir;

/// How many times the processors are given out: a limit is a ceiling, and most instances wait most of the time.
const CPU_OVERCOMMIT: u32 = 16;

/// How much of the memory instances may hold, in percent: the rest is the machine's own.
const MEMORY_PERCENT: u64 = 90;

/// How many times memory is given out as `/tmp`: it counts against an instance's memory once it is written.
const DISK_OVERCOMMIT: u64 = 16;

/// Tasks that instances may have in all.
const PIDS: u32 = 1 << 20;

/// Returns what the node says of itself.
pub(super) fn describe(config: &Config, data_dir: &DataDir) -> io::Result<NodeSpec> {
    let cores = u32::try_from(std::thread::available_parallelism()?.get()).unwrap_or(u32::MAX);
    let memory = memory()?;
    let name = if config.name.is_empty() {
        fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned()
    } else {
        config.name.clone()
    };
    let mut labels = BTreeMap::from([(ARCH_LABEL.to_owned(), std::env::consts::ARCH.to_owned())]);
    labels.extend(config.labels.clone());
    tracing::debug!(data_dir = %data_dir.root().display(), cores, memory, "this machine");
    let capacity = Resources {
        cpu: MilliCpu(cores.saturating_mul(1000).saturating_mul(CPU_OVERCOMMIT)),
        memory: Bytes(memory / 100 * MEMORY_PERCENT),
        disk: Bytes(memory.saturating_mul(DISK_OVERCOMMIT)),
        pids: PIDS,
    };
    Ok(NodeSpec { name, capacity, labels, features: FeatureLevel(config.feature_level) })
}

/// Returns the machine's memory in bytes.
fn memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.map(|count| count << 10).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}
