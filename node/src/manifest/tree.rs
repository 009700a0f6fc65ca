//! A manifest as a tree in which every key and value knows its place, whatever the format it was written in.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};
use toml::de::{DeTable, DeValue};

use super::problem::Problem;

/// The format of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML, the format of the documentation.
    Toml,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

/// A value and the bytes of the text it stands in.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Boolean(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// What no key of a manifest takes: a float, a date, null, an integer beyond all limits.
    Other(&'static str),
}

/// One key of a table.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) node: Node,
}

impl Value {
    /// Returns what the value is, with its article, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads `text`; syntax errors are told all at once where the parser can go on after one.
pub(super) fn parse(text: &str, format: Format) -> Result<Node, Vec<Problem>> {
    match format {
        Format::Toml => {
            let (table, errors) = DeTable::parse_recoverable(text);
            if errors.is_empty() {
                let span = table.span();
                return Ok(Node { span, value: toml_table(table.into_inner()) });
            }
            Err(errors
                .iter()
                .map(|error| Problem::new(error.span().unwrap_or(0..0), error.message().replace('\n', ", ")))
                .collect())
        }
        Format::Yaml => yaml(text),
        Format::Json => {
            // Every JSON text is a YAML text, but not the other way round: the strict parser goes first.
            if let Err(error) = serde_json::from_str::<de::IgnoredAny>(text) {
                let at = offset(text, error.line(), error.column());
                let told = error.to_string();
                let message = told.rsplit_once(" at line").map_or(told.as_str(), |(message, _)| message);
                return Err(vec![Problem::new(at..at, message.to_owned())]);
            }
            yaml(text)
        }
    }
}

fn toml_table(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: Node { span: value.span(), value: toml_value(value.into_inner()) },
        })
        .collect();
    // In the order of the text, so that problems are told from top to bottom.
    entries.sort_by_key(|entry| entry.key_span.start);
    Value::Table(entries)
}

fn toml_value(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Value::Other("a number beyond all limits"), Value::Integer),
        DeValue::Boolean(truth) => Value::Boolean(truth),
        DeValue::Float(_) => Value::Other("a number with a point"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(array) => Value::List(
            array.iter().map(|item| Node { span: item.span(), value: toml_value(item.get_ref().clone()) }).collect(),
        ),
        DeValue::Table(table) => toml_table(table),
    }
}

fn yaml(text: &str) -> Result<Node, Vec<Problem>> {
    let raw: Raw = serde_saphyr::from_str(text).map_err(|error| {
        let at = error.location().map_or(0..0, |location| span(text, &location));
        let error = error.without_snippet();
        let told = error.to_string();
        vec![Problem::new(at, told.lines().next().unwrap_or_default().to_owned())]
    })?;
    Ok(raw.node(text))
}

/// A value of YAML with its location.
struct Raw(Spanned<RawValue>);

enum RawValue {
    Plain(Value),
    List(Vec<Raw>),
    Table(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn node(self, text: &str) -> Node {
        let value = match self.0.value {
            RawValue::Plain(value) => value,
            RawValue::List(items) => Value::List(items.into_iter().map(|item| item.node(text)).collect()),
            RawValue::Table(pairs) => Value::Table(
                pairs
                    .into_iter()
                    .map(|(key, value)| Entry {
                        key_span: span(text, &key.referenced),
                        key: key.value,
                        node: value.node(text),
                    })
                    .collect(),
            ),
        };
        Node { span: span(text, &self.0.referenced), value }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Boolean(truth)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Integer(number.into())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Integer(number.into())))
    }

    fn visit_f64<E>(self, _: f64) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Other("a number with a point")))
    }

    fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Text(text.to_owned())))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Other("bytes")))
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Plain(Value::Other("nothing")))
    }

    fn visit_none<E: de::Error>(self) -> Result<RawValue, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(RawValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<RawValue, A::Error> {
        let mut table = Vec::new();
        while let Some(pair) = pairs.next_entry()? {
            table.push(pair);
        }
        Ok(RawValue::Table(table))
    }
}

/// Returns the bytes that a location of YAML means; only its first line, so that a caret fits under it.
fn span(text: &str, location: &Location) -> Range<usize> {
    let line = usize::try_from(location.line()).unwrap_or(usize::MAX);
    let column = usize::try_from(location.column()).unwrap_or(usize::MAX);
    let start = offset(text, line, column);
    let rest = text.get(start..).unwrap_or_default();
    let length = usize::try_from(location.span().len()).unwrap_or(usize::MAX);
    let end = rest
        .char_indices()
        .take(length)
        .take_while(|(_, character)| *character != '\n')
        .last()
        .map_or(0, |(at, character)| at + character.len_utf8());
    start..start + end
}

/// Returns the byte at a line and a column, both counted from 1 and the column in characters.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = text.get(line_start..).unwrap_or_default();
    let before: usize = rest
        .chars()
        .take(column.saturating_sub(1))
        .take_while(|character| *character != '\n')
        .map(char::len_utf8)
        .sum();
    line_start + before
}
