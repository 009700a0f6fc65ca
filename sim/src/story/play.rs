//! Plays stories of one node: acts on a calm one and tells what happens.

use std::time::Duration;

use control_plane::model::{AppName, Bytes, FunctionSpec, MilliCpu, Resources, RevisionId, Timestamp};
use control_plane::state::Command;

use super::{Action, Deployment, tell};
use crate::call::Errand;
use crate::nature::{Nature, image};
use crate::node::{Event, Node};
use crate::rng::Span;
use crate::swarm::Swarm;
use crate::workload::revision;

/// When the node is started, early enough to serve when its story begins.
const BOOT: Timestamp = Timestamp::from_millis(999_000);

/// When stories begin.
const START: Timestamp = Timestamp::from_millis(1_000_000);

/// A node, and how far its story is.
pub(super) struct Player {
    node: Node,
    begun: bool,
    images: u32,
    shown: Vec<String>,
}

impl Player {
    pub(super) fn new() -> Self {
        Self { node: calm_node(Bytes::mebi(1024), 1000), begun: false, images: 0, shown: Vec::new() }
    }

    pub(super) fn act(&mut self, action: &Action) -> Result<(), String> {
        let now = self.node.now;
        match action {
            Action::Node { memory, queue_max } if !self.begun => self.node = calm_node(*memory, *queue_max),
            Action::Node { .. } => return Err("the node is made before anything else".to_owned()),
            Action::Deploy(deployment) => self.deploy(deployment)?,
            Action::Call { at: Some(_), .. } | Action::Cluster { .. } | Action::Happen { .. } => {
                return Err("this needs a cluster".to_owned());
            }
            Action::Call { function, times, every, kind, at: None } => {
                for number in 0..*times {
                    let at = now + every.saturating_mul(number);
                    self.node.at(at, Event::Arrive(function.clone(), Errand { kind: *kind, tries: 0 }));
                }
            }
            Action::Delete(function) => self.operate(Command::DeleteFunction { function: function.clone() }),
            Action::Scale(function, scaling) => {
                self.operate(Command::Scale { function: function.clone(), change: (*scaling).into() });
            }
            Action::Rollback(function, number) => {
                self.operate(Command::Promote { revision: RevisionId { function: function.clone(), number: *number } });
            }
            Action::Crash(function) => self.node.at(now, Event::Crash(Some(function.clone()))),
            Action::Restart => self.node.at(now, Event::Restart),
            Action::Stall(wait) => self.node.at(now, Event::Stall(*wait)),
            Action::Jam(wait) => self.node.at(now, Event::Jam(*wait)),
            Action::Run(wait) => self.node.run_until(now + *wait),
            Action::Show => self.show(),
        }
        self.begun = true;
        Ok(())
    }

    fn operate(&mut self, command: Command) {
        self.node.at(self.node.now, Event::Operate(command));
    }

    fn deploy(&mut self, deployment: &Deployment) -> Result<(), String> {
        self.images += 1;
        self.node.natures.insert(image(self.images), nature(deployment));
        self.operate(deploy(deployment, self.images)?);
        Ok(())
    }

    /// Returns what has happened since the last answers.
    pub(super) fn answers(&mut self) -> Vec<String> {
        let mut answers = tell::lines(&self.node.journal.take_lines(), START, "");
        answers.append(&mut self.shown);
        answers
    }

    /// Ends the story; tells what must not have happened.
    pub(super) fn end(self) -> (Vec<String>, Duration) {
        (self.node.journal.violations, self.node.now.since(START))
    }

    /// Tells every revision and what runs of it, and what the node may still start.
    fn show(&mut self) {
        for (name, function) in &self.node.state.functions {
            self.shown.extend(tell::revisions(name, function, &[&self.node]));
        }
        for (node, known) in &self.node.state.nodes {
            self.shown.push(format!("{node} is granted {} of memory", known.grant.memory));
        }
    }
}

fn calm_node(memory: Bytes, queue_max: usize) -> Node {
    let capacity = Resources { cpu: MilliCpu(64_000), memory, disk: Bytes(1 << 40), pids: 1 << 20 };
    let mut node = Node::alone(0, BOOT, capacity, Swarm { queue_max, ..Swarm::calm() }, true);
    node.run_until(START);
    node.journal.take_lines();
    node
}

/// Returns what the code of a deployment is like.
pub(super) fn nature(deployment: &Deployment) -> Nature {
    let span = |wait: Duration| Span::exactly(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    Nature { start: span(deployment.start), call: span(deployment.call), init: deployment.init, ..Nature::plain() }
}

/// Returns the command that deploys it; its image is the one of this number.
pub(super) fn deploy(deployment: &Deployment, image: u32) -> Result<Command, String> {
    let app: AppName = deployment.function.as_str().parse().map_err(|error| format!("{error}"))?;
    let resources = Resources { cpu: MilliCpu(100), memory: deployment.memory, disk: Bytes::mebi(64), pids: 64 };
    let spec = FunctionSpec {
        name: deployment.function.clone(),
        revision: revision(image, resources, deployment.timeout, deployment.concurrency),
        scaling: deployment.scaling,
        triggers: Vec::new(),
    };
    Ok(Command::DeployApp { app, functions: vec![spec], check_index: None })
}
