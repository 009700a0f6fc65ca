//! The OCI runtime spec of a blank sandbox: everything but what it will run.

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::protocol::BlankNetwork;

/// How far user and group ids inside a sandbox are shifted outside: 0 inside is 100000 outside, nobody on the host.
///
/// Layers are unpacked with their owners shifted alike, so that files look right inside.
pub const ID_SHIFT: u32 = 100_000;

/// How many ids a sandbox has.
pub const ID_COUNT: u32 = 65_536;

/// The most open files of a process, unless the host allows fewer.
const FILES_MAX: u64 = 65_536;

/// Signals that may wait for the processes of a sandbox, and bytes that its message queues may hold.
///
/// The kernel counts both for all sandboxes together, on the account of whoever made them, and gives that one some 100,000
/// signals and 800 KiB by default: so a sandbox gets a fraction, which is one queue as the kernel makes it.
const SIGNALS_MAX: u64 = 4_096;
const QUEUE_BYTES_MAX: u64 = 102_400;

/// What of the kernel's own stock a sandbox may take: inotify instances and watches.
///
/// The kernel counts them for every sandbox together, on the account of the root that made them, and gives that 128 instances
/// by default: without a limit of its own one sandbox would leave none to the others, or to the host.
const INOTIFY_INSTANCES_MAX: u32 = 16;
const INOTIFY_WATCHES_MAX: u32 = 8_192;

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
pub(super) fn blank(slot: &str, cgroup: &str, network: &BlankNetwork) -> Value {
    let ids = json!([{"containerID": 0, "hostID": ID_SHIFT, "size": ID_COUNT}]);
    let mut namespaces = vec!["pid", "mount", "ipc", "uts", "cgroup", "user"];
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
    ];
    // The kernel lets nobody mount sysfs for a network that is not its own.
    if *network != BlankNetwork::Host {
        namespaces.push("network");
        mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}));
    }
    let namespaces: Vec<Value> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
    let rlimits: Vec<Value> = process_limits()
        .into_iter()
        .map(|limit| json!({"type": limit.name, "soft": limit.value, "hard": limit.value}))
        .collect();
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
            "rlimits": rlimits,
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "sysctl": {
                "user.max_inotify_instances": INOTIFY_INSTANCES_MAX.to_string(),
                "user.max_inotify_watches": INOTIFY_WATCHES_MAX.to_string(),
            },
            "uidMappings": ids,
            "gidMappings": ids,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}

/// A limit of every process in a sandbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessLimit {
    name: &'static str,
    /// Its number for `setrlimit`.
    pub(super) number: u32,
    pub(super) value: u64,
}

/// Returns the limits of processes, none above what this process may give away: that takes a capability.
pub(super) fn process_limits() -> [ProcessLimit; 3] {
    let limit = |name, resource, most: u64| {
        let value = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        ProcessLimit { name, number: resource as u32, value }
    };
    [
        limit("RLIMIT_NOFILE", Resource::Nofile, FILES_MAX),
        limit("RLIMIT_SIGPENDING", Resource::Sigpending, SIGNALS_MAX),
        limit("RLIMIT_MSGQUEUE", Resource::Msgqueue, QUEUE_BYTES_MAX),
    ]
}

/// Returns the most open files of a process in a sandbox.
pub(super) fn files_max() -> u64 {
    process_limits()[0].value
}
