//! Which system calls a sandbox may make: Docker's default profile as the model, compiled once per spawner.
//!
//! An allow-list: what is not named fails with EPERM. `clone` may not make namespaces, and `clone3`, whose flags a filter
//! cannot see, fails with ENOSYS so that C libraries fall back to `clone`. Not on the list, among others: mount, unshare,
//! setns, bpf, perf_event_open, keyctl, io_uring, userfaultfd, ptrace, kexec, module loading, clock setting. Sockets are of a
//! few families only: vsock knows no namespaces and leads to the hypervisor, and the rest is kernel code nobody here needs.
#![expect(unsafe_code, reason = "a filter is handed to the kernel by its address")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use serde_json::{Value, json};

use super::filter::{self, Rule};

/// Flags of `clone` that make namespaces.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// Personalities that change no protection: Linux, and those of 32-bit and of fixed uname.
const PERSONALITIES: [u32; 4] = [0x0, 0x8, 0x2_0000, 0x2_0008];

/// Families of sockets that functions need: `AF_UNIX`, `AF_INET`, `AF_INET6`, `AF_NETLINK`.
const FAMILIES: [u32; 4] = [1, 2, 10, 16];

/// System calls whose first argument is a family of sockets.
const OF_FAMILIES: [(&str, libc::c_long); 2] = [("socket", libc::SYS_socket), ("socketpair", libc::SYS_socketpair)];

/// The compiled profile.
#[derive(Clone)]
pub(super) struct Profile(Vec<libc::sock_filter>);

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("instructions", &self.0.len()).finish()
    }
}

macro_rules! numbers {
    ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
}

/// System calls that are allowed whatever their arguments are, with the names of their numbers.
#[rustfmt::skip]
fn allowed() -> Vec<(&'static str, libc::c_long)> {
    let every = numbers![
        SYS_accept SYS_accept4 SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_adjtime SYS_clock_getres
        SYS_clock_gettime SYS_clock_nanosleep SYS_clone3 SYS_close SYS_close_range SYS_connect SYS_copy_file_range
        SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve
        SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark
        SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr
        SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex
        SYS_futex_waitv SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid
        SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom
        SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid
        SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_ioctl
        SYS_ioprio_get SYS_ioprio_set SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset
        SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr
        SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier SYS_memfd_create SYS_mincore SYS_mkdirat SYS_mknodat
        SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open
        SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd
        SYS_msync SYS_munlock SYS_munlockall SYS_munmap SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2
        SYS_pidfd_open SYS_pidfd_send_signal SYS_pipe2 SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
        SYS_prlimit64 SYS_process_mrelease SYS_pselect6 SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead
        SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr
        SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask
        SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo
        SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr
        SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity SYS_sched_setattr
        SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget SYS_semop
        SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address
        SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid
        SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr
        SYS_shmat SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_splice SYS_statfs SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee
        SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
        SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname
        SYS_unlinkat SYS_utimensat SYS_vmsplice SYS_wait4 SYS_waitid SYS_write SYS_writev
    ];
    #[cfg(target_arch = "x86_64")]
    let own = numbers![
        SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old
        SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_getdents SYS_getpgrp SYS_inotify_init
        SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_open SYS_pause SYS_pipe SYS_poll SYS_readlink SYS_rename
        SYS_rmdir SYS_select SYS_signalfd SYS_stat SYS_symlink SYS_time SYS_unlink SYS_utime SYS_utimes SYS_vfork
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let own: [(&str, libc::c_long); 0] = [];
    every.into_iter().chain(own).collect()
}

impl Profile {
    /// Compiles the profile for this machine.
    pub(super) fn compile() -> io::Result<Self> {
        let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
        for (_, number) in allowed() {
            rules.insert(u32::try_from(number).map_err(io::Error::other)?, Rule::Allow);
        }
        let mut set = |number: libc::c_long, rule| -> io::Result<()> {
            rules.insert(u32::try_from(number).map_err(io::Error::other)?, rule);
            Ok(())
        };
        set(libc::SYS_clone, Rule::AllowWithout(CLONE_NAMESPACES))?;
        set(libc::SYS_clone3, Rule::Refuse(libc::ENOSYS))?;
        set(libc::SYS_personality, Rule::AllowOneOf(&PERSONALITIES))?;
        for (_, number) in OF_FAMILIES {
            // The kernel takes an `int`: what a caller puts into the upper half is ignored, here as there.
            set(number, Rule::AllowOneOf(&FAMILIES))?;
        }
        Ok(Self(filter::compile(&rules, libc::EPERM)?))
    }

    /// Returns its programs as the kernel takes them, in hexadecimal digits, in the order in which they are to be loaded.
    pub(super) fn programs(&self) -> Vec<String> {
        let mut text = String::with_capacity(self.0.len() * 16);
        for instruction in &self.0 {
            let bytes =
                [&instruction.code.to_ne_bytes()[..], &[instruction.jt, instruction.jf], &instruction.k.to_ne_bytes()];
            for byte in bytes.concat() {
                let _ = write!(text, "{byte:02x}");
            }
        }
        vec![text]
    }

    /// Puts the calling thread under the profile, for ever; needs `no_new_privs`.
    pub(super) fn load(&self) -> io::Result<()> {
        let filter = libc::sock_fprog {
            len: u16::try_from(self.0.len()).map_err(io::Error::other)?,
            filter: self.0.as_ptr().cast_mut(),
        };
        // SAFETY: `filter` points to `len` instructions, which outlive the call; the kernel only reads them.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&filter)) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Returns the same profile as the `seccomp` of an OCI runtime spec, for runtimes that compile it themselves.
pub(super) fn as_oci() -> Value {
    let names: Vec<&str> = allowed()
        .into_iter()
        .map(|(name, _)| name.trim_start_matches("SYS_"))
        // Its flags cannot be seen: below it gets an answer of its own.
        .filter(|name| *name != "clone3")
        .collect();
    let mut rules = vec![
        json!({"names": names, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}),
    ];
    rules.extend(PERSONALITIES.map(|personality| {
        json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": personality, "op": "SCMP_CMP_EQ"}]})
    }));
    rules.extend(FAMILIES.map(|family| {
        json!({"names": OF_FAMILIES.map(|(name, _)| name), "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}]})
    }));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM, "syscalls": rules})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_those_of_the_kernel() {
        let names = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        assert_eq!(FAMILIES.map(i64::from), names.map(i64::from));
    }

    #[test]
    fn the_profile_is_short_for_it_is_loaded_at_every_start() {
        let profile = Profile::compile().expect("the profile is valid");
        assert!(profile.0.len() < 500, "{} instructions", profile.0.len());
    }
}
