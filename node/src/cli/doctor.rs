//! `hearth doctor`: whether this machine can run a node, a line for each thing that one needs.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::args::{Format, Target};
use super::failure::Failure;
use super::output;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::{RUN_ROOT_DEFAULT, running};
use crate::net;

/// The oldest kernel that everything is tried on.
const KERNEL_MIN: (u32, u32) = (6, 5);

/// Below this much room a node does not start well: the log alone takes two segments.
const DISK_FAIL_BYTES: u64 = 256 << 20;

/// Below this much room images soon fill the disk.
const DISK_WARN_BYTES: u64 = 4 << 30;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    /// It is as it must be.
    Ok,
    /// A node runs, and something will be missed.
    Warn,
    /// No node can run.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Health,
    found: String,
    hint: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Health, found: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = (status != Health::Ok).then(|| hint.into());
        Self { name, status, found: found.into(), hint }
    }
}

fn needed(is_there: bool) -> Health {
    if is_there { Health::Ok } else { Health::Fail }
}

fn useful(is_there: bool) -> Health {
    if is_there { Health::Ok } else { Health::Warn }
}

/// Looks at everything, prints it, and fails if a node cannot run.
pub(super) fn doctor(target: &Target, format: Format) -> Result<(), Failure> {
    let defaults = Config::default();
    let data_dir = target.data_dir.clone().unwrap_or_else(|| defaults.data_dir.clone());
    let mut checks =
        vec![root(), kernel(), cgroups(), namespaces(), overlay(), seccomp(), packet_filter(), disk(&data_dir)];
    checks.extend([("gateway port", defaults.ports.gateway), ("API port", defaults.ports.api)].map(port));
    checks.extend([language("python3", "python3"), language("nodejs", "node"), clock()]);
    output::list(format, &checks, &["name", "status", "found", "hint"])?;
    let failing: Vec<&str> =
        checks.iter().filter(|check| check.status == Health::Fail).map(|check| check.name).collect();
    if failing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("no node can run here: {}", failing.join(", "))).hint("the last column says what helps"))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn root() -> Check {
    let user = nix::unistd::geteuid();
    Check::new("root", needed(user.is_root()), format!("user {user}"), "run it with sudo: containers need root")
}

fn kernel() -> Check {
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = KERNEL_MIN;
    let hint = format!("Hearth is tried on Linux {major}.{minor} and later");
    Check::new("kernel", useful(version >= KERNEL_MIN), release, hint)
}

fn cgroups() -> Check {
    let wanted = ["memory", "cpu", "pids"];
    let (version, known): (&str, Vec<String>) = match fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
        Ok(list) => ("version 2", list.split_whitespace().map(str::to_owned).collect()),
        Err(_) => {
            let mounted = |name: &&str| Path::new("/sys/fs/cgroup").join(name).join("tasks").exists();
            ("version 1", wanted.iter().copied().filter(mounted).map(str::to_owned).collect())
        }
    };
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !known.iter().any(|known| known == name)).collect();
    if known.is_empty() {
        return Check::new("cgroups", Health::Fail, "none", "mount cgroups at /sys/fs/cgroup");
    }
    let found = format!(
        "{version}: {}",
        wanted.into_iter().filter(|name| !missing.contains(name)).collect::<Vec<_>>().join(", ")
    );
    let hint = format!("the kernel must offer the controllers {}", missing.join(", "));
    Check::new("cgroups", needed(missing.is_empty()), found, hint)
}

fn namespaces() -> Check {
    let kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let missing: Vec<&str> = kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if !missing.is_empty() {
        return Check::new(
            "namespaces",
            Health::Fail,
            format!("without {}", missing.join(", ")),
            "another kernel has them",
        );
    }
    let users: u64 = read("/proc/sys/user/max_user_namespaces").parse().unwrap_or(0);
    let hint = "sysctl -w user.max_user_namespaces=65536";
    Check::new("namespaces", needed(users > 0), format!("{} kinds, {users} user namespaces", kinds.len()), hint)
}

