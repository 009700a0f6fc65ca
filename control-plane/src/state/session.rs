//! What makes a proposal that is sent twice apply once: nodes number their proposals, and the state keeps the answers.
//!
//! The scheme is that of Ongaro, *Consensus: Bridging Theory and Practice*, section 6.3. A node says with each proposal which of
//! its older ones still wait, so that the state keeps no answer for longer than somebody may ask for it.

use std::collections::BTreeMap;

use super::{Command, Rejection, Reply, State};
use crate::model::{Epoch, NodeId, Timestamp};
use crate::planted::planted;

/// How many answers are kept for one node, at most.
pub const ANSWERS_MAX: usize = 4096;

/// Names one proposal, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Whose proposal it is.
    pub node: NodeId,
    /// The epoch that the node's registration gave it.
    pub epoch: Epoch,
    /// Counts the proposals of the node in that epoch.
    pub number: u64,
    /// No proposal below this one waits for its answer any more.
    pub oldest: u64,
}

/// The proposals of a node since it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The epoch that the registration gave.
    pub epoch: Epoch,
    /// No proposal below this one is taken any more.
    pub oldest: u64,
    /// What became of those from there on that were applied.
    pub answers: BTreeMap<u64, Result<Reply, Rejection>>,
}

impl Session {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, oldest: 0, answers: BTreeMap::new() }
    }
}

impl State {
    /// Applies a proposal, unless it was applied before: then its answer is given again and nothing changes.
    ///
    /// One without a ticket is applied whenever it comes. For the rest see [`apply`](Self::apply).
    pub fn apply_once(&mut self, at: Timestamp, ticket: Option<Ticket>, command: Command) -> Result<Reply, Rejection> {
        let Some(Ticket { node, epoch, number, oldest }) = ticket else {
            return self.apply(at, command);
        };
        let over = Rejection::NoSession { node, number };
        let Some(session) = self.sessions.get_mut(&node).filter(|session| session.epoch == epoch) else {
            return Err(over);
        };
        session.oldest = session.oldest.max(oldest);
        session.answers = session.answers.split_off(&session.oldest);
        if number < session.oldest {
            return Err(over);
        }
        if let Some(answer) = session.answers.get(&number).filter(|_| !planted!(AppliedTwice)) {
            return answer.clone();
        }
        if session.answers.len() >= ANSWERS_MAX {
            return Err(Rejection::Limit {
                what: "proposals of one node without an answer".to_owned(),
                limit: ANSWERS_MAX,
            });
        }
        let answer = self.apply(at, command);
        // The command may have ended it: the node was removed, or registered anew.
        if let Some(session) = self.sessions.get_mut(&node).filter(|session| session.epoch == epoch) {
            session.answers.insert(number, answer.clone());
        }
        answer
    }
}
