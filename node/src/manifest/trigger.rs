//! The triggers of a function.

use control_plane::model::{HttpTrigger, Method, PathPattern, Trigger};

use super::problem::{Collector, get};
use super::tree::Node;

/// The keys of an HTTP trigger.
pub(super) const KEYS: [&str; 4] = ["type", "host", "path", "methods"];

/// Event sources that later versions bring.
const PLANNED_TYPES: [&str; 4] = ["schedule", "queue", "object-store", "database"];

/// The most triggers of one function.
pub(super) const TRIGGERS_MAX: usize = 64;

/// The longest host, in bytes: the limit of DNS.
const HOST_LENGTH_MAX: usize = 253;

/// Reads the list of triggers.
pub(super) fn read_all(node: &Node, problems: &mut Collector) -> Option<Vec<Trigger>> {
    let items = problems.list("trigger", node)?;
    if items.len() > TRIGGERS_MAX {
        let span = &items[TRIGGERS_MAX].span;
        problems.add(span, format!("there are {} triggers", items.len()), format!("at most {TRIGGERS_MAX}"));
        return None;
    }
    let triggers: Vec<Option<Trigger>> = items.iter().map(|item| read(item, problems)).collect();
    triggers.into_iter().collect()
}

fn read(node: &Node, problems: &mut Collector) -> Option<Trigger> {
    let entries = problems.table("a trigger", node)?;
    let Some(kind) = get(entries, "type") else {
        problems.add(&node.span, "the trigger has no type", "add type = \"http\"");
        return None;
    };
    match problems.text("type", kind, "http")? {
        "http" => {}
        planned if PLANNED_TYPES.contains(&planned) => {
            problems.add(&kind.span, format!("triggers of type {planned} are not supported yet"), "only http is");
            return None;
        }
        other => {
            problems.add(&kind.span, format!("there is no trigger type {other:?}"), "it is \"http\"");
            return None;
        }
    }
    problems.check_keys(" in an http trigger", entries, &KEYS, &[]);
    let host = get(entries, "host").map(|node| host(node, problems));
    let path = match get(entries, "path") {
        None => {
            problems.add(&node.span, "the trigger has no path", "add path = \"/PATH\", or \"/*\" for every path");
            None
        }
        Some(node) => problems.text("path", node, "/resize").and_then(|text| match text.parse::<PathPattern>() {
            Ok(path) => Some(path),
            Err(error) => {
                problems.add(&node.span, error, "");
                None
            }
        }),
    };
    let methods = match get(entries, "methods") {
        None => Some(Vec::new()),
        Some(node) => methods(node, problems),
    };
    let host = match host {
        None => None,
        Some(host) => Some(host?),
    };
    Some(Trigger::Http(HttpTrigger { host, path: path?, methods: methods? }))
}

fn host(node: &Node, problems: &mut Collector) -> Option<String> {
    let text = problems.text("host", node, "shop.example.com")?;
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > HOST_LENGTH_MAX || !text.split('.').all(label) {
        problems.add(&node.span, format!("{text:?} is no host"), "lower case, and without scheme, port and path");
        return None;
    }
    Some(text.to_owned())
}

fn methods(node: &Node, problems: &mut Collector) -> Option<Vec<Method>> {
    let items = problems.list("methods", node)?;
    if items.is_empty() {
        problems.add(&node.span, "methods is empty: no request would match", "leave it out to take every method");
        return None;
    }
    let methods: Vec<Option<Method>> = items
        .iter()
        .map(|item| {
            let text = problems.text("a method", item, "POST")?;
            text.parse::<Method>()
                .map_err(|error| {
                    let upper = text.to_ascii_uppercase();
                    let note = match upper.parse::<Method>() {
                        Ok(method) => format!("did you mean \"{method}\"?"),
                        Err(_) => String::new(),
                    };
                    problems.add(&item.span, error, note);
                })
                .ok()
        })
        .collect();
    let mut methods: Vec<Method> = methods.into_iter().collect::<Option<_>>()?;
    methods.sort_unstable();
    methods.dedup();
    Some(methods)
}
