//! The only place that prints: data on standard output, everything else on standard error.
//!
//! People read tables in which quantities look as a manifest writes them; programs read JSON with plain numbers. What a number
//! is, its name tells: the API puts the unit last (`memory_bytes`, `since_ms`).

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

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

/// Prints data as it is; once the reader has gone, as `head` does, the command ends without a word.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::nobody_reads()),
        Err(error) => Err(Failure::new(format!("standard output: {error}"))),
    }
}

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(|error| Failure::of(&error))?)
}

fn compact(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(|error| Failure::of(&error))?)
}

fn yaml(value: &impl Serialize) -> Result<(), Failure> {
    bytes(serde_saphyr::to_string(value).map_err(|error| Failure::of(&error))?.as_bytes())
}

/// Prints a list: `columns` are the fields of a table, inner ones with dots between; the first of them is the name.
pub(super) fn list<T: Serialize>(format: Format, items: &[T], columns: &[&str]) -> Result<(), Failure> {
    match format {
        Format::Json => json(&items),
        Format::Jsonl => items.iter().try_for_each(compact),
        Format::Yaml => yaml(&items),
        Format::Name => values(items)?.iter().try_for_each(|item| line(&plain(field(item, columns[0])))),
        Format::Table => line(&table(&values(items)?, columns)),
    }
}

/// Prints one thing with everything known of it.
pub(super) fn document(format: Format, item: &Value) -> Result<(), Failure> {
    match format {
        Format::Json => json(item),
        Format::Jsonl => compact(item),
        Format::Yaml => yaml(item),
        Format::Name => line(&plain(item.get("name").or_else(|| item.get("id")).unwrap_or(&Value::Null))),
        Format::Table => bytes(described(item, 0).as_bytes()),
    }
}

/// Returns a table without lines around it and without spaces at the end of its lines.
pub(super) fn table(items: &[Value], columns: &[&str]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns.iter().map(|column| heading(column).to_uppercase()));
    for item in items {
        table.add_row(columns.iter().map(|column| shown(column, field(item, column))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn values<T: Serialize>(items: &[T]) -> Result<Vec<Value>, Failure> {
    items.iter().map(|item| serde_json::to_value(item).map_err(|error| Failure::of(&error))).collect()
}

/// Returns the field at a path of names with dots between.
fn field<'a>(item: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(item, |value, name| &value[name])
}

/// Returns the name of a field for people: without its unit.
fn heading(path: &str) -> String {
    let units = ["_at_ms", "at_ms", "_ms", "_bytes", "_milli"];
    let bare = match path {
        "at_ms" => "at",
        _ => units.iter().find_map(|unit| path.strip_suffix(unit)).unwrap_or(path),
    };
    bare.trim_start_matches("revision.").trim_start_matches("is_").replace(['.', '_'], " ")
}

/// Returns a value for people, in the unit that the name of its field tells.
fn shown(path: &str, value: &Value) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    match (value, value.as_u64()) {
        (_, Some(number)) if name.ends_with("_bytes") => size(number),
        (_, Some(number)) if name.ends_with("_milli") => cores(number),
        (_, Some(number)) if name.ends_with("at_ms") || name == "since_ms" => moment(number),
        (_, Some(number)) if name.ends_with("_ms") => {
            humantime::format_duration(Duration::from_millis(number)).to_string()
        }
        (Value::Bool(truth), _) => if *truth { "yes" } else { "no" }.to_owned(),
        _ => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Returns a size in the largest unit of a manifest that leaves a whole part, with one digit behind it where it is not even.
fn size(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else { return bytes.to_string() };
    let tenths = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    }
}

fn cores(milli: u64) -> String {
    if milli.is_multiple_of(1000) { (milli / 1000).to_string() } else { format!("{milli}m") }
}

fn moment(ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(ms)) {
        // Beyond the year 9999 there is no such text.
        Some(time) if ms < 253_402_300_800_000 => humantime::format_rfc3339_seconds(time).to_string(),
        Some(_) | None => ms.to_string(),
    }
}

/// Returns the names of the fields of a thing: what it is called by comes first, the others by the alphabet.
fn names(item: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = item.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.sort_by_key(|name| !matches!(*name, "name" | "id"));
    names
}

/// Returns a thing as indented lines; what is not there is left out, lists of things become tables.
fn described(item: &Value, depth: usize) -> String {
    let Value::Object(fields) = item else { return format!("{}\n", plain(item)) };
    let indent = "  ".repeat(depth);
    let width = fields.keys().map(|key| heading(key).len()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for key in names(item) {
        let value = &item[key];
        let name = format!("{}:", heading(key));
        match value {
            Value::Null => {}
            Value::Object(inner) if inner.is_empty() => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Object(_) => text += &format!("{indent}{name}\n{}", described(value, depth + 1)),
            Value::Array(items) if items.iter().all(Value::is_object) => {
                text += &format!("{indent}{name}\n");
                for line in table(items, &names(&items[0])).lines() {
                    text += &format!("{indent}  {line}\n");
                }
            }
            Value::Array(items) => {
                text += &format!("{indent}{name}\n");
                for item in items {
                    text += &format!("{indent}  {}\n", plain(item));
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                text += &format!("{indent}{name:width$} {}\n", shown(key, value));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_show_quantities_as_manifests_write_them() {
        let items = [
            json!({"id": "a", "held": {"memory_bytes": 268_435_456, "cpu_milli": 500}, "since_ms": 1_700_000_000_000_u64,
                "is_leader": true, "idle_max_ms": 90_000, "labels": []}),
            json!({"id": "bb", "held": {"memory_bytes": 1_700_000_000, "cpu_milli": 32_000}, "since_ms": null,
                "is_leader": false, "idle_max_ms": 0, "labels": ["x", "y"]}),
        ];
        let columns = ["id", "held.cpu_milli", "held.memory_bytes", "since_ms", "is_leader", "idle_max_ms", "labels"];
        expect![[r#"
            ID  HELD CPU  HELD MEMORY  SINCE                 LEADER  IDLE MAX  LABELS
            a   500m      256Mi        2023-11-14T22:13:20Z  yes     1m 30s    -
            bb  32        1.6Gi        -                     no      0s        x,y"#]]
        .assert_eq(&table(&items, &columns));
    }

    #[test]
    fn a_description_leaves_out_what_is_not_there() {
        let item = json!({"name": "resize", "reason": null, "urls": ["http://a/1", "http://a/2"], "triggers": [],
            "revision": {"timeout_ms": 30_000, "image": "sha256:00"}, "running": [{"id": "i-1", "memory_bytes": 1023}]});
        expect![[r#"
            name:     resize
            revision:
              image:   sha256:00
              timeout: 30s
            running:
              ID   MEMORY
              i-1  1023
            urls:
              http://a/1
              http://a/2
        "#]]
        .assert_eq(&described(&item, 0));
    }
}
