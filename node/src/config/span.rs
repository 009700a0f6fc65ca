//! Shows the place of an error in a file: its line, and a caret under it.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// The most edits between a key that does not exist and the one that is meant.
const DISTANCE_MAX: usize = 2;

/// Shows `message` with the place of `span` in `text`, and `note` behind the caret.
pub fn caret(name: &str, text: &str, span: Range<usize>, message: &str, note: &str) -> String {
    let start = floor(text, span.start);
    let before = &text[..start];
    let number = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let lead = &text[line_start..start];
    let column = lead.chars().count() + 1;
    let end = floor(text, span.end.max(start)).min(line_start + line.len());
    let width = text.get(start..end).map_or(1, |marked| marked.chars().count().max(1));
    // Tabs stay tabs, so that the caret stands where the eye expects it.
    let indent: String = lead.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let gutter = " ".repeat(number.to_string().len());
    let space = if note.is_empty() { "" } else { " " };
    let carets = "^".repeat(width);
    format!(
        "{name}:{number}:{column}: {message}\n{gutter} |\n{number} | {line}\n{gutter} | {indent}{carets}{space}{note}"
    )
}

/// Returns the candidate that `word` was probably meant to be, if one is close enough.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= DISTANCE_MAX && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Shows an error of the TOML parser in its place.
pub(super) fn told(name: &str, text: &str, error: &toml::de::Error) -> String {
    match error.span() {
        Some(span) => caret(name, text, span, error.message(), ""),
        None => format!("{name}: {}", error.message()),
    }
}

/// Refuses the first key that `known` does not have, at the top or inside a section.
pub(super) fn check_keys(name: &str, text: &str, known: &toml::Table) -> Result<(), ConfigError> {
    let table = DeTable::parse(text).map_err(|error| ConfigError::File(told(name, text, &error)))?;
    let mut keys: Vec<_> = table.get_ref().iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in keys {
        let Some(default) = known.get(key.get_ref().as_ref()) else {
            return Err(unknown(name, text, key.span(), key.get_ref(), "", known));
        };
        // Labels are whatever the operator makes them.
        let (toml::Value::Table(section), DeValue::Table(inner)) = (default, value.get_ref()) else { continue };
        if key.get_ref() == "labels" {
            continue;
        }
        if let Some((key, section_name)) = inner
            .keys()
            .map(|inner| (inner, key.get_ref()))
            .find(|(key, _)| !section.contains_key(key.get_ref().as_ref()))
        {
            let place = format!(" in {section_name}");
            return Err(unknown(name, text, key.span(), key.get_ref(), &place, section));
        }
    }
    Ok(())
}

fn unknown(name: &str, text: &str, span: Range<usize>, key: &str, place: &str, known: &toml::Table) -> ConfigError {
    let note = match nearest(key, known.keys().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("the keys are {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
    };
    ConfigError::File(caret(name, text, span, &format!("there is no key {key}{place}"), &note))
}

/// Returns the last boundary of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Counts the insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().collect();
    let other: Vec<char> = other.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut best = (rows[i][j + 1] + 1).min(row[j] + 1).min(rows[i][j] + usize::from(a != b));
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_nearest_word_is_close_or_there_is_none() {
        assert_eq!(nearest("gatway", ["api", "gateway"]), Some("gateway"));
        assert_eq!(nearest("nmae", ["name", "node"]), Some("name"));
        assert_eq!(nearest("entirely", ["name", "node"]), None);
        assert_eq!(nearest("x", ["ab"]), None);
    }

    proptest! {
        #[test]
        fn any_place_of_any_text_can_be_shown(text in ".{0,40}\n?.{0,40}", start in 0_usize..200, length in 0_usize..200) {
            let shown = caret("f", &text, start..start + length, "m", "n");
            prop_assert!(shown.contains('^'));
        }

        #[test]
        fn any_file_is_a_configuration_or_an_error(text in "\\PC{0,80}") {
            let _ = super::super::Layers::new().text("f", &text);
        }
    }
}
