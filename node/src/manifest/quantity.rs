//! Quantities of a manifest, each with the limits of its key.

use std::time::Duration;

use control_plane::model::{Bytes, MilliCpu};

use crate::config::{Period, Size};

use super::problem::Collector;
use super::tree::{Node, Value};

/// The most cores one instance may ask for.
const CORES_MAX: u32 = 1024;

/// Reads an amount of memory or disk, written `256Mi`, between two limits.
pub(super) fn bytes(key: &str, node: &Node, min: Bytes, max: Bytes, problems: &mut Collector) -> Option<Bytes> {
    let example = "256Mi";
    let text = match &node.value {
        Value::Integer(number) => {
            let note = format!("write the unit too, for example \"{number}Mi\"");
            problems.add(&node.span, format!("{key} is {number} of no unit"), note);
            return None;
        }
        _ => problems.text(key, node, example)?,
    };
    let size = match text.parse::<Size>() {
        Ok(size) => Bytes(size.0),
        Err(error) => {
            let note = decimal_unit(text).unwrap_or_default();
            problems.add(&node.span, format!("{key}: {error}"), note);
            return None;
        }
    };
    in_range(key, node, size, min, max, problems)
}

/// Guesses what a size in a decimal unit was meant to be.
fn decimal_unit(text: &str) -> Option<String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => "Ki",
        "m" | "mb" | "mib" | "mi" => "Mi",
        "g" | "gb" | "gib" | "gi" => "Gi",
        _ => return None,
    };
    (digits > 0).then(|| format!("did you mean \"{count}{unit}\"?"))
}

/// Reads a length of time, written `30s`, between two limits.
pub(super) fn period(
    key: &str,
    node: &Node,
    min: Duration,
    max: Duration,
    problems: &mut Collector,
) -> Option<Duration> {
    let text = match &node.value {
        Value::Integer(number) => {
            let note = format!("write the unit too, for example \"{number}s\"");
            problems.add(&node.span, format!("{key} is {number} of no unit"), note);
            return None;
        }
        _ => problems.text(key, node, "30s")?,
    };
    let period = match text.parse::<Period>() {
        Ok(period) => period,
        Err(error) => {
            problems.add(&node.span, format!("{key}: {error}"), "");
            return None;
        }
    };
    in_range(key, node, period, Period(min), Period(max), problems).map(|period| period.0)
}

/// Reads an amount of processor time, written `500m` in thousandths of a core, or as a whole number of cores.
pub(super) fn cpu(key: &str, node: &Node, problems: &mut Collector) -> Option<MilliCpu> {
    let millis = match &node.value {
        Value::Integer(cores) => u32::try_from(*cores).ok().and_then(|cores| cores.checked_mul(1000)),
        Value::Text(text) => match text.strip_suffix('m') {
            Some(millis) => whole(millis),
            None => whole(text).and_then(|cores| cores.checked_mul(1000)),
        },
        _ => None,
    };
    let Some(millis) = millis else {
        problems.wrong_kind(key, node, "in thousandths of a core such as \"500m\", or whole cores such as 2");
        return None;
    };
    in_range(key, node, MilliCpu(millis), MilliCpu(1), MilliCpu(CORES_MAX * 1000), problems)
}

/// Reads digits alone: no sign, which the parser of the standard library would take.
fn whole(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn in_range<T: PartialOrd + std::fmt::Display>(
    key: &str,
    node: &Node,
    value: T,
    min: T,
    max: T,
    problems: &mut Collector,
) -> Option<T> {
    if value < min || value > max {
        problems.add(&node.span, format!("{key} is {value}"), format!("it is {min} to {max}"));
        return None;
    }
    Some(value)
}
