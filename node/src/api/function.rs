//! Functions: looking at them, going back, scaling, deleting, calling.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use control_plane::model::{FunctionName, RevisionId, RevisionNumber, ScalingChange};
use control_plane::state::{self, Command, RevisionStatus};
use proto::json::{
    self, ERROR_HEADER, ErrorCode, EventKind, FunctionPhase, REQUEST_ID_HEADER, REVISION_HEADER, RevisionPhase,
};
use serde::Deserialize;

use super::error::Refusal;
use super::platform::{Invocation, InvokeOutcome};
use super::request::{BODY_MAX_BYTES, parameters, read, segment};
use super::{Api, body};

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<json::Function>> {
    Json(
        api.platform
            .read(|state| state.functions.iter().filter_map(|(name, function)| write(state, name, function)).collect()),
    )
}

pub(super) async fn get(State(api): State<Api>, Path(function): Path<String>) -> Result<Json<json::Function>, Refusal> {
    let name: FunctionName = segment(&function)?;
    api.platform
        .read(|state| write(state, &name, state.functions.get(&name)?))
        .map(Json)
        .ok_or_else(|| missing(&api, &name))
}

pub(super) async fn versions(
    State(api): State<Api>,
    Path(function): Path<String>,
) -> Result<Json<Vec<json::Revision>>, Refusal> {
    let name: FunctionName = segment(&function)?;
    let found = api.platform.read(|state| {
        let function = state.functions.get(&name)?;
        let newest_first = function.revisions.iter().rev();
        Some(newest_first.map(|(number, revision)| write_revision(&name, function, *number, revision)).collect())
    });
    found.map(Json).ok_or_else(|| missing(&api, &name))
}

pub(super) async fn delete(State(api): State<Api>, Path(function): Path<String>) -> Result<Json<json::Done>, Refusal> {
    let function: FunctionName = segment(&function)?;
    let index = api.change(Command::DeleteFunction { function: function.clone() }).await?;
    api.tell(EventKind::Deployed, Some((&function, None)), format!("function {function} was deleted"));
    Ok(Json(json::Done { index }))
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Path(function): Path<String>,
    body: Body,
) -> Result<Json<json::RevisionRef>, Refusal> {
    let name: FunctionName = segment(&function)?;
    let request: json::RollbackRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    let target = match request.to {
        Some(number) => Some(RevisionNumber(number)),
        None => api
            .platform
            .read(|state| state.functions.get(&name).map(previous).ok_or(()))
            .map_err(|()| missing(&api, &name))?,
    };
    let number = target.ok_or_else(|| {
        Refusal::new(ErrorCode::Conflict, format!("function {name} has no earlier revision that ever started"))
            .hint(format!("`hearth versions {name}` lists what there is"))
    })?;
    let revision = RevisionId { function: name.clone(), number };
    api.change(Command::Promote { revision: revision.clone() }).await?;
    Ok(Json(json::RevisionRef { function: name.to_string(), revision: number.0 }))
}

/// Returns the newest proved revision before the live one; before any, if none is live.
fn previous(function: &state::Function) -> Option<RevisionNumber> {
    let earlier =
        function.revisions.iter().rev().filter(|(number, _)| function.live.is_none_or(|live| **number < live));
    earlier.into_iter().find(|(_, revision)| revision.status == RevisionStatus::Proved).map(|(number, _)| *number)
}

