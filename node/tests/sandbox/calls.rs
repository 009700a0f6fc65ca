//! What a function may ask of the kernel: the filter of system calls, also by the back doors of other architectures.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Test;
use crate::host::{Host, PROBE, probe_layer};
use crate::probe::MARK;

pub(crate) const TESTS: &[Test] = tests![
    dangerous_calls_are_refused_by_the_filter,
    sockets_are_of_families_that_functions_need,
    other_call_tables_do_not_lead_around_the_filter,
];

/// Calls that the kernel itself refuses to whoever has no capability, before it looks at anything else.
const REFUSED_ANYWAY: [&str; 22] = [
    "acct",
    "bpf",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "kexec_file_load",
    "kexec_load",
    "mount_setattr",
    "move_mount",
    "open_by_handle_at",
    "pivot_root",
    "reboot",
    "sethostname",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "vhangup",
];

/// Where a nobody without a sandbox stands: what the same attempts come to without a filter.
const NOBODY: u32 = 65_534;

fn outcomes(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{line} is no outcome: {text}")))
        .map(|(what, outcome)| (what.to_owned(), outcome.to_owned()))
        .collect()
}

fn outside(what: &str) -> BTreeMap<String, String> {
    let program = probe_layer().join(PROBE.trim_start_matches('/'));
    let output = Command::new(program).args([MARK, what]).uid(NOBODY).gid(NOBODY).output().expect("the probe runs");
    outcomes(&String::from_utf8_lossy(&output.stdout))
}

async fn dangerous_calls_are_refused_by_the_filter() {
    let host = Host::start();
    let (text, exit) = host.probe("$PROBE calls").await;
    assert_eq!(exit.code, Some(0), "{text}");
    let inside = outcomes(&text);
    let outside = outside("calls");
    assert_eq!(inside.keys().collect::<Vec<_>>(), outside.keys().collect::<Vec<_>>());
    assert!(inside.len() > 50, "{text}");
    // C libraries fall back to `clone` when they are told that there is no such call.
    let expected = |what: &str| if what == "clone3" { "ENOSYS" } else { "EPERM" };
    for (what, outcome) in &inside {
        assert_eq!(outcome, expected(what), "{what}");
    }
    // An attempt that fails alike without a filter would tell nothing about the filter.
    let silent: Vec<&str> = outside
        .iter()
        .filter(|(what, outcome)| *outcome == expected(what) && !REFUSED_ANYWAY.contains(&what.as_str()))
        .map(|(what, _)| what.as_str())
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
    host.end().await;
}

async fn sockets_are_of_families_that_functions_need() {
    let host = Host::start();
    let (text, _) = host.probe("$PROBE sockets").await;
    let inside = outcomes(&text);
    for (what, outcome) in &inside {
        let family = what.split(' ').next().unwrap_or_default();
        match family {
            "unix" | "inet" | "inet6" | "netlink" => assert_ne!(outcome, "EAFNOSUPPORT", "{what}: {text}"),
            // A hypervisor behind vsock would be a network that no namespace holds.
            _ => assert_eq!(outcome, "EPERM", "{what}: {text}"),
        }
    }
    for works in ["unix stream", "unix pair", "inet stream", "inet dgram", "inet6 stream", "netlink raw"] {
        assert_eq!(inside[works], "ok", "{works}: {text}");
    }
    assert_eq!(inside["inet raw"], "EPROTONOSUPPORT", "{text}");
    host.end().await;
}

async fn other_call_tables_do_not_lead_around_the_filter() {
    let host = Host::start();
    let (text, exit) = host.probe("$PROBE foreign").await;
    assert_eq!(exit.code, Some(0), "{text}");
    for (what, outcome) in outcomes(&text) {
        // SIGSYS of the filter, or SIGSEGV of a kernel without that door.
        assert!(["signal 31", "signal 11"].contains(&outcome.as_str()), "{what}: {outcome}");
    }
    if cfg!(target_arch = "x86_64") {
        assert_eq!(text.lines().count(), 3, "{text}");
    }
    host.end().await;
}
