//! The only place that prints: data on standard output, everything else on standard error.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::args::Format;
use super::failure::Failure;

/// Says something to people, on standard error.
pub(super) fn say(text: &str) {
    if !text.is_empty() {
        // Nobody is left to hear that nobody hears.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Prints one line of data.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints data as it is; a reader that has gone, such as `head`, is no failure.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(format!("standard output: {error}"))),
    }
}

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))?)
}

/// Prints a list: `columns` are the fields of a table, the first of them is the name.
pub(super) fn list<T: Serialize>(format: Format, items: &[T], columns: &[&str]) -> Result<(), Failure> {
    match format {
        Format::Json => json(&items),
        Format::Jsonl => {
            items.iter().try_for_each(|item| line(&serde_json::to_string(item).map_err(|error| Failure::of(&error))?))
        }
        Format::Yaml => bytes(serde_saphyr::to_string(&items).map_err(|error| Failure::of(&error))?.as_bytes()),
        Format::Name => rows(items, &columns[..1])?.iter().try_for_each(|row| line(&row[0])),
        Format::Table => {
            let mut table = comfy_table::Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            table.set_header(columns.iter().map(|column| column.to_uppercase()));
            for row in rows(items, columns)? {
                table.add_row(row);
            }
            line(&table.to_string())
        }
    }
}

fn rows<T: Serialize>(items: &[T], columns: &[&str]) -> Result<Vec<Vec<String>>, Failure> {
    items
        .iter()
        .map(|item| {
            let value = serde_json::to_value(item).map_err(|error| Failure::of(&error))?;
            Ok(columns.iter().map(|column| cell(&value[*column])).collect())
        })
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
