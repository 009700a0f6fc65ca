//! Who runs in the sandboxes of a run directory, as another process sees it: for measurements from outside.

use std::path::{Path, PathBuf};

use super::Kept;
use super::cgroup::{Cgroup, version};
use super::layout::Layout;

/// A sandbox in use.
#[derive(Clone, Debug)]
pub struct Resident {
    /// What it was launched with for a later daemon.
    pub label: String,
    /// The process in whose namespaces it lives.
    pub pid: i32,
    /// All its processes.
    pub processes: Vec<i32>,
    /// Memory that its cgroup counts, in bytes.
    pub memory_bytes: u64,
}

/// Returns the sandboxes in use.
pub fn residents(run_dir: &Path, cgroup_parent: &str) -> Vec<Resident> {
    let layout = Layout::new(PathBuf::from(run_dir));
    let kept = |slot: &str| {
        let kept = Kept::read(&layout, slot)?;
        let (processes, memory_bytes) = look(cgroup_parent, slot)?;
        Some(Resident { label: kept.label, pid: kept.pid, processes, memory_bytes })
    };
    layout.names().iter().filter_map(|slot| kept(slot)).collect()
}

/// Returns the processes of the sandboxes that wait to be used, and what the cgroup of each counts, in bytes.
pub fn blanks(run_dir: &Path, cgroup_parent: &str) -> Vec<(Vec<i32>, u64)> {
    let layout = Layout::new(PathBuf::from(run_dir));
    layout
        .names()
        .iter()
        .filter(|slot| !layout.slot(slot).join("kept.json").exists())
        .filter_map(|slot| look(cgroup_parent, slot))
        .filter(|(processes, _)| !processes.is_empty())
        .collect()
}

fn look(cgroup_parent: &str, slot: &str) -> Option<(Vec<i32>, u64)> {
    let cgroup = Cgroup::new(version()?, &format!("{cgroup_parent}/{slot}"));
    Some((cgroup.processes(), cgroup.usage().memory_bytes))
}
