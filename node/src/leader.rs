//! Drives the controller while this node leads.
//!
//! The controller reads the applied state under its lock and answers with proposals; each proposal runs in a task of its own
//! with the deadline of the log, and its answer comes back as an input.

use control_plane::controller::{Beat, Controller, Effect, Input};
use control_plane::model::NodeId;
use control_plane::state::{Command, Rejection, Reply, State};
use proto::json::{Event, EventKind};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::cluster::Suspects;
use crate::raft::{ProposeError, Raft};
use crate::telemetry::EventLog;

/// Answers to proposals that may wait for the controller.
const ANSWERS_MAX: usize = 256;

/// A proposal that was answered.
type Answer = (Command, Result<Reply, Rejection>);

/// Starts the task that drives the controller until `stop` is cancelled.
pub fn start(
    node: NodeId,
    raft: Raft,
    clock: Clock,
    events: EventLog,
    beats: mpsc::Receiver<Beat>,
    suspects: Suspects,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let (answers_tx, answers) = mpsc::channel(ANSWERS_MAX);
    let leader = Leader { node, controller: Controller::new(node), raft, clock, events, suspects, answers_tx };
    tokio::spawn(leader.run(beats, answers, stop))
}

struct Leader {
    node: NodeId,
    controller: Controller,
    raft: Raft,
    clock: Clock,
    events: EventLog,
    suspects: Suspects,
    answers_tx: mpsc::Sender<Answer>,
}

impl Leader {
    async fn run(
        mut self,
        mut beats: mpsc::Receiver<Beat>,
        mut answers: mpsc::Receiver<Answer>,
        stop: CancellationToken,
    ) {
        let mut changes = self.raft.changes();
        let mut leadership = self.raft.leadership();
        changes.mark_changed();
        loop {
            let now = self.clock.now();
            let wake = self.controller.wake_at().map(|at| at.since(now));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow_leadership(*leadership.borrow_and_update());
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.feed(|state| Input::Applied(state));
                }
                Some(beat) = beats.recv() => self.feed(|state| Input::Heard(state, beat)),
                Some((command, result)) = answers.recv() => {
                    self.feed(|state| Input::Answered(state, command, result));
                }
                () = async { tokio::time::sleep(wake.unwrap_or_default()).await }, if wake.is_some() => {
                    self.feed(|state| Input::Woke(state));
                }
            }
        }
    }

    fn follow_leadership(&mut self, leads: bool) {
        if leads {
            self.feed(|state| Input::Applied(state));
        } else {
            let effects = self.controller.on_input(self.clock.now(), Input::Deposed);
            debug_assert!(effects.is_empty(), "a deposed controller has nothing to propose");
        }
    }

    /// Gives the controller one input, unless another node leads, and carries out what it answers.
    fn feed(&mut self, input: impl for<'a> FnOnce(&'a State) -> Input<'a>) {
        if !self.raft.is_leader() {
            return;
        }
        let now = self.clock.now();
        let effects = self.raft.read(|state| self.controller.on_input(now, input(state)));
        self.suspects.replace(self.controller.suspected().clone());
        for effect in effects {
            match effect {
                Effect::Propose(command) => self.propose(command),
                Effect::NotPlaced { revision, reason } => self.events.push(Event {
                    at_ms: now.as_millis(),
                    kind: EventKind::NotPlaced,
                    node: self.node.to_string(),
                    about: None,
                    message: format!("{revision} fits nowhere: {reason}"),
                    function: Some(revision.function.to_string()),
                    revision: Some(revision.number.0),
                    instance: None,
                }),
            }
        }
    }

    fn propose(&self, command: Command) {
        let raft = self.raft.clone();
        let answers = self.answers_tx.clone();
        tokio::spawn(async move {
            let result = match raft.propose_as_leader(command.clone()).await {
                Ok(reply) => Ok(reply),
                Err(ProposeError::Rejected(rejection)) => Err(rejection),
                // The outcome is unknown: the controller looks at the applied state again by itself.
                Err(error) => {
                    tracing::warn!(%error, "a proposal of the controller did not go through");
                    return;
                }
            };
            // The receiver is gone only when the node stops.
            let _ = answers.send((command, result)).await;
        });
    }
}
