//! Plays stories: acts on a calm node and tells what happens, a moment and a fact a line.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use control_plane::model::{AppName, Bytes, FunctionSpec, MilliCpu, Resources, RevisionId, RevisionNumber, Timestamp};
use control_plane::state::{Command, RevisionStatus};

use super::{Action, Deployment};
use crate::call::Errand;
use crate::journal::{Line, Who};
use crate::nature::{Nature, image};
use crate::node::{Event, Node};
use crate::rng::Span;
use crate::swarm::Swarm;
use crate::workload::revision;

/// When the node is started, early enough to serve when its story begins.
const BOOT: Timestamp = Timestamp::from_millis(999_000);

/// When stories begin.
const START: Timestamp = Timestamp::from_millis(1_000_000);

/// How many ids of one kind are listed one by one.
const LISTED_MAX: usize = 3;

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
            Action::Call { function, times, every, kind } => {
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
                self.operate(Command::Promote { revision: id(function.clone(), *number) });
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
        let span = |wait: Duration| Span::exactly(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let nature = Nature {
            start: span(deployment.start),
            call: span(deployment.call),
            init: deployment.init,
            ..Nature::plain()
        };
        self.node.natures.insert(image(self.images), nature);
        let app: AppName = deployment.function.as_str().parse().map_err(|error| format!("{error}"))?;
        let resources = Resources { cpu: MilliCpu(100), memory: deployment.memory, disk: Bytes::mebi(64), pids: 64 };
        let spec = FunctionSpec {
            name: deployment.function.clone(),
            revision: revision(self.images, resources, deployment.timeout, deployment.concurrency),
            scaling: deployment.scaling,
            triggers: Vec::new(),
        };
        self.operate(Command::DeployApp { app, functions: vec![spec], check_index: None });
        Ok(())
    }

    /// Returns what has happened since the last answers.
    pub(super) fn answers(&mut self) -> Vec<String> {
        let mut answers = Vec::new();
        let lines = self.node.journal.take_lines();
        let mut rest = lines.as_slice();
        while let Some(first) = rest.first() {
            let moment = rest.iter().take_while(|line| line.at == first.at).count();
            answers.extend(tell_moment(&rest[..moment]));
            rest = &rest[moment..];
        }
        answers.append(&mut self.shown);
        answers
    }

    /// Ends the story; tells what must not have happened.
    pub(super) fn end(self) -> (Vec<String>, Duration) {
        (self.node.journal.violations, self.node.now.since(START))
    }

    /// Tells every revision and what runs of it, and what the node may still start.
    fn show(&mut self) {
        let mut shown = Vec::new();
        for (name, function) in &self.node.state.functions {
            for (number, known) in &function.revisions {
                let role = match &known.status {
                    _ if function.live == Some(*number) => "live",
                    _ if function.candidate == Some(*number) => "a candidate",
                    RevisionStatus::Failed(_) => "failed",
                    RevisionStatus::Pending | RevisionStatus::Proved => "not used",
                };
                let of_it = id(name.clone(), *number);
                let count = self.node.sandboxes.values().filter(|sandbox| sandbox.revision == of_it).count();
                let load = self.node.traffic.lines.get(&of_it);
                let (waiting, running) =
                    load.map_or((0, 0), |line| (line.dispatch.queued(), line.dispatch.in_flight()));
                shown.push(format!("{of_it} is {role}: {count} instances, {running} calls run, {waiting} wait"));
            }
        }
        for (node, known) in &self.node.state.nodes {
            shown.push(format!("{node} is granted {} of memory", known.grant.memory));
        }
        self.shown.append(&mut shown);
    }
}

fn calm_node(memory: Bytes, queue_max: usize) -> Node {
    let capacity = Resources { cpu: MilliCpu(64_000), memory, disk: Bytes(1 << 40), pids: 1 << 20 };
    let mut node = Node::alone(0, BOOT, capacity, Swarm { queue_max, ..Swarm::calm() }, true);
    node.run_until(START);
    node.journal.take_lines();
    node
}

fn id(function: control_plane::model::FunctionName, number: RevisionNumber) -> RevisionId {
    RevisionId { function, number }
}

/// Tells one moment: what is said of several at once is one line, where the first of them stood.
fn tell_moment(lines: &[Line]) -> Vec<String> {
    let mut facts: Vec<(&str, Vec<Who>)> = Vec::new();
    let mut places: BTreeMap<(&str, u8), usize> = BTreeMap::new();
    // Which call went to which of many instances nobody reads.
    let is_run = |line: &Line| line.text.starts_with("runs on ");
    let has_many_runs = lines.iter().filter(|line| is_run(line)).count() > LISTED_MAX;
    for line in lines {
        let text = if has_many_runs && is_run(line) { "runs on an instance" } else { &line.text };
        let kind = match line.who {
            Who::Call(_) => 0,
            Who::Instance(_) => 1,
            Who::Nobody => 2,
        };
        let place = *places.entry((text, kind)).or_insert(facts.len());
        if place == facts.len() {
            facts.push((text, Vec::new()));
        }
        facts[place].1.push(line.who);
    }
    let millis = lines.first().map_or(0, |line| line.at.since(START).as_millis());
    facts
        .into_iter()
        .map(|(text, whos)| format!("{}.{:03} {}{text}", millis / 1000, millis % 1000, tell_whos(&whos)))
        .collect()
}

fn tell_whos(whos: &[Who]) -> String {
    let name = Who::to_string;
    match whos {
        [] => String::new(),
        [first, .., last] if whos.len() > LISTED_MAX => {
            let mut told = String::new();
            write!(told, "{}to {}", name(first), name(last)).expect("a string takes any text");
            write!(told, "({}) each ", whos.len()).expect("a string takes any text");
            told
        }
        _ => {
            let names: Vec<String> = whos.iter().map(|who| name(who).trim_end().to_owned()).collect();
            let mut told = names.join(", ");
            if !told.is_empty() {
                told.push(' ');
            }
            if whos.len() > 1 && !told.trim().is_empty() {
                told.push_str("each ");
            }
            told
        }
    }
}
