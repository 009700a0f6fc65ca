//! What a daemon finds of the one before: sandboxes that still run, and the leftovers of everything else.

use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use super::super::cgroup::{Cgroup, Version};
use super::super::layout::Layout;
use super::super::process::{Known, Process as Child};
use super::super::{Kept, Sandbox};
use super::Config;
use super::lane::open_output;

/// How long the last processes of an ended sandbox may hold its cgroups.
const LEFTOVER_MAX: Duration = Duration::from_secs(5);

/// Returns the sandboxes that still run from before, and removes everything else that an earlier daemon left.
pub(super) fn adopt(config: &Config, layout: &Layout, version: Version, known: &Known) -> Vec<Sandbox> {
    let mut adopted = Vec::new();
    for slot in layout.names() {
        match adopt_one(config, layout, version, known, &slot) {
            Some(sandbox) => adopted.push(sandbox),
            None => remove_leftover(config, layout, version, &slot),
        }
    }
    adopted
}

fn adopt_one(config: &Config, layout: &Layout, version: Version, known: &Known, slot: &str) -> Option<Sandbox> {
    let kept = Kept::read(layout, slot)?;
    if !is_in_sandbox(config, slot, kept.pid) {
        return None;
    }
    let cgroup = Cgroup::new(version, &format!("{}/{slot}", config.cgroup_parent));
    let child = Child::watch(kept.pid, false, cgroup.clone(), known.clone()).ok()?;
    // Its number may have gone to another process between the look and the watch.
    if !is_in_sandbox(config, slot, kept.pid) {
        return None;
    }
    Some(Sandbox {
        id: kept.id,
        label: kept.label,
        slot: slot.to_owned(),
        layout: layout.clone(),
        cgroup,
        child,
        output: Mutex::new(Some(open_output(layout, slot).ok()?)),
        listener: Mutex::new(None),
    })
}

/// Returns whether a process lives in the cgroups of a sandbox: numbers are used again, cgroups are not.
fn is_in_sandbox(config: &Config, slot: &str, pid: i32) -> bool {
    let path = format!("/{}/{slot}", config.cgroup_parent);
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups.lines().any(|line| line.ends_with(&path))
}

/// Ends whatever is left of a sandbox and removes it.
///
/// Its processes are those in its cgroups: also what a container was left with whose making was cut short.
pub(super) fn remove_leftover(config: &Config, layout: &Layout, version: Version, slot: &str) {
    let cgroup = Cgroup::new(version, &format!("{}/{slot}", config.cgroup_parent));
    let start = std::time::Instant::now();
    loop {
        let processes = cgroup.processes();
        if processes.is_empty() || start.elapsed() > LEFTOVER_MAX {
            break;
        }
        for pid in processes {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            // It is a child of this daemon or of none.
            let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    layout.remove(slot);
    cgroup.remove();
}
