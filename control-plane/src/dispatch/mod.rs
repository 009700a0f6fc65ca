//! One revision's traffic brain: which instance takes this invocation, or wait, refuse, ask for one more?
//!
//! ```text
//!            Arrived ──▶ free slot? ──yes──▶ Run (most recently used instance first)
//!                            │no
//!                            ▼
//!                  room in the queue? ──no──▶ Refuse(QueueFull)
//!                            │yes
//!                            ▼
//!                 waits ── Want(more instances) ──▶ whichever slot is free first: Run
//!                            │deadline passes
//!                            ▼
//!                     Refuse(Deadline)
//! ```

use std::time::Duration;

use crate::model::{Concurrency, InstanceFailure, InstanceId, InvocationId, Timestamp};

/// What a dispatch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// An invocation wants an instance before `deadline`.
    Arrived {
        /// The invocation.
        invocation: InvocationId,
        /// When its caller gives up waiting for a slot.
        deadline: Timestamp,
    },
    /// An invocation ended, however it ended: its slot is free.
    Finished {
        /// The invocation.
        invocation: InvocationId,
    },
    /// The caller of a waiting invocation has gone.
    Cancelled {
        /// The invocation.
        invocation: InvocationId,
    },
    /// An instance takes invocations from here on.
    Ready {
        /// The instance.
        instance: InstanceId,
        /// How long it may idle; none means for ever.
        keep: Option<Duration>,
    },
    /// An instance takes no more invocations; those it has may finish.
    Drain {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance has ended; the driver ends its invocations with [`Input::Finished`] by itself.
    Gone {
        /// The instance.
        instance: InstanceId,
    },
    /// A wanted instance will not come.
    Declined {
        /// Why.
        reason: DeclineReason,
    },
    /// The limits changed.
    Limits(Limits),
    /// [`Dispatch::wake_at`] has come.
    Woke,
}

/// What must be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand the invocation to the instance.
    Run {
        /// The invocation.
        invocation: InvocationId,
        /// The instance, which has a free slot for it.
        instance: InstanceId,
    },
    /// Answer the invocation with an error.
    Refuse {
        /// The invocation.
        invocation: InvocationId,
        /// Why.
        reason: Refusal,
    },
    /// Ask for instances: `starting` in all are wanted beyond those that are ready.
    Want {
        /// How many should be starting; replaces what was wanted before.
        starting: u32,
    },
    /// The instance has no invocation left and gets no more: stop it.
    Retire {
        /// The instance.
        instance: InstanceId,
    },
}

/// Why an invocation is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue holds as many as it may.
    QueueFull,
    /// No slot became free in time.
    Deadline,
    /// No instance is there and none can be started.
    Declined(DeclineReason),
}

/// Why a wanted instance will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// No node has room for it; the text says what is missing.
    NoCapacity(String),
    /// Instances fail to start; the failure is the last one.
    Failing(InstanceFailure),
    /// The revision is going away.
    Retired,
}

/// What bounds one revision's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Invocations one instance serves at once.
    pub concurrency: Concurrency,
    /// The most instances, ready and starting together.
    pub instances_max: u32,
    /// The most invocations that wait.
    pub queue_max: usize,
}
