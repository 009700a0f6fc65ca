//! Calls to the kernel that a function has no business making; each is harmless where it goes through.

use std::io;

use super::{line, name};

/// A number that is no command, no clock and no descriptor.
const ODD: libc::c_long = 0x7fff_0000;

/// A new namespace of every kind that `clone` makes.
const NAMESPACES: [(&str, libc::c_long); 7] = [
    ("clone user", 0x1000_0000),
    ("clone mount", 0x0002_0000),
    ("clone pid", 0x2000_0000),
    ("clone network", 0x4000_0000),
    ("clone ipc", 0x0800_0000),
    ("clone uts", 0x0400_0000),
    ("clone cgroup", 0x0200_0000),
];

/// Families of sockets, by name and number.
const FAMILIES: [(&str, i32); 12] = [
    ("unix", libc::AF_UNIX),
    ("inet", libc::AF_INET),
    ("inet6", libc::AF_INET6),
    ("netlink", libc::AF_NETLINK),
    ("packet", libc::AF_PACKET),
    ("vsock", libc::AF_VSOCK),
    ("alg", libc::AF_ALG),
    ("tipc", libc::AF_TIPC),
    ("bluetooth", libc::AF_BLUETOOTH),
    ("can", libc::AF_CAN),
    ("rds", libc::AF_RDS),
    ("xdp", libc::AF_XDP),
];

/// Makes a system call and says what came of it.
fn attempt(what: &str, number: libc::c_long, arguments: [libc::c_long; 5]) {
    let [a, b, c, d, e] = arguments;
    // SAFETY: every address among the arguments is null or of a text that outlives the call, so that the kernel reads
    // nothing else and writes nothing.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, 0) };
    if result >= 0 {
        line(&format!("{what}: ok"));
    } else {
        line(&format!("{what}: {}", name(&io::Error::last_os_error())));
    }
}

