//! What is wrong with a manifest, shown in its place.

use std::fmt;
use std::ops::Range;

use crate::config::{caret, nearest};

use super::tree::{Entry, Node, Value};

/// How many problems are shown; the rest is counted.
const SHOWN_MAX: usize = 20;

/// One thing that is wrong.
#[derive(Debug)]
pub(super) struct Problem {
    span: Range<usize>,
    message: String,
    /// Stands behind the caret.
    note: String,
    /// Stands on a line of its own.
    hint: Option<String>,
}

impl Problem {
    pub(super) fn new(span: Range<usize>, message: String) -> Self {
        Self { span, message, note: String::new(), hint: None }
    }
}

/// Everything that is wrong with one manifest; its text shows each problem with its place.
#[derive(Debug, thiserror::Error)]
#[error("{shown}")]
pub struct Problems {
    count: usize,
    shown: String,
}

impl Problems {
    /// Returns how many problems there are.
    pub fn count(&self) -> usize {
        self.count
    }

    pub(super) fn show(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.start);
        let count = problems.len();
        let mut blocks: Vec<String> = problems
            .iter()
            .take(SHOWN_MAX)
            .map(|problem| {
                let block = caret(file, text, problem.span.clone(), &problem.message, &problem.note);
                let lines = block.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
                match &problem.hint {
                    Some(hint) => format!("{lines}\nhint: {hint}"),
                    None => lines,
                }
            })
            .collect();
        if count > SHOWN_MAX {
            blocks.push(format!("{file}: {} more problems", count - SHOWN_MAX));
        }
        Self { count, shown: blocks.join("\n\n") }
    }
}

/// Collects problems while a manifest is read, so that all of them are told at once.
#[derive(Debug, Default)]
pub(super) struct Collector {
    problems: Vec<Problem>,
}

impl Collector {
    /// Notes a problem; `note` stands behind the caret and may be empty.
    pub(super) fn add(&mut self, span: &Range<usize>, message: impl fmt::Display, note: impl fmt::Display) {
        self.problems.push(Problem {
            span: span.clone(),
            message: message.to_string(),
            note: note.to_string(),
            hint: None,
        });
    }

    /// Adds what to do next to the problem noted last.
    pub(super) fn hint(&mut self, hint: impl fmt::Display) {
        if let Some(problem) = self.problems.last_mut() {
            problem.hint = Some(hint.to_string());
        }
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        self.problems
    }

    /// Notes that a value is not what its key takes.
    pub(super) fn wrong_kind(&mut self, key: &str, node: &Node, wanted: &str) {
        let found = match &node.value {
            Value::Text(text) => format!("{text:?}"),
            Value::Integer(number) => number.to_string(),
            Value::Boolean(truth) => truth.to_string(),
            other => other.kind().to_owned(),
        };
        self.add(&node.span, format!("{key} is {found}"), format!("it is {wanted}"));
    }

    /// Returns the entries of a table.
    pub(super) fn table<'a>(&mut self, key: &str, node: &'a Node) -> Option<&'a [Entry]> {
        match &node.value {
            Value::Table(entries) => Some(entries),
            _ => {
                self.wrong_kind(key, node, "a table");
                None
            }
        }
    }

    /// Returns the items of a list.
    pub(super) fn list<'a>(&mut self, key: &str, node: &'a Node) -> Option<&'a [Node]> {
        match &node.value {
            Value::List(items) => Some(items),
            _ => {
                self.wrong_kind(key, node, "a list");
                None
            }
        }
    }

    /// Returns a text that is not empty.
    pub(super) fn text<'a>(&mut self, key: &str, node: &'a Node, example: &str) -> Option<&'a str> {
        match &node.value {
            Value::Text(text) if !text.is_empty() && !text.contains('\0') => Some(text),
            _ => {
                self.wrong_kind(key, node, &format!("a text such as \"{example}\""));
                None
            }
        }
    }

    /// Returns a whole number between two limits, both included.
    pub(super) fn number(&mut self, key: &str, node: &Node, min: u32, max: u32) -> Option<u32> {
        let number = match node.value {
            Value::Integer(number) => u32::try_from(number).ok().filter(|number| (min..=max).contains(number)),
            _ => None,
        };
        if number.is_none() {
            self.wrong_kind(key, node, &format!("a whole number from {min} to {max}"));
        }
        number
    }

    /// Refuses the keys of a table that are neither known nor planned; planned ones are refused as such.
    pub(super) fn check_keys(&mut self, place: &str, entries: &[Entry], known: &[&str], planned: &[&str]) {
        let mut seen = std::collections::BTreeSet::new();
        for Entry { key, key_span, .. } in entries {
            let key = key.as_str();
            if !seen.insert(key) {
                self.add(key_span, format!("{key} is set twice{place}"), "keep one of them");
            } else if planned.contains(&key) {
                self.add(key_span, format!("{key} is not supported yet"), "take it out: it would have no effect");
            } else if !known.contains(&key) {
                let note = match nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("the keys are {}", known.join(", ")),
                };
                self.add(key_span, format!("there is no key {key}{place}"), note);
            }
        }
    }
}

/// Returns the value of a key.
pub(super) fn get<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Node> {
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
}
