//! Rare paths of the replicated log that many seeds together must reach.

/// Something rare that happened to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A second leader was elected.
    LeaderChanged,
    /// One term had two leaders, the second with the higher id.
    TermSharedByLeaders,
    /// A leader was cut off from everybody.
    LeaderIsolated,
    /// A node lost entries that another leader's took the place of.
    EntriesTruncated,
    /// A snapshot was written.
    SnapshotWritten,
    /// A snapshot arrived from the leader and was used.
    SnapshotInstalled,
    /// A node came back with a snapshot and entries after it.
    RestartedFromSnapshot,
    /// The log before a snapshot was given up on disk.
    LogPurged,
    /// A crash left records behind a gap on the disk.
    TailTorn,
    /// Records that were being synced survived a crash, but not all of them.
    BatchKeptInPart,
    /// A sync took long.
    DiskStalled,
    /// A sync failed, and the process ended.
    SyncFailed,
    /// A disk was full, and the process ended.
    DiskFull,
    /// A command was proposed at an earlier time than one before it.
    TimeWentBack,
    /// The power of a majority failed at one instant.
    MajorityWithoutPower,
    /// The power of every node failed at one instant.
    AllWithoutPower,
    /// A node came back while another was down.
    RestartedBesideDown,
    /// A leader was paused.
    LeaderPaused,
    /// A message came twice.
    CallDuplicated,
    /// A node that is down refused a message.
    PeerRefused,
    /// A voter saw that a node's process had ended.
    DeathProven,
    /// A voter took a node for dead that lives.
    DeathFeigned,
    /// A stream fell silent.
    StreamStalled,
    /// A stream broke.
    StreamBroken,
    /// A leader handed over.
    LeaderTransferred,
    /// A node stood for election out of turn.
    ElectionForced,
    /// A client does not know what became of its write.
    WriteUnknown,
    /// A write of which the client did not know what became of it was committed.
    UnknownWriteCommitted,
    /// A leader told a client that its entry was discarded.
    EntryDiscarded,
    /// A leader that could not reach a quorum refused to read.
    ReadRefused,
    /// A client saw what another one wrote.
    ReadOfAnother,
}

impl Mark {
    /// Every mark.
    pub const ALL: [Self; 31] = [
        Self::LeaderChanged,
        Self::TermSharedByLeaders,
        Self::LeaderIsolated,
        Self::EntriesTruncated,
        Self::SnapshotWritten,
        Self::SnapshotInstalled,
        Self::RestartedFromSnapshot,
        Self::LogPurged,
        Self::TailTorn,
        Self::BatchKeptInPart,
        Self::DiskStalled,
        Self::SyncFailed,
        Self::DiskFull,
        Self::TimeWentBack,
        Self::MajorityWithoutPower,
        Self::AllWithoutPower,
        Self::RestartedBesideDown,
        Self::LeaderPaused,
        Self::CallDuplicated,
        Self::PeerRefused,
        Self::DeathProven,
        Self::DeathFeigned,
        Self::StreamStalled,
        Self::StreamBroken,
        Self::LeaderTransferred,
        Self::ElectionForced,
        Self::WriteUnknown,
        Self::UnknownWriteCommitted,
        Self::EntryDiscarded,
        Self::ReadRefused,
        Self::ReadOfAnother,
    ];
}
