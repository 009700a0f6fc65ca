//! Puts what happened into lines: a moment and a fact each.

use std::collections::BTreeMap;
use std::fmt::Write;

use control_plane::model::{FunctionName, RevisionId, RevisionNumber, Timestamp};
use control_plane::state::{Function, RevisionStatus};

use crate::journal::{Line, Who};
use crate::node::Node;

/// How many ids of one kind are listed one by one.
const LISTED_MAX: usize = 3;

/// Tells what happened at one place: what is said of several at one moment is one line, where the first of them stood.
pub(super) fn lines(lines: &[Line], start: Timestamp, place: &str) -> Vec<String> {
    let mut told = Vec::new();
    let mut rest = lines;
    while let Some(first) = rest.first() {
        let moment = rest.iter().take_while(|line| line.at == first.at).count();
        told.extend(tell_moment(&rest[..moment], start, place));
        rest = &rest[moment..];
    }
    told
}

fn tell_moment(lines: &[Line], start: Timestamp, place: &str) -> Vec<String> {
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
    let millis = lines.first().map_or(0, |line| line.at.since(start).as_millis());
    facts
        .into_iter()
        .map(|(text, whos)| format!("{}.{:03} {place}{}{text}", millis / 1000, millis % 1000, tell_whos(&whos)))
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

/// Tells every revision of a function and what runs of it on some nodes.
pub(super) fn revisions(name: &FunctionName, function: &Function, nodes: &[&Node]) -> Vec<String> {
    let tell = |(number, known): (&RevisionNumber, &control_plane::state::Revision)| {
        let role = match &known.status {
            _ if function.live == Some(*number) => "live",
            _ if function.candidate == Some(*number) => "a candidate",
            RevisionStatus::Failed(_) => "failed",
            RevisionStatus::Pending | RevisionStatus::Proved => "not used",
        };
        let of_it = RevisionId { function: name.clone(), number: *number };
        let sandboxes = nodes.iter().flat_map(|node| node.sandboxes.values());
        let count = sandboxes.filter(|sandbox| sandbox.revision == of_it).count();
        let lines = nodes.iter().filter_map(|node| node.traffic.lines.get(&of_it));
        let (waiting, running) = lines.fold((0, 0), |(waiting, running), line| {
            (waiting + line.dispatch.queued(), running + line.dispatch.in_flight())
        });
        format!("{of_it} is {role}: {count} instances, {running} calls run, {waiting} wait")
    };
    function.revisions.iter().map(tell).collect()
}
