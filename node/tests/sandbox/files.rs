//! What a sandbox sees of the kernel's own files and devices.

use crate::Test;
use crate::host::Host;

pub(crate) const TESTS: &[Test] = tests![kernel_files_are_masked_or_read_only, devices_are_the_harmless_ones];

/// Files of the kernel that are empty in a sandbox, or not there.
const MASKED: [&str; 10] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/interrupts",
    "/proc/acpi",
    "/proc/scsi",
    "/sys/firmware",
];

/// Files of the kernel that nobody in a sandbox may write to.
const READ_ONLY: [&str; 10] = [
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/user/max_inotify_instances",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
];

/// Everything in `/dev` but what it links to.
const DEVICES: [&str; 14] = [
    "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom",
];

async fn kernel_files_are_masked_or_read_only() {
    let host = Host::start();
    // As the sandbox's own root, too: its user is not what keeps these files.
    for uid in [1000, 0] {
        let mut request = host.request(&format!(
            "for path in {}; do if [ -d $path ]; then ls -A $path; else cat $path 2>/dev/null; fi; done | wc -c",
            MASKED.join(" ")
        ));
        request.process.uid = uid;
        let (text, _) = host.run_one(request).await;
        assert_eq!(text, "0\n", "as {uid}");
        let mut request = host.probing(&format!(
            "for path in {}; do echo $path $($PROBE write $path); done; busybox find /sys /proc/sys -name release_agent; \
             ls -A /sys/fs/cgroup; for path in /proc/bus /proc/fs /proc/sys /sys; do touch $path/x 2>&1; done; \
             echo '0 0 1' 2>&1 > /proc/self/uid_map; echo end",
            READ_ONLY.join(" ")
        ));
        request.process.uid = uid;
        let (text, _) = host.run_one(request).await;
        for path in READ_ONLY {
            let line = text.lines().find(|line| line.starts_with(&format!("{path} "))).expect("each is tried");
            let outcome = line.rsplit(' ').next().unwrap_or_default();
            assert!(["EROFS", "EACCES", "EPERM", "ENOENT"].contains(&outcome), "as {uid}: {line}");
        }
        let rest: Vec<&str> = text.lines().skip(READ_ONLY.len()).collect();
        assert_eq!(rest.last(), Some(&"end"), "as {uid}: {text}");
        let refusals = rest.iter().filter(|line| line.starts_with("touch:") || line.ends_with("not permitted"));
        assert_eq!((refusals.count(), rest.len()), (5, 6), "as {uid}: {text}");
    }
    host.end().await;
}

async fn devices_are_the_harmless_ones() {
    let host = Host::start();
    let (text, _) = host.run("ls /dev; echo; busybox find /dev -type b; busybox find /dev -type c").await;
    let (names, nodes) = text.split_once("\n\n").expect("there are two lists");
    let unusual: Vec<&str> = names.lines().filter(|name| !DEVICES.contains(name) && *name != "zero").collect();
    assert!(unusual.is_empty(), "{unusual:?}");
    let harmless = ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx"];
    for node in nodes.lines() {
        assert!(harmless.contains(&node.trim_start_matches("/dev/")), "{node}");
    }
    assert!(nodes.contains("/dev/null"), "{text}");
    host.end().await;
}