/// Tries every one, a line each.
#[rustfmt::skip]
pub(super) fn try_all() {
    let (user, word, here) = (c"user".as_ptr() as libc::c_long, c"word".as_ptr() as libc::c_long, c".".as_ptr() as libc::c_long);
    // Our own thread's keyring; never made, only looked for.
    let keyring: libc::c_long = -1;
    let calls: Vec<(&str, libc::c_long, [libc::c_long; 5])> = vec![
        ("bpf", libc::SYS_bpf, [ODD, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, keyring, 1, 0, 0]),
        ("add_key", libc::SYS_add_key, [user, word, word, 4, keyring]),
        ("request_key", libc::SYS_request_key, [user, word, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0, 0, 0]),
        ("io_uring_enter", libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0]),
        ("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1, -1, 0]),
        ("unshare", libc::SYS_unshare, [0, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [here, 1, 0, 0, 0]),
        ("umount2", libc::SYS_umount2, [here, ODD, 0, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [-1, here, -1, here, ODD]),
        ("mount_setattr", libc::SYS_mount_setattr, [-1, here, ODD, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [word, ODD, 0, 0, 0]),
        ("fsconfig", libc::SYS_fsconfig, [-1, ODD, 0, 0, 0]),
        ("fsmount", libc::SYS_fsmount, [-1, ODD, 0, 0, 0]),
        ("fspick", libc::SYS_fspick, [-1, here, ODD, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [-1, here, ODD, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [here, here, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [0, 0, 0, 0, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, ODD, 0]),
        ("kexec_file_load", libc::SYS_kexec_file_load, [-1, -1, 0, 0, ODD]),
        ("init_module", libc::SYS_init_module, [0, 0, word, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [-1, word, ODD, 0, 0]),
        ("delete_module", libc::SYS_delete_module, [word, 0, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [word, ODD, 0, 0, 0]),
        ("swapoff", libc::SYS_swapoff, [word, 0, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [ODD, 0, 0, 0, 0]),
        ("settimeofday", libc::SYS_settimeofday, [1, 0, 0, 0, 0]),
        ("adjtimex", libc::SYS_adjtimex, [1, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [i64::from(std::process::id()), 0, 0, 0, 0]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [i64::from(std::process::id()), 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
        ("kcmp", libc::SYS_kcmp, [i64::from(std::process::id()), i64::from(std::process::id()), ODD, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0, 0, 0]),
        ("personality odd", libc::SYS_personality, [0x004_0000, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
        ("name_to_handle_at", libc::SYS_name_to_handle_at, [-1, here, 0, 0, ODD]),
        ("quotactl", libc::SYS_quotactl, [ODD, 0, 0, 0, 0]),
        ("acct", libc::SYS_acct, [word, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [word, ODD, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [9, 0, 0, 0, 0]),
        ("fanotify_init", libc::SYS_fanotify_init, [ODD, 0, 0, 0, 0]),
        ("move_pages", libc::SYS_move_pages, [0, 0, 0, 0, 0]),
        ("mbind", libc::SYS_mbind, [0, 0, ODD, 0, 0]),
        ("vhangup", libc::SYS_vhangup, [0, 0, 0, 0, 0]),
        ("lookup_dcookie", libc::SYS_lookup_dcookie, [0, 0, 0, 0, 0]),
    ];
    for (what, number, arguments) in calls.into_iter().chain(own()) {
        attempt(what, number, arguments);
    }
    for (what, flags) in NAMESPACES {
        // A thread needs memory and signals that are shared, too: so no child is made even without a filter.
        let contradiction = libc::c_long::from(libc::CLONE_THREAD);
        attempt(what, libc::SYS_clone, [flags | contradiction, 0, 0, 0, 0]);
    }
}

/// Calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
fn own() -> Vec<(&'static str, libc::c_long, [libc::c_long; 5])> {
    vec![
        ("iopl", libc::SYS_iopl, [0, 0, 0, 0, 0]),
        ("ioperm", libc::SYS_ioperm, [0, 1, 0, 0, 0]),
        ("modify_ldt", libc::SYS_modify_ldt, [ODD, 0, 0, 0, 0]),
        // The same calls by their numbers of another table, x32.
        ("x32 getpid", 0x4000_0000 | libc::SYS_getpid, [0, 0, 0, 0, 0]),
        ("x32 unshare", 0x4000_0000 | libc::SYS_unshare, [0, 0, 0, 0, 0]),
        ("x32 ptrace", 0x4000_0000 | 521, [0, 0, 0, 0, 0]),
        ("x32 ptrace unmarked", 521, [0, 0, 0, 0, 0]),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn own() -> Vec<(&'static str, libc::c_long, [libc::c_long; 5])> {
    Vec::new()
}

/// Tries to make a socket of every family, a line each.
pub(super) fn try_sockets() {
    for (what, family) in FAMILIES {
        for kind in [libc::SOCK_RAW, libc::SOCK_SEQPACKET, libc::SOCK_DGRAM, libc::SOCK_STREAM] {
            let kind_name = match kind {
                libc::SOCK_RAW => "raw",
                libc::SOCK_SEQPACKET => "seqpacket",
                libc::SOCK_DGRAM => "dgram",
                _ => "stream",
            };
            // SAFETY: socket takes three integers; what it returns ends with this process.
            let result = unsafe { libc::socket(family, kind, 0) };
            let outcome = if result >= 0 { "ok".to_owned() } else { name(&io::Error::last_os_error()) };
            line(&format!("{what} {kind_name}: {outcome}"));
        }
        let mut pair = [0; 2];
        // SAFETY: socketpair writes two descriptors, for which there is room.
        let result = unsafe { libc::socketpair(family, libc::SOCK_DGRAM, 0, pair.as_mut_ptr()) };
        let outcome = if result >= 0 { "ok".to_owned() } else { name(&io::Error::last_os_error()) };
        line(&format!("{what} pair: {outcome}"));
    }
}
