//! The leader's brain: what should change next?
//!
//! It keeps grants topped up, keeps every function's minimum placed, proves candidates before they take traffic, and takes back
//! placements of revisions that nobody needs. It remembers only what is under way; everything else it reads off the applied
//! state, so that another leader takes over by reading the same.

use crate::state::{Command, Rejection, Reply, State};
use crate::supervisor::Report;

/// What a controller is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// This node leads, or the applied state changed while it does.
    Applied(&'a State),
    /// A node reports about its instances.
    Reported(&'a State, Report),
    /// A proposal was answered.
    Answered(&'a State, Command, Result<Reply, Rejection>),
    /// This node leads no more: forget what is under way.
    Deposed,
    /// [`Controller::wake_at`] has come.
    Woke(&'a State),
}

/// What must be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Propose to the log; ends in `Answered`, also when the outcome is unknown after a time (then a later `Applied` shows it).
    Propose(Command),
}
