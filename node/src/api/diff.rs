//! What a deployment would change: it is applied to a copy of the state, and the fields before and after are compared.

use std::collections::{BTreeMap, BTreeSet};

use control_plane::model::{AppName, Digest, FunctionName, FunctionSpec, Timestamp};
use control_plane::state::{AppliedFunction, Change, Command, Function, Reply, State};
use proto::json::{self, ErrorCode, FieldDiff, FunctionDiff};
use serde_json::Value;

use super::body;
use super::error::Refusal;

/// Returns what deploying `request` would change, or why it would be refused.
pub(super) fn plan(
    mut state: State,
    at: Timestamp,
    app: &AppName,
    request: json::PlanRequest,
) -> Result<json::Plan, Refusal> {
    let index = state.apps.get(app).map_or(0, |app| app.index);
    let before: BTreeMap<FunctionName, json::FunctionSpec> = state
        .functions_of(app)
        .filter_map(|name| {
            let spec = current(&name, state.functions.get(&name)?)?;
            Some((name, spec))
        })
        .collect();
    let mut functions = Vec::new();
    for (at, mut function) in request.functions.into_iter().enumerate() {
        if function.revision.image.is_none() {
            let known = before.iter().find(|(name, _)| name.as_str() == function.name);
            // Code that is not built compares as what runs; for a function that does not exist any digest does.
            let nothing = Digest::from_bytes([0; 32]).to_string();
            let image = known.and_then(|(_, spec)| spec.revision.image.clone()).unwrap_or(nothing);
            function.revision.image = Some(image);
        }
        functions.push(body::parse_function(&function, &format!("functions[{at}]"))?);
    }
    let after: BTreeMap<FunctionName, FunctionSpec> =
        functions.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
    let applied = match state.apply(at, Command::DeployApp { app: app.clone(), functions, check_index: None })? {
        Reply::Deployed { functions, .. } => functions,
        reply @ (Reply::Done { .. }
        | Reply::Admitted { .. }
        | Reply::Registered { .. }
        | Reply::Placed { .. }
        | Reply::PlacedMany { .. }) => {
            return Err(Refusal::new(ErrorCode::Internal, format!("deploying was answered with {reply:?}")));
        }
    };
    let mut diffs: Vec<FunctionDiff> = applied.iter().map(|applied| compare(applied, &before, &after)).collect();
    diffs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(json::Plan { app: app.to_string(), index, functions: diffs })
}

/// Returns what a deployment of a function is compared with: its candidate, else what is live, else its newest revision.
fn current(name: &FunctionName, function: &Function) -> Option<json::FunctionSpec> {
    let number = function.candidate.or(function.live).or(function.revisions.keys().next_back().copied())?;
    Some(json::FunctionSpec {
        name: name.to_string(),
        revision: body::write_revision(&function.revisions.get(&number)?.spec),
        scaling: body::write_scaling(&function.scaling),
        triggers: function.triggers.iter().map(body::write_trigger).collect(),
    })
}

fn compare(
    applied: &AppliedFunction,
    before: &BTreeMap<FunctionName, json::FunctionSpec>,
    after: &BTreeMap<FunctionName, FunctionSpec>,
) -> FunctionDiff {
    let written = body::write_applied(applied);
    let fields = if applied.change == Change::Deleted {
        Vec::new()
    } else {
        let old = before.get(&applied.name).map(fields).unwrap_or_default();
        let new = after.get(&applied.name).map(|spec| fields(&body::write_function(spec))).unwrap_or_default();
        let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        paths
            .into_iter()
            .filter(|path| old.get(*path) != new.get(*path))
            .map(|path| FieldDiff { path: path.clone(), before: old.get(path).cloned(), after: new.get(path).cloned() })
            .collect()
    };
    FunctionDiff { name: written.name, change: written.change, fields }
}

/// Returns every field that has a value, by path, as compact JSON. Lists are one field.
fn fields(spec: &json::FunctionSpec) -> BTreeMap<String, String> {
    fn collect(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
        match value {
            Value::Null => {}
            Value::Object(inner) => {
                for (key, value) in inner {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    collect(&path, value, found);
                }
            }
            Value::Array(list) if list.is_empty() => {}
            Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                found.insert(path.to_owned(), value.to_string());
            }
        }
    }
    let mut found = BTreeMap::new();
    let value = serde_json::to_value(spec).expect("a function is plain data with text for keys");
    collect("", &value, &mut found);
    // The name is what the functions were matched by.
    found.remove("name");
    found
}
