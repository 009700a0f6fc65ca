//! Calls by the 32-bit door of a 64-bit kernel, where every number means something else.

use super::line;

/// Makes each call in a child of its own, as the filter ends whoever tries, and says how that ended.
#[cfg(target_arch = "x86_64")]
pub(super) fn try_all() {
    /// Numbers of the 32-bit table: 20 is `getpid`, 310 `unshare`, 26 `ptrace`.
    const CALLS: [(&str, i64); 3] = [("getpid", 20), ("unshare", 310), ("ptrace", 26)];
    for (what, number) in CALLS {
        // SAFETY: this process has one thread; the child makes one system call and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = if call(number) >= 0 { 0 } else { 1 };
            // SAFETY: ending is safe after a fork.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waitpid writes one number, for which there is room.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        let end = if libc::WIFSIGNALED(status) {
            format!("signal {}", libc::WTERMSIG(status))
        } else {
            format!("code {}", libc::WEXITSTATUS(status))
        };
        line(&format!("{what}: {end}"));
    }
}

/// Makes a 32-bit system call whose arguments are whatever the registers hold, below what it may write to.
#[cfg(target_arch = "x86_64")]
fn call(number: i64) -> i32 {
    let result: i64;
    // SAFETY: the calls tried take integers or fail on what the registers hold; the registers that the kernel does not keep
    // on this way in are declared.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") number => result,
            inlateout("rcx") 0_i64 => _,
            inlateout("rdx") 0_i64 => _,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    // The answer is a number of 32 bits.
    i32::try_from(result & 0x7fff_ffff).map_or(0, |low| if result & 0x8000_0000 == 0 { low } else { -1 })
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn try_all() {}
