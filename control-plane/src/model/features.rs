//! What a build can read from the log: nodes of several versions share one.

use std::fmt;

/// What a build can read from the log.
///
/// It counts up with every command, and every field of one that changes what it does, that earlier builds cannot read, and with
/// every change of what applying the same bytes makes of a state, which would set replicas of two builds apart:
///
/// | level | brings |
/// |---|---|
/// | 0 | what builds read before they said their level |
/// | 1 | several grants in one entry, `Restore`, `Label`, `PreferVoter`, `Scale` with a change of some limits and not all |
///
/// A build reads its own level and all below, for ever: logs and snapshots of older builds lie on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeatureLevel(pub u32);

impl FeatureLevel {
    /// The highest level that this build reads.
    pub const NEWEST: Self = Self(1);

    /// From here on one entry grants something to several nodes.
    pub const GRANT_MANY: Self = Self(1);

    /// From here on a backup is restored.
    pub const RESTORE: Self = Self(1);

    /// From here on operators set labels.
    pub const LABEL: Self = Self(1);

    /// From here on operators say who votes.
    pub const PREFER_VOTER: Self = Self(1);

    /// From here on a change of how a function scales says only what changes.
    pub const SCALE_SOME: Self = Self(1);
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
