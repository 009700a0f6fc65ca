//! Bodies of the API in both directions: JSON into the nouns of the control plane, and back.
//!
//! Parsing happens once, here: what it yields is valid. Errors name the field by its path.

use std::time::Duration;

use control_plane::model::{
    Bytes, Concurrency, Constraints, FunctionSpec, HttpTrigger, MilliCpu, Network, Purpose, Resources, RevisionNumber,
    RevisionSpec, Runtime, Scaling, Spread, Trigger,
};
use control_plane::state::{AppliedFunction, Change};
use proto::json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Refusal;

/// The longest an invocation may take.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a body is not what it must be: the path of the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct BodyError {
    /// Where, for example `functions[0].revision.timeout_ms`.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        Self::bad_request(error.to_string())
    }
}

fn wrong(path: &str, reason: impl ToString) -> BodyError {
    BodyError { path: path.to_owned(), reason: reason.to_string() }
}

/// Parses JSON and refuses fields that the type does not have.
pub(super) fn parse<T: DeserializeOwned + Serialize>(text: &[u8]) -> Result<T, Refusal> {
    let malformed =
        |error: serde_json::Error| Refusal::bad_request(format!("the body is not what it must be: {error}"));
    // An empty body stands for an object without fields.
    let text = if text.is_empty() { b"{}" } else { text };
    let parsed: T = serde_json::from_slice(text).map_err(malformed)?;
    let given: Value = serde_json::from_slice(text).map_err(malformed)?;
    let known = serde_json::to_value(&parsed).map_err(malformed)?;
    match stray(&given, &known, "") {
        Some(path) => Err(Refusal::bad_request(format!("there is no field {path}"))),
        None => Ok(parsed),
    }
}

/// Returns the path of the first field of `given` that did not survive into `known`.
fn stray(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match known.get(key) {
                Some(known) => stray(value, known, &path),
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(at, (given, known))| stray(given, known, &format!("{path}[{at}]"))),
        _ => None,
    }
}

/// Parses a function of a deployment; `path` is where it stands.
pub fn parse_function(function: &json::FunctionSpec, path: &str) -> Result<FunctionSpec, BodyError> {
    let triggers = function.triggers.iter().enumerate();
    Ok(FunctionSpec {
        name: function.name.parse().map_err(|error| wrong(&format!("{path}.name"), error))?,
        revision: parse_revision(&function.revision, &format!("{path}.revision"))?,
        scaling: parse_scaling(&function.scaling, &format!("{path}.scaling"))?,
        triggers: triggers
            .map(|(at, trigger)| parse_trigger(trigger, &format!("{path}.triggers[{at}]")))
            .collect::<Result<_, _>>()?,
    })
}

fn parse_revision(revision: &json::RevisionSpec, path: &str) -> Result<RevisionSpec, BodyError> {
    let image = revision.image.as_ref().ok_or_else(|| wrong(&format!("{path}.image"), "it must be built first"))?;
    let timeout = Duration::from_millis(revision.timeout_ms);
    if timeout.is_zero() || timeout > TIMEOUT_MAX {
        let reason = format!("it is from 1 to {}", TIMEOUT_MAX.as_millis());
        return Err(wrong(&format!("{path}.timeout_ms"), reason));
    }
    let resources = parse_resources(&revision.resources);
    for (field, is_zero) in [
        ("cpu_milli", resources.cpu == MilliCpu(0)),
        ("memory_bytes", resources.memory == Bytes(0)),
        ("pids", resources.pids == 0),
    ] {
        if is_zero {
            return Err(wrong(&format!("{path}.resources.{field}"), "it must not be zero"));
        }
    }
    Ok(RevisionSpec {
        runtime: match revision.runtime {
            json::Runtime::Python3 => Runtime::Python3,
            json::Runtime::Nodejs => Runtime::Nodejs,
            json::Runtime::Provided => Runtime::Provided,
            json::Runtime::Http => Runtime::Http,
            json::Runtime::Image => Runtime::Image,
        },
        image: image.parse().map_err(|error| wrong(&format!("{path}.image"), error))?,
        command: revision.command.clone(),
        handler: revision.handler.clone(),
        environment: parse_environment(&revision.environment, path)?,
        resources,
        timeout,
        concurrency: Concurrency::new(revision.concurrency).ok_or_else(|| {
            let most = control_plane::model::CONCURRENCY_MAX;
            wrong(&format!("{path}.concurrency"), format!("it is from 1 to {most}"))
        })?,
        network: match revision.network {
            json::Network::None => Network::None,
            json::Network::Egress => Network::Egress,
        },
        user: revision.user,
        placement: parse_placement(&revision.placement, &format!("{path}.placement"))?,
    })
}