fn overlay() -> Check {
    let known = read("/proc/filesystems");
    let is_there = known.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    let found = if is_there { "overlay" } else { "none" };
    Check::new("overlayfs", needed(is_there), found, "modprobe overlay")
}

fn seccomp() -> Check {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    let has_filters = actions.split_whitespace().any(|action| action == "errno");
    Check::new(
        "seccomp",
        needed(has_filters),
        if actions.is_empty() { "none" } else { "filters" },
        "another kernel has it",
    )
}

/// Looks for what functions with a way out need of the kernel.
fn packet_filter() -> Check {
    let hint = "functions with network = \"egress\" need it: modprobe nf_tables, as root";
    match net::filters() {
        Ok(()) => Check::new("nf_tables", Health::Ok, "it answers", hint),
        Err(error) => Check::new("nf_tables", Health::Warn, error.to_string(), hint),
    }
}

/// Looks at the disk that a data directory is or will be on.
fn disk(data_dir: &Path) -> Check {
    let there = data_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let hint = format!("make room on the disk of {}, or choose another with --data-dir", data_dir.display());
    match nix::sys::statvfs::statvfs(there) {
        Err(error) => Check::new("disk", Health::Warn, error.to_string(), hint),
        Ok(figures) => {
            let free = figures.blocks_available().saturating_mul(figures.fragment_size());
            let status = match free {
                ..DISK_FAIL_BYTES => Health::Fail,
                DISK_FAIL_BYTES..DISK_WARN_BYTES => Health::Warn,
                _ => Health::Ok,
            };
            Check::new("disk", status, format!("{} MiB free at {}", free >> 20, there.display()), hint)
        }
    }
}

/// Looks whether a node with the usual ports could take one; a node that runs has it rightly.
fn port((name, port): (&'static str, u16)) -> Check {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Check::new(name, Health::Ok, format!("{port} is free"), ""),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let nodes = running(Path::new(RUN_ROOT_DEFAULT));
            let by = match nodes.as_slice() {
                [] => String::new(),
                [node, ..] => format!("; a node runs here, with {}", node.data_dir.display()),
            };
            let hint = format!("`ss -ltnp 'sport = :{port}'` shows by whom; --gateway-port and --api-port take others");
            Check::new(name, Health::Warn, format!("{port} is in use{by}"), hint)
        }
        Err(error) => Check::new(name, Health::Warn, format!("{port}: {error}"), "is there a loopback interface?"),
    }
}

fn language(name: &'static str, program: &str) -> Check {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found: Option<PathBuf> =
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file());
    let hint = format!("install it to run functions in {name} without a base image");
    let told = found.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    Check::new(name, useful(found.is_some()), told, hint)
}

/// Looks whether the clock can be right: it is not before this binary was made.
fn clock() -> Check {
    let now = Clock::system().now_us() / 1_000_000;
    let made = std::env::current_exe().and_then(fs::metadata).and_then(|binary| binary.modified());
    let made = made.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs());
    let shown = humantime::format_rfc3339_seconds(UNIX_EPOCH + std::time::Duration::from_secs(now)).to_string();
    Check::new("clock", useful(now >= made), shown, "it is before this binary was made: set it, or run an NTP client")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_not_there_yet_is_looked_at_where_it_will_be() {
        let folder = tempfile::tempdir().unwrap();
        let check = disk(&folder.path().join("not/there/yet"));
        assert!(check.found.ends_with(&folder.path().display().to_string()), "{check:?}");
    }

    #[test]
    fn what_is_well_needs_no_hint_and_what_is_not_has_one() {
        for check in
            [kernel(), cgroups(), namespaces(), overlay(), seccomp(), language("cobol", "cobc-is-not-here"), clock()]
        {
            assert_eq!(check.hint.is_some(), check.status != Health::Ok, "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_told() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let check = port(("gateway port", taken));
        assert_eq!(check.status, Health::Warn);
        assert!(check.found.contains(&taken.to_string()) && check.hint.unwrap().contains("ss -ltnp"));
    }
}
