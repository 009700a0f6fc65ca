//! Quantities of a node that instances hold.

use std::fmt;

/// Thousandths of a processor core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u32);

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}m", self.0)
    }
}

/// An amount of memory or disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// Returns this many mebibytes.
    pub const fn mebi(count: u64) -> Self {
        Self(count << 20)
    }
}

impl fmt::Display for Bytes {
    /// Writes the largest binary unit that divides the amount: `256Mi`, `1Gi`, `1000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("Gi", 30), ("Mi", 20), ("Ki", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// What an instance holds of its node, or what a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Processor time.
    pub cpu: MilliCpu,
    /// Memory, `/tmp` included once it is written to.
    pub memory: Bytes,
    /// Size of `/tmp`.
    pub disk: Bytes,
    /// Tasks: processes and threads.
    pub pids: u32,
}

impl Resources {
    /// Returns whether this much fits into `room` in every dimension.
    pub fn fits(&self, room: &Self) -> bool {
        self.cpu <= room.cpu && self.memory <= room.memory && self.disk <= room.disk && self.pids <= room.pids
    }

    /// Returns the sum, saturating in each dimension.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            cpu: MilliCpu(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Bytes(self.memory.0.saturating_add(other.memory.0)),
            disk: Bytes(self.disk.0.saturating_add(other.disk.0)),
            pids: self.pids.saturating_add(other.pids),
        }
    }

    /// Returns what is left after taking `other` away, zero where it has more.
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            cpu: MilliCpu(self.cpu.0.saturating_sub(other.cpu.0)),
            memory: Bytes(self.memory.0.saturating_sub(other.memory.0)),
            disk: Bytes(self.disk.0.saturating_sub(other.disk.0)),
            pids: self.pids.saturating_sub(other.pids),
        }
    }

    /// Returns the lesser of two amounts in each dimension.
    #[must_use]
    pub fn smaller(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.min(other.cpu),
            memory: self.memory.min(other.memory),
            disk: self.disk.min(other.disk),
            pids: self.pids.min(other.pids),
        }
    }

    /// Returns the greater of two amounts in each dimension.
    #[must_use]
    pub fn larger(&self, other: &Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            disk: self.disk.max(other.disk),
            pids: self.pids.max(other.pids),
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu {}, memory {}, disk {}, pids {}", self.cpu, self.memory, self.disk, self.pids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_their_largest_even_unit() {
        let written = [0, 1000, 1024, 256 << 20, 3 << 30].map(|amount| Bytes(amount).to_string());
        assert_eq!(written, ["0", "1000", "1Ki", "256Mi", "3Gi"]);
    }
}
