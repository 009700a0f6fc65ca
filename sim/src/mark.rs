//! Rare paths that many seeds together must reach: what never happens in a sweep is not tested by it.

/// Something rare that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A call was refused because the queue was full.
    QueueFull,
    /// A call was refused because it had waited too long.
    QueueDeadline,
    /// The burst guard held instances back.
    BurstGuardHeld,
    /// No instance could be started because the grant was exhausted.
    GrantExhausted,
    /// A waiting call followed its function to another revision.
    CallRerouted,
    /// A function was deleted while calls of it waited.
    DeletedWhileCallsWait,
    /// A function was deleted while calls of it ran.
    DeletedWhileCallsRun,
    /// A deleted name was deployed again while instances of the deleted function still ran.
    NameTakenAgain,
    /// A draining instance finished its calls and was retired.
    DrainFinished,
    /// An instance was not ready in time.
    InitTimeout,
    /// A function's code failed before it was ready.
    InitRaised,
    /// A revision's starts waited for the longest backoff.
    BackoffAtMaximum,
    /// Crashes in a row were taken for the function's fault.
    CrashLoop,
    /// A call ran out of time and its instance was killed.
    TimeoutKill,
    /// The kernel killed an instance for its memory.
    MemoryKill,
    /// An instance ignored SIGTERM until it was killed.
    SigtermIgnored,
    /// An instance was stopped before it was ready.
    StoppedWhileStarting,
    /// A caller hung up while its call waited.
    HungUpWaiting,
    /// A candidate became live.
    CandidatePromoted,
    /// A candidate failed.
    CandidateFailed,
    /// A candidate was replaced by a newer one before it was proved.
    CandidateSuperseded,
    /// A candidate got no instance because nothing had room.
    CandidateWithoutRoom,
    /// An operator went back to an earlier revision.
    RolledBack,
    /// A refused promotion: the revision had not proved itself.
    PromotionRefused,
    /// An instance that outlived its daemon was taken over.
    AdoptedAfterRestart,
    /// A daemon came back, and an instance was not fit to be taken over.
    LostAtRestart,
    /// A daemon came back and rebuilt its state from a snapshot and entries after it.
    ReplayedTail,
    /// A proposal died with the daemon that made it.
    ProposalLost,
    /// The adoption of an instance was given up.
    AdoptionGivenUp,
    /// An instance of a function's minimum was lost and placed again.
    MinimumReplaced,
    /// A minimum was lowered and the surplus taken back.
    MinimumLowered,
    /// An instance started while the log stood still.
    ColdStartWhileLogStalls,
    /// A report to the leader was lost.
    ReportLost,
    /// The leader was deposed while a candidate was being proved.
    DeposedWhileProving,
    /// The agent saw only the last of several changes.
    ChangesCoalesced,
}

impl Mark {
    /// Every mark.
    pub const ALL: [Self; 35] = [
        Self::QueueFull,
        Self::QueueDeadline,
        Self::BurstGuardHeld,
        Self::GrantExhausted,
        Self::CallRerouted,
        Self::DeletedWhileCallsWait,
        Self::DeletedWhileCallsRun,
        Self::NameTakenAgain,
        Self::DrainFinished,
        Self::InitTimeout,
        Self::InitRaised,
        Self::BackoffAtMaximum,
        Self::CrashLoop,
        Self::TimeoutKill,
        Self::MemoryKill,
        Self::SigtermIgnored,
        Self::StoppedWhileStarting,
        Self::HungUpWaiting,
        Self::CandidatePromoted,
        Self::CandidateFailed,
        Self::CandidateSuperseded,
        Self::CandidateWithoutRoom,
        Self::RolledBack,
        Self::PromotionRefused,
        Self::AdoptedAfterRestart,
        Self::LostAtRestart,
        Self::ReplayedTail,
        Self::ProposalLost,
        Self::AdoptionGivenUp,
        Self::MinimumReplaced,
        Self::MinimumLowered,
        Self::ColdStartWhileLogStalls,
        Self::ReportLost,
        Self::DeposedWhileProving,
        Self::ChangesCoalesced,
    ];
}