fn parse_placement(placement: &json::Placement, path: &str) -> Result<Constraints, BodyError> {
    let spread = match placement.spread {
        json::Spread::None => Spread::None,
        json::Spread::Zone => Spread::Zone,
    };
    Constraints::new(spread, placement.require.clone()).map_err(|error| wrong(&format!("{path}.require"), error))
}

fn parse_environment(
    environment: &std::collections::BTreeMap<String, String>,
    path: &str,
) -> Result<std::collections::BTreeMap<String, String>, BodyError> {
    for (key, value) in environment {
        let path = format!("{path}.environment.{}", key.escape_default());
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(wrong(&path, "a variable has a name without = and zero bytes"));
        }
        if value.contains('\0') {
            return Err(wrong(&path, "a variable has a value without zero bytes"));
        }
    }
    Ok(environment.clone())
}

/// Parses scaling limits; `path` is where they stand.
pub fn parse_scaling(scaling: &json::Scaling, path: &str) -> Result<Scaling, BodyError> {
    Scaling::new(scaling.min, scaling.max, Duration::from_millis(scaling.idle_max_ms))
        .map_err(|error| wrong(path, error))
}

fn parse_trigger(trigger: &json::Trigger, path: &str) -> Result<Trigger, BodyError> {
    let json::Trigger::Http(http) = trigger;
    let methods = http.methods.iter().enumerate();
    let host = http.host.clone();
    if host.as_ref().is_some_and(|host| host.is_empty() || host.bytes().any(|b| b.is_ascii_uppercase() || b == b':')) {
        return Err(wrong(&format!("{path}.host"), "a host is written in lower case and without a port"));
    }
    Ok(Trigger::Http(HttpTrigger {
        host,
        path: http.path.parse().map_err(|error| wrong(&format!("{path}.path"), error))?,
        methods: methods
            .map(|(at, method)| method.parse().map_err(|error| wrong(&format!("{path}.methods[{at}]"), error)))
            .collect::<Result<_, _>>()?,
    }))
}

fn parse_resources(resources: &json::Resources) -> Resources {
    Resources {
        cpu: MilliCpu(resources.cpu_milli),
        memory: Bytes(resources.memory_bytes),
        disk: Bytes(resources.disk_bytes),
        pids: resources.pids,
    }
}

/// Writes a function as a deployment asks for it.
pub fn write_function(function: &FunctionSpec) -> json::FunctionSpec {
    json::FunctionSpec {
        name: function.name.to_string(),
        revision: write_revision(&function.revision),
        scaling: write_scaling(&function.scaling),
        triggers: function.triggers.iter().map(write_trigger).collect(),
    }
}

/// Writes what a revision runs.
pub fn write_revision(revision: &RevisionSpec) -> json::RevisionSpec {
    json::RevisionSpec {
        runtime: write_runtime(revision.runtime),
        image: Some(revision.image.to_string()),
        command: revision.command.clone(),
        handler: revision.handler.clone(),
        environment: revision.environment.clone(),
        resources: write_resources(&revision.resources),
        timeout_ms: millis(revision.timeout),
        concurrency: revision.concurrency.get(),
        network: match revision.network {
            Network::None => json::Network::None,
            Network::Egress => json::Network::Egress,
        },
        user: revision.user,
        placement: write_placement(&revision.placement),
    }
}

/// Writes where instances may run.
pub fn write_placement(placement: &Constraints) -> json::Placement {
    let spread = match placement.spread() {
        Spread::None => json::Spread::None,
        Spread::Zone => json::Spread::Zone,
    };
    json::Placement { spread, require: placement.require().clone() }
}

/// Writes a runtime.
pub fn write_runtime(runtime: Runtime) -> json::Runtime {
    match runtime {
        Runtime::Python3 => json::Runtime::Python3,
        Runtime::Nodejs => json::Runtime::Nodejs,
        Runtime::Provided => json::Runtime::Provided,
        Runtime::Http => json::Runtime::Http,
        Runtime::Image => json::Runtime::Image,
    }
}

