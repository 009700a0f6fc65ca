//! Faults that are planted on purpose, to see that the simulator finds them.
//!
//! Only with the feature `planted`, which is off by default and which `node` refuses to be built with. At the place where a
//! fault would be, the code asks `planted!(Fault)`; without the feature that is the word `false`.

/// Returns whether a fault is planted for the running seed.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($fault:ident) => {
        crate::planted::is_planted(crate::planted::Fault::$fault)
    };
}

/// Returns whether a fault is planted: there are none without the feature.
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

pub(crate) use planted;

#[cfg(feature = "planted")]
mod faults {
    use std::cell::Cell;

    /// A fault.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fault {
        /// A placed instance that is being stopped is started again under its id.
        DoubleStart,
        /// An instance that starts takes no room of the grant.
        StartOverGrant,
        /// A retired instance that the state knows by adoption is not stopped.
        LeakedInstance,
        /// One of the calls that wait for an instance that does not come is not told.
        LostCall,
        /// A draining instance keeps its free slots.
        CallToDraining,
        /// An instance that has gone keeps its free slots.
        CallToGone,
        /// An instance is given one call more than it may have.
        TooManyCalls,
        /// The queue has no bound.
        UnboundedQueue,
        /// An idle instance is one that has no more calls than one.
        BusyRetired,
        /// An instance of a revision that nobody needs is not drained.
        DeadRevisionKept,
        /// The minimum is one less.
        MinimumNotKept,
        /// A candidate is promoted once its instances are placed.
        PromotedUnready,
        /// A newer revision takes the calls while it is being proved.
        CandidateRouted,
        /// The ids of instances begin anew whenever the state changes.
        IdsUsedTwice,
        /// A revision that does not start is started again at once.
        NoBackoff,
        /// The maximum does not hold for what dispatches want.
        OverMaximum,
        /// A snapshot forgets who is a candidate.
        SnapshotForgets,
        /// Placing does not shrink the grant.
        PlacedBesideGrant,
        /// A waiting call is never told that it waited too long.
        DeadlineForgotten,
        /// A deleted function's revisions are counted anew.
        CountedAnew,
        /// A leader that comes back leads on in its term.
        LeaderRestored,
        /// A vote is told and not kept.
        VoteForgotten,
        /// Entries count as durable before they are.
        AcknowledgedUnsynced,
        /// A node that comes back takes its whole log for committed.
        CommittedGuessed,
        /// A snapshot from the leader is used but not kept.
        SnapshotNotKept,
        /// A snapshot forgets the members.
        MembersForgotten,
        /// What a crash left behind a gap on the simulated disk is not erased.
        TailKept,
        /// A node that takes itself for the leader reads without asking a quorum.
        ReadUnconfirmed,
        /// What is placed on a node is started on the next one too.
        PlacedTwice,
        /// A node that is given up keeps what is placed on it.
        DeadKept,
        /// What outlived its agent holds nothing.
        SurvivorWeightless,
        /// A proposal that is sent again is applied again.
        AppliedTwice,
        /// A node reads what it has applied, and asks nobody whether that is all.
        ReadUnasked,
        /// A node is granted all that it has, whatever is placed on it.
        GrantOverCapacity,
        /// A command is proposed that not every node can read.
        ProposedTooNew,
    }

    impl Fault {
        /// Every fault of the four machines.
        pub const ALL: [Self; 21] = [
            Self::DoubleStart,
            Self::StartOverGrant,
            Self::LeakedInstance,
            Self::LostCall,
            Self::CallToDraining,
            Self::CallToGone,
            Self::TooManyCalls,
            Self::UnboundedQueue,
            Self::BusyRetired,
            Self::DeadRevisionKept,
            Self::MinimumNotKept,
            Self::PromotedUnready,
            Self::CandidateRouted,
            Self::IdsUsedTwice,
            Self::NoBackoff,
            Self::OverMaximum,
            Self::SnapshotForgets,
            Self::PlacedBesideGrant,
            Self::DeadlineForgotten,
            Self::CountedAnew,
            Self::GrantOverCapacity,
        ];

        /// Every fault of the replicated log.
        pub const RAFT: [Self; 8] = [
            Self::LeaderRestored,
            Self::VoteForgotten,
            Self::AcknowledgedUnsynced,
            Self::CommittedGuessed,
            Self::SnapshotNotKept,
            Self::MembersForgotten,
            Self::TailKept,
            Self::ReadUnconfirmed,
        ];

        /// Faults that show where nodes meet, and some of those above that must show there too.
        pub const CLUSTER: [Self; 10] = [
            Self::PlacedTwice,
            Self::DeadKept,
            Self::SurvivorWeightless,
            Self::AppliedTwice,
            Self::ReadUnasked,
            Self::ProposedTooNew,
            Self::LeakedInstance,
            Self::LostCall,
            Self::PlacedBesideGrant,
            Self::SnapshotForgets,
        ];
    }

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Takes the fault out again, also when what was run with it panics.
    struct Weeding;

    impl Drop for Weeding {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }

    /// Runs something with one fault planted in this thread.
    pub fn with<T>(fault: Fault, run: impl FnOnce() -> T) -> T {
        PLANTED.set(Some(fault));
        let _weeding = Weeding;
        run()
    }

    /// Returns whether a fault is planted in this thread.
    pub fn is_planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}

#[cfg(feature = "planted")]
pub use faults::{Fault, is_planted, with};
