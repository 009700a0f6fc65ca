//! How the heap of a node keeps what is freed: little of it.
//!
//! glibc keeps freed memory for whoever asks next, in arenas of which every thread has one, and takes more and more for small
//! enough to be kept: whatever size was freed once. A node that has unpacked one image would hold on to ten MiB for ever.
//! With fixed bounds, see mallopt(3), a large buffer is a mapping of its own: it ends with it, and is in memory only as far as it is
//! written.

#![expect(unsafe_code, reason = "the C library is asked for what no safe wrapper asks it for")]

/// The least buffer that is a mapping of its own, in bytes: few calls need one, and images are made in larger ones.
#[cfg(target_env = "gnu")]
const MAPPED_MIN: libc::c_int = 256 << 10;

/// How much may be free at the end of an arena, in bytes.
#[cfg(target_env = "gnu")]
const FREE_MAX: libc::c_int = 1 << 20;

/// Sets the bounds. To be called before anything starts a thread.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_little() {
    for (bound, bytes) in [(libc::M_MMAP_THRESHOLD, MAPPED_MIN), (libc::M_TRIM_THRESHOLD, FREE_MAX)] {
        // SAFETY: it sets a number of the C library, which it may at any time.
        let is_set = unsafe { libc::mallopt(bound, bytes) };
        debug_assert_eq!(is_set, 1, "the bound is one that may be set");
    }
}

/// Other C libraries keep less by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_little() {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many KiB of this process are in memory and in no file.
    fn in_memory() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn large_buffers_that_were_freed_are_not_kept() {
        keep_little();
        // Without the bounds, buffers of this size would be kept from now on.
        drop(std::hint::black_box(vec![1_u8; 8 << 20]));
        // Something that stays lies between each two of them.
        let pair = |_| (vec![1_u8; 512 << 10], vec![1_u8; 16 << 10]);
        let (large, small): (Vec<_>, Vec<_>) = (0..100).map(pair).unzip();
        let full = in_memory();
        drop(large);
        // Other tests run beside this one, and need some too.
        let left = in_memory();
        assert!(left + (25 << 10) < full, "{full} KiB before, {left} after, with {} small ones", small.len());
    }
}
