//! The log of a node that is alone, between its machines and its state: ideal but for its delay, for standing still, and for what a kill takes with it.
//!
//! It is kept as bytes, as on disk: a snapshot and the entries after it. A daemon that comes back reads both, and must arrive
//! at the very state that the one before had applied.

use std::collections::VecDeque;
use std::sync::Arc;

use control_plane::codec::{decode_entry, decode_state, encode_entry, encode_state};
use control_plane::controller;
use control_plane::model::Timestamp;
use control_plane::state::{Command, Rejection, Reply, State, violations};

use crate::journal::Who;
use crate::mark::Mark;
use crate::member::Outgoing;
use crate::node::{Event, Footing, Node};
use crate::rng::Rng;

/// Who proposed a command, and so who is told what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proposer {
    Controller,
    Supervisor,
    Operator,
    Daemon,
}

#[derive(Debug)]
pub(crate) struct Log {
    /// Proposed and not yet committed, in order.
    pending: VecDeque<(Command, Proposer)>,
    commits_at: Timestamp,
    stalled_until: Timestamp,
    snapshot: Vec<u8>,
    tail: Vec<Vec<u8>>,
    rng: Rng,
}

impl Log {
    pub(crate) fn new(seed: u64, now: Timestamp) -> Self {
        Self {
            pending: VecDeque::new(),
            commits_at: now,
            stalled_until: now,
            snapshot: encode_state(&State::default()),
            tail: Vec::new(),
            rng: Rng::stream(seed, "log"),
        }
    }

    /// Reads the state off what is on disk.
    fn read(&self) -> Result<State, String> {
        let mut state = decode_state(&self.snapshot).map_err(|error| format!("the snapshot: {error}"))?;
        for entry in &self.tail {
            let (at, _, command) = decode_entry(entry).map_err(|error| format!("an entry: {error}"))?;
            // What was refused when it was applied is refused again.
            drop(state.apply(at, command));
        }
        Ok(state)
    }
}

impl Node {
    /// Puts a command into the log: it comes out in the same order, some time later.
    pub(crate) fn propose(&mut self, command: Command, proposer: Proposer) {
        match &mut self.footing {
            Footing::Alone(log) => {
                let at = (self.now + self.swarm.log_wait(&mut log.rng)).max(log.commits_at);
                log.commits_at = at;
                log.pending.push_back((command, proposer));
                self.at(at, Event::Commit(self.life));
            }
            Footing::Member(member) => member.outgoing.push(Outgoing::Propose(command, proposer)),
        }
    }

    /// Lets the log stand still until then, if it is this node's own.
    pub(crate) fn stall_log(&mut self, until: Timestamp) {
        if let Footing::Alone(log) = &mut self.footing {
            log.stalled_until = until;
        }
    }

    /// Returns whether the log is this node's own and stands still.
    pub(crate) fn is_log_stalled(&self) -> bool {
        matches!(&self.footing, Footing::Alone(log) if self.now < log.stalled_until)
    }

    pub(crate) fn commit(&mut self) {
        let Footing::Alone(log) = &mut self.footing else { return };
        if self.now < log.stalled_until {
            let at = log.stalled_until;
            return self.at(at, Event::Commit(self.life));
        }
        let Some((command, proposer)) = log.pending.pop_front() else { return };
        let result = self.apply(&command);
        if proposer == Proposer::Daemon {
            self.begin();
        }
        self.changed();
        // Who comes to know of a command that an earlier daemon proposed is nobody.
        match proposer {
            Proposer::Controller => {
                self.feed_controller(move |state| controller::Input::Answered(state, command, result));
            }
            Proposer::Supervisor | Proposer::Operator | Proposer::Daemon => {
                self.feed_controller(|state| controller::Input::Applied(state));
            }
        }
    }

    fn apply(&mut self, command: &Command) -> Result<Reply, Rejection> {
        let before = Arc::clone(&self.state);
        let entry = encode_entry(self.now, None, command);
        let result = Arc::make_mut(&mut self.state).apply(self.now, command.clone());
        self.journal.note(self.now, &result);
        if let Footing::Alone(log) = &mut self.footing {
            log.tail.push(entry);
            if log.tail.len() as u64 >= self.swarm.snapshot_every {
                log.snapshot = encode_state(&self.state);
                log.tail.clear();
            }
        }
        if result.is_err() && self.state != before {
            self.blame(format!("a refused command changed the state: {command:?}"));
        }
        for violation in violations(&self.state) {
            self.blame(violation);
        }
        self.count(if result.is_ok() { "commands" } else { "rejections" });
        self.check_command(&before, command, &result);
        result
    }

    /// The daemon has been killed: of what waited, the first part was on disk already; the state is read anew.
    pub(crate) fn reopen_log(&mut self) {
        let Footing::Alone(log) = &mut self.footing else { return };
        let kept = log.rng.below(log.pending.len() as u64 + 1);
        for (count, (command, _)) in (0..).zip(std::mem::take(&mut log.pending)) {
            if count < kept {
                drop(self.apply(&command));
            } else {
                self.mark(Mark::ProposalLost);
            }
        }
        let Footing::Alone(log) = &mut self.footing else { return };
        log.commits_at = self.now;
        let (has_tail, read) = (!log.tail.is_empty(), log.read());
        if has_tail {
            self.mark(Mark::ReplayedTail);
        }
        match read {
            Ok(state) => {
                if state != *self.state {
                    self.blame("what was acknowledged is not what the log holds after a restart".to_owned());
                }
                self.state = Arc::new(state);
            }
            Err(problem) => self.blame(format!("the log cannot be read after a restart: {problem}")),
        }
        self.tell(Who::Nobody, || "the state is read from the log".to_owned());
    }
}