pub(super) async fn scale(
    State(api): State<Api>,
    Path(function): Path<String>,
    body: Body,
) -> Result<Json<json::Done>, Refusal> {
    let name: FunctionName = segment(&function)?;
    let request: json::ScaleRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    // Only what changes goes into the log: what is not named stays, though somebody sets it at this moment.
    let idle_max = request.idle_max_ms.map(Duration::from_millis);
    let change = ScalingChange { min: request.min, max: request.max, idle_max };
    let mut command = Command::Scale { function: name.clone(), change };
    if api.platform.read(|state| state.check_readable(&command).is_err()) {
        // Some node reads only a change of everything: then what is not named is what it is now.
        api.catch_up().await?;
        let change = api.platform.read(|state| state.spell_out(&name, change))?;
        command = Command::Scale { function: name.clone(), change };
    }
    let index = api.change(command).await?;
    if let Some(scaling) = api.platform.read(|state| state.functions.get(&name).map(|function| function.scaling)) {
        let told = format!("function {name} scales from {} to {}", scaling.min(), scaling.max());
        api.tell(EventKind::Scaled, Some((&name, None)), told);
    }
    Ok(Json(json::Done { index }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InvokeParameters {
    revision: Option<u32>,
    timeout_ms: Option<u64>,
}

pub(super) async fn invoke(
    State(api): State<Api>,
    Path(function): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let parameters: InvokeParameters = parameters(&uri)?;
    let invocation = Invocation {
        function: segment(&function)?,
        revision: parameters.revision.map(RevisionNumber),
        payload: read(body, api.limits.payload_max_bytes).await?,
        deadline: parameters.timeout_ms.map(Duration::from_millis),
    };
    let invoked = api.platform.invoke(invocation).await;
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let (mut response, whose) = match invoked.outcome {
        InvokeOutcome::Answered(answer) => ((json, answer).into_response(), None),
        InvokeOutcome::Raised(report) => ((StatusCode::BAD_GATEWAY, json, report).into_response(), Some("function")),
        InvokeOutcome::Failed(error) => {
            let whose = if error.code == ErrorCode::InstanceFailed { "instance" } else { "platform" };
            (Refusal(error).into_response(), Some(whose))
        }
    };
    let mut put = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    };
    put(ERROR_HEADER, whose.map(str::to_owned));
    put(REQUEST_ID_HEADER, invoked.request_id);
    put(REVISION_HEADER, invoked.revision.map(|number| number.to_string()));
    Ok(response)
}

/// Refuses with the name asked for, and with one that is spelled nearly the same.
pub(super) fn missing(api: &Api, name: &FunctionName) -> Refusal {
    let near = api.platform.read(|state| {
        let names = state.functions.keys().map(FunctionName::as_str);
        crate::config::nearest(name.as_str(), names).map(str::to_owned)
    });
    let refusal = Refusal::not_found(format!("there is no function {name}"));
    match near {
        Some(near) => refusal.hint(format!("did you mean {near}?")),
        None => refusal.hint("`hearth get functions` lists them"),
    }
}

fn write(state: &state::State, name: &FunctionName, function: &state::Function) -> Option<json::Function> {
    let (newest, newest_revision) = function.revisions.iter().next_back()?;
    let reason = match &newest_revision.status {
        RevisionStatus::Failed(reason) => Some(format!("{name}@{newest} failed: {reason}")),
        RevisionStatus::Pending | RevisionStatus::Proved => None,
    };
    let shown = function.live.unwrap_or(*newest);
    let instances = state.placements.values().filter(|placement| placement.revision.function == *name).count();
    Some(json::Function {
        name: name.to_string(),
        app: function.app.to_string(),
        index: function.index,
        phase: match (function.live, function.candidate) {
            (Some(_), None) => FunctionPhase::Serving,
            (Some(_), Some(_)) => FunctionPhase::Updating,
            (None, Some(_)) => FunctionPhase::Starting,
            (None, None) => FunctionPhase::Failed,
        },
        reason,
        live: function.live.map(|number| number.0),
        candidate: function.candidate.map(|number| number.0),
        revision: body::write_revision(&function.revisions.get(&shown)?.spec),
        scaling: body::write_scaling(&function.scaling),
        triggers: function.triggers.iter().map(body::write_trigger).collect(),
        instances: u32::try_from(instances).unwrap_or(u32::MAX),
    })
}

fn write_revision(
    name: &FunctionName,
    function: &state::Function,
    number: RevisionNumber,
    revision: &state::Revision,
) -> json::Revision {
    let (phase, reason) = match &revision.status {
        _ if function.live == Some(number) => (RevisionPhase::Live, None),
        _ if function.candidate == Some(number) => (RevisionPhase::Candidate, None),
        RevisionStatus::Failed(reason) => (RevisionPhase::Failed, Some(reason.clone())),
        RevisionStatus::Pending | RevisionStatus::Proved => (RevisionPhase::Retired, None),
    };
    json::Revision {
        function: name.to_string(),
        number: number.0,
        phase,
        reason,
        created_at_ms: revision.created_at.as_millis(),
        spec: body::write_revision(&revision.spec),
    }
}
