//! What processes hold in memory, as the kernel tells it in `smaps_rollup`.

use std::fs;
use std::ops::AddAssign;

/// Memory of one process or of several, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessMemory {
    /// All its pages that are in memory.
    pub(super) rss: u64,
    /// Its own pages, and its share of those that several processes have.
    pub(super) pss: u64,
    /// Its own pages alone: what its end gives back.
    pub(super) private: u64,
}

impl ProcessMemory {
    /// Looks at a process; one that is gone holds nothing.
    pub(super) fn of(pid: impl std::fmt::Display) -> Self {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default())
    }

    /// Looks at several and adds them up.
    pub(super) fn of_all(pids: &[i32]) -> Self {
        let mut sum = Self::default();
        for pid in pids {
            sum += Self::of(pid);
        }
        sum
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
        };
        Self { rss: field("Rss"), pss: field("Pss"), private: field("Private_Clean") + field("Private_Dirty") }
    }
}

impl AddAssign for ProcessMemory {
    fn add_assign(&mut self, other: Self) {
        self.rss += other.rss;
        self.pss += other.pss;
        self.private += other.private;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let text = "55a0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    2000 kB\nPss:    700 kB\nPss_Dirty:  3 kB\n\
                    Private_Clean:  100 kB\nPrivate_Dirty:  300 kB\n";
        let expected = ProcessMemory { rss: 2000 << 10, pss: 700 << 10, private: 400 << 10 };
        assert_eq!(ProcessMemory::parse(text), expected);
        assert_eq!(ProcessMemory::parse(""), ProcessMemory::default());
    }

    #[test]
    fn a_process_holds_something_of_its_own() {
        let own = ProcessMemory::of("self");
        assert!(own.rss >= own.private && own.private > 0, "{own:?}");
    }
}
