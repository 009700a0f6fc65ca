//! One effect of the supervisor, or one event of an instance, carried out.

use std::sync::Arc;
use std::time::Duration;

use control_plane::model::{Ending, InstanceId, Purpose, RevisionId};
use control_plane::supervisor::{Effect, Input};
use proto::json::{self, EventKind};
use tokio::sync::mpsc;

use super::instance::{self, Event, Task};
use super::{Driver, InstanceView, Order, Phase, Running};
use crate::contract::Channel;
use crate::gateway::StartPhases;
use crate::raft::ProposeError;

/// Orders an instance's task may have waiting: a stop and a kill.
const ORDERS_MAX: usize = 4;

/// What traffic needs of an instance that has just become ready.
pub(super) struct Newcomer {
    channel: Arc<Channel>,
    keep: Option<Duration>,
    phases: StartPhases,
}

impl Driver {
    /// Carries out one effect.
    pub(super) fn act(&mut self, effect: Effect) {
        match effect {
            Effect::Start { instance, revision, purpose } => self.start(instance, revision, purpose),
            Effect::Serve { instance, revision } => {
                if let Some(Newcomer { channel, keep, phases }) = self.newcomer.take() {
                    self.instances.set_phase(instance, Phase::Ready);
                    self.means.traffic.instance_ready(&revision, instance, channel, keep, phases);
                    self.tell(EventKind::InstanceReady, instance, "it takes invocations");
                }
            }
            Effect::Drain { instance, revision: _ } => {
                self.instances.set_phase(instance, Phase::Draining);
                self.means.traffic.instance_drain(instance);
            }
            Effect::Stop { instance } => {
                self.instances.set_phase(instance, Phase::Stopping);
                self.instances.order(instance, Order::Stop);
            }
            Effect::Decline { revision, reason } => self.means.traffic.declined(&revision, reason),
            Effect::Propose(command) => {
                let raft = self.means.raft.clone();
                tokio::spawn(async move {
                    match raft.propose(command).await {
                        Ok(_) => {}
                        // What was refused shows in the next applied state; the supervisor looks there.
                        Err(ProposeError::Rejected(rejection)) => tracing::debug!(%rejection, "a proposal was refused"),
                        Err(error) => tracing::warn!(%error, "a proposal did not go through"),
                    }
                });
            }
            Effect::Report(report) => {
                // A full channel means a leader that does not keep up; reports are soft state and come again with what they report on.
                if self.reports.try_send(report).is_err() {
                    tracing::warn!("a report to the leader was dropped");
                }
            }
        }
    }

    fn start(&mut self, instance: InstanceId, revision: RevisionId, purpose: Purpose) {
        let spec = self.means.raft.read(|state| {
            let function = state.functions.get(&revision.function)?;
            Some(function.revisions.get(&revision.number)?.spec.clone())
        });
        let task = self.track(instance, revision, purpose);
        tokio::spawn(instance::start(task, spec));
    }

    /// Lists an instance as starting and returns what its task needs.
    pub(super) fn track(&mut self, instance: InstanceId, revision: RevisionId, purpose: Purpose) -> Task {
        let (orders_tx, orders) = mpsc::channel(ORDERS_MAX);
        let since = self.means.clock.now();
        let view = InstanceView {
            instance,
            revision: revision.clone(),
            purpose,
            phase: Phase::Starting,
            since,
            memory_bytes: None,
        };
        self.instances.lock().insert(instance, Running { view, sandbox: None, orders: orders_tx });
        Task { means: self.means.clone(), instance, revision, purpose, orders, events: self.events_tx.clone() }
    }

    /// Remembers what happened to an instance.
    fn tell(&self, kind: EventKind, instance: InstanceId, message: &str) {
        let revision = self.instances.lock().get(&instance).map(|running| running.view.revision.clone());
        self.means.events.push(json::Event {
            at_ms: self.means.clock.now().as_millis(),
            kind,
            node: self.means.node.to_string(),
            about: None,
            function: revision.as_ref().map(|revision| revision.function.to_string()),
            revision: revision.map(|revision| revision.number.0),
            instance: Some(instance.to_string()),
            message: message.to_owned(),
        });
    }

    /// Tells supervisor and traffic what became of an instance.
    pub(super) fn take_event(&mut self, event: Event) {
        match event {
            // Its invocations end with its failure as soon as that is known, not once everything is removed.
            Event::Died { instance, failure } => {
                self.tell(EventKind::InstanceFailed, instance, &failure.to_string());
                self.means.traffic.instance_gone(instance, Some(failure));
            }
            Event::Launched { instance, sandbox } => {
                if let Some(running) = self.instances.lock().get_mut(&instance) {
                    running.sandbox = Some(sandbox);
                }
            }
            Event::Ready { instance, channel, keep, phases } => {
                self.newcomer = Some(Newcomer { channel, keep, phases });
                self.feed(Input::Started { instance });
                // It was told to stop meanwhile: nobody will call it.
                self.newcomer = None;
            }
            Event::StartFailed { instance, failure } => {
                self.tell(EventKind::InstanceFailed, instance, &format!("it did not start: {failure}"));
                self.instances.lock().remove(&instance);
                self.feed(Input::StartFailed { instance, failure });
            }
            Event::Ended { instance, ending, failure } => {
                if ending == Ending::Stopped {
                    self.tell(EventKind::InstanceStopped, instance, "it was stopped");
                }
                self.instances.lock().remove(&instance);
                self.means.traffic.instance_gone(instance, failure);
                self.feed(Input::Ended { instance, ending });
            }
        }
    }
}
