//! Everything in Hearth that decides: pure state machines without clocks, sockets, files, threads or hash-ordered maps.
//!
//! | machine | the question it answers |
//! |---|---|
//! | [`state`] | What has the cluster agreed on? |
//! | [`controller`] | What should change next? (leader only) |
//! | [`supervisor`] | What must this node start, stop, try again? |
//! | [`dispatch`] | Which instance takes this invocation, or wait, refuse, ask for one more? |
//!
//! `state` is `apply(at, command) -> Result<Reply, Rejection>`: total, deterministic, it refuses but never panics.
//! The other three share one shape, `on_input(now, input) -> Vec<Effect>` and `wake_at()`, so that `node` and `sim` drive
//! the same code. [`model`] holds the nouns all of them speak about.

/// Whether faults are planted in this build; nothing that is to run for real may be built so.
pub const HAS_PLANTED_FAULTS: bool = cfg!(feature = "planted");

pub mod autoscale;
pub mod codec;
pub mod controller;
pub mod dispatch;
pub mod model;
pub mod placement;
pub mod planted;
#[cfg(feature = "raft")]
pub mod raft;
pub mod route;
pub mod state;
pub mod supervisor;
pub mod voters;
