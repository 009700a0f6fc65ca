//! The OCI runtime spec of a blank sandbox: everything but what it will run.

use serde_json::{Value, json};

/// How far user and group ids inside a sandbox are shifted outside: 0 inside is 100000 outside, nobody on the host.
///
/// Layers are unpacked with their owners shifted alike, so that files look right inside.
pub const ID_SHIFT: u32 = 100_000;

/// How many ids a sandbox has.
pub const ID_COUNT: u32 = 65_536;

/// The most open files of a process, unless the host allows fewer.
const FILES_MAX: u64 = 65_536;

/// What must not be seen of the kernel's files.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// What must not be changed of the kernel's files.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Returns the `config.json` of a blank sandbox.
///
/// Its init keeps only what it needs to take on the function's user id; the executor gives that up before it runs anything.
pub(super) fn blank(slot: &str, cgroup: &str, is_on_host_network: bool) -> Value {
    let ids = json!([{"containerID": 0, "hostID": ID_SHIFT, "size": ID_COUNT}]);
    let mut namespaces = vec!["pid", "mount", "ipc", "uts", "cgroup", "user"];
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
    ];
    // The kernel lets nobody mount sysfs for a network that is not its own.
    if !is_on_host_network {
        namespaces.push("network");
        mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}));
    }
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    let capabilities = json!(["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"]);
    json!({
        "ociVersion": "1.2.0",
        "hostname": slot,
        "root": {"path": "rootfs", "readonly": false},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "args": ["function"],
            "env": [],
            "noNewPrivileges": true,
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": files_max(), "hard": files_max()}],
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "uidMappings": ids,
            "gidMappings": ids,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}

/// Returns the most open files this process may give away: a hard limit cannot be raised without a capability.
pub(super) fn files_max() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.map_or(FILES_MAX, |maximum| maximum.min(FILES_MAX))
}