/// Writes scaling limits.
pub fn write_scaling(scaling: &Scaling) -> json::Scaling {
    json::Scaling { min: scaling.min(), max: scaling.max(), idle_max_ms: millis(scaling.idle_max()) }
}

/// Writes a trigger.
pub fn write_trigger(trigger: &Trigger) -> json::Trigger {
    let Trigger::Http(http) = trigger;
    json::Trigger::Http(json::HttpTrigger {
        host: http.host.clone(),
        path: http.path.as_str().to_owned(),
        methods: http.methods.iter().map(ToString::to_string).collect(),
    })
}

/// Writes what an instance holds, or what a node has.
pub fn write_resources(resources: &Resources) -> json::Resources {
    json::Resources {
        cpu_milli: resources.cpu.0,
        memory_bytes: resources.memory.0,
        disk_bytes: resources.disk.0,
        pids: resources.pids,
    }
}

/// Writes why an instance exists.
pub fn write_purpose(purpose: Purpose) -> json::Purpose {
    match purpose {
        Purpose::Demand => json::Purpose::Demand,
        Purpose::Verify => json::Purpose::Verify,
        Purpose::Minimum => json::Purpose::Minimum,
    }
}

pub(super) fn write_applied(applied: &AppliedFunction) -> json::AppliedFunction {
    json::AppliedFunction {
        name: applied.name.to_string(),
        revision: applied.revision.map(|RevisionNumber(number)| number),
        change: match applied.change {
            Change::Created => json::Change::Created,
            Change::Revised => json::Change::Revised,
            Change::Adjusted => json::Change::Adjusted,
            Change::Unchanged => json::Change::Unchanged,
            Change::Deleted => json::Change::Deleted,
        },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json as object;

    use super::*;

    /// Any JSON with the names of fields that bodies have.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9:/*.-]{0,12}".prop_map(Value::from),
            Just(Value::from(format!("sha256:{}", "0".repeat(64)))),
            Just(Value::from("python3")),
        ];
        let key = prop::sample::select(vec![
            "functions",
            "name",
            "revision",
            "runtime",
            "image",
            "resources",
            "timeout_ms",
            "scaling",
            "min",
            "triggers",
            "type",
            "path",
            "other",
        ]);
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_deployment_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = parse::<json::DeployRequest>(&bytes);
        }

        #[test]
        fn any_json_is_a_deployment_or_refused(value in any_json()) {
            if let Ok(request) = parse::<json::DeployRequest>(value.to_string().as_bytes()) {
                for function in &request.functions {
                    let _ = parse_function(function, "f");
                }
            }
        }

        #[test]
        fn what_is_parsed_is_written_as_it_was(
            (cpu, memory, disk, pids, user) in (1..=u32::MAX, 1..=u64::MAX, any::<u64>(), 1..=u32::MAX, any::<u32>()),
            (min, max, idle) in (0..10_u32, 10..100_u32, any::<u64>()),
            (timeout, concurrency) in (1..=86_400_000_u64, 1..=1000_u16),
            (handler, host) in (prop::option::of("[a-z.]{1,9}"), prop::option::of("[a-z.]{1,9}")),
            command in prop::collection::vec("\\PC{0,9}", 0..3),
            environment in prop::collection::btree_map("[A-Z]{1,5}", "\\PC{0,9}", 0..3),
        ) {
            let written = object!({
                "name": "f",
                "revision": {
                    "runtime": "http", "image": format!("sha256:{}", "ab".repeat(32)), "command": command,
                    "handler": handler, "environment": environment,
                    "resources": {"cpu_milli": cpu, "memory_bytes": memory, "disk_bytes": disk, "pids": pids},
                    "timeout_ms": timeout, "concurrency": concurrency, "network": "egress", "user": user,
                    "placement": {"spread": "zone", "require": {"disk": "ssd"}},
                },
                "scaling": {"min": min, "max": max, "idle_max_ms": idle},
                "triggers": [{"type": "http", "host": host, "path": "/a/*", "methods": ["GET", "PUT"]}],
            });
            let function: json::FunctionSpec = serde_json::from_value(written.clone()).unwrap();
            let parsed = parse_function(&function, "f").unwrap();
            prop_assert_eq!(serde_json::to_value(write_function(&parsed)).unwrap(), written);
        }
    }
}
