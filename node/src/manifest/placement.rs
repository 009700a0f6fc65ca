//! Where a function's instances may run: the table `placement`.

use std::collections::BTreeMap;

use control_plane::model::{Constraints, Spread};

use super::problem::{Collector, get};
use super::tree::{Entry, Node, Value};
use crate::config::nearest;

/// The keys of `placement`.
pub(super) const KEYS: [&str; 2] = ["spread", "require"];

/// Reads the table.
pub(super) fn read(node: &Node, problems: &mut Collector) -> Option<Constraints> {
    let entries = problems.table("placement", node)?;
    problems.check_keys(" in placement", entries, &KEYS, &[]);
    // Both are read before the first that is wrong ends it, so that all is told.
    let spread = get(entries, "spread").map(|node| spread(node, problems));
    let require = get(entries, "require").map(|node| (node, require(node, problems)));
    let spread = spread.unwrap_or(Some(Spread::default()))?;
    let Some((node, require)) = require else {
        return Constraints::new(spread, BTreeMap::new()).ok();
    };
    Constraints::new(spread, require?).map_err(|error| problems.add(&node.span, error, "")).ok()
}

fn spread(node: &Node, problems: &mut Collector) -> Option<Spread> {
    let text = problems.text("spread", node, "zone")?;
    text.parse()
        .map_err(|error| {
            let note = nearest(text, Spread::ALL.map(Spread::as_str)).map(|near| format!("did you mean \"{near}\"?"));
            problems.add(&node.span, error, note.unwrap_or_default());
        })
        .ok()
}

fn require(node: &Node, problems: &mut Collector) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut is_sound = true;
    for Entry { key, key_span, node } in problems.table("require", node)? {
        if labels.contains_key(key) {
            problems.add(key_span, format!("{key} is set twice in require"), "keep one of them");
            is_sound = false;
        }
        match &node.value {
            Value::Text(text) => {
                labels.insert(key.clone(), text.clone());
            }
            Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => {
                problems.wrong_kind(&format!("the label {key}"), node, "a text");
                is_sound = false;
            }
        }
    }
    is_sound.then_some(labels)
}
