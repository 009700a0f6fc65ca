//! Apps: deploying, planning, looking at and deleting them.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use control_plane::model::{AppName, Digest, FunctionSpec, RevisionNumber};
use control_plane::state::{self, Command, Reply, RevisionStatus};
use proto::json::{self, DeployEvent, ErrorBody, ErrorCode, EventKind};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::Refusal;
use super::platform::Platform;
use super::request::{DEPLOY_BODY_MAX_BYTES, parameters, read, segment};
use super::{Api, body, diff, stream};

/// How long a deployment is waited for unless the client says otherwise.
const DEPLOY_WAIT_DEFAULT: Duration = Duration::from_secs(600);

/// The longest a client may wait for a deployment.
const DEPLOY_WAIT_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DeployParameters {
    detach: u8,
    timeout_ms: Option<u64>,
}

pub(super) async fn list(State(api): State<Api>) -> Json<Vec<json::App>> {
    Json(api.platform.read(|state| state.apps.iter().map(|(name, app)| write(state, name, app)).collect()))
}

pub(super) async fn get(State(api): State<Api>, Path(app): Path<String>) -> Result<Json<json::App>, Refusal> {
    let name: AppName = segment(&app)?;
    let found = api.platform.read(|state| state.apps.get(&name).map(|app| write(state, &name, app)));
    found.map(Json).ok_or_else(|| Refusal::not_found(format!("there is no app {name}")))
}

pub(super) async fn delete(State(api): State<Api>, Path(app): Path<String>) -> Result<Json<json::Done>, Refusal> {
    let app: AppName = segment(&app)?;
    let index = api.change(Command::DeleteApp { app: app.clone() }).await?;
    api.tell(EventKind::Deployed, None, format!("app {app} was deleted"));
    Ok(Json(json::Done { index }))
}

pub(super) async fn plan(
    State(api): State<Api>,
    Path(app): Path<String>,
    body: Body,
) -> Result<Json<json::Plan>, Refusal> {
    let app: AppName = segment(&app)?;
    let request: json::PlanRequest = body::parse(&read(body, DEPLOY_BODY_MAX_BYTES).await?)?;
    let state = api.platform.read(state::State::clone);
    Ok(Json(diff::plan(state, api.clock.now(), &app, request)?))
}

pub(super) async fn deploy(
    State(api): State<Api>,
    Path(app): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Response, Refusal> {
    let app: AppName = segment(&app)?;
    let parameters: DeployParameters = parameters(&uri)?;
    let request: json::DeployRequest = body::parse(&read(body, DEPLOY_BODY_MAX_BYTES).await?)?;
    let functions = parse_all(&request.functions)?;
    for spec in &functions {
        check_image(&*api.platform, spec).await?;
    }
    let command = Command::DeployApp { app: app.clone(), functions, check_index: request.check_index };
    let (index, applied) = match api.platform.propose(command).await? {
        Reply::Deployed { index, functions } => (index, functions),
        reply @ (Reply::Done { .. }
        | Reply::Admitted { .. }
        | Reply::Registered { .. }
        | Reply::Placed { .. }
        | Reply::PlacedMany { .. }) => {
            return Err(Refusal::new(ErrorCode::Internal, format!("deploying was answered with {reply:?}")));
        }
    };
    if applied.iter().any(|function| function.change != state::Change::Unchanged) {
        api.tell(EventKind::Deployed, None, format!("app {app} was deployed at index {index}"));
    }
    let wait = parameters.timeout_ms.map_or(DEPLOY_WAIT_DEFAULT, Duration::from_millis).min(DEPLOY_WAIT_MAX);
    let detach = parameters.detach != 0;
    Ok(stream::lines(move |lines| async move {
        let accepted = DeployEvent::Accepted { index, functions: applied.iter().map(body::write_applied).collect() };
        // A failed send means that the client has gone; the deployment stands all the same.
        let _ = lines.send(accepted).await;
        let last = if detach {
            DeployEvent::Done { index }
        } else {
            let revisions = applied.into_iter().filter_map(|function| Some((function.name, function.revision?)));
            let waiting = revisions.collect();
            wait_until_serving(&*api.platform, &app, waiting, Instant::now() + wait, &lines).await
        };
        let _ = lines.send(last).await;
    }))
}

fn parse_all(functions: &[json::FunctionSpec]) -> Result<Vec<FunctionSpec>, Refusal> {
    let functions = functions.iter().enumerate();
    Ok(functions
        .map(|(at, function)| body::parse_function(function, &format!("functions[{at}]")))
        .collect::<Result<_, _>>()?)
}

/// Refuses images that are not here: their revision could only fail.
async fn check_image(platform: &dyn Platform, spec: &FunctionSpec) -> Result<(), Refusal> {
    let image: Digest = spec.revision.image;
    if platform.has_image(image).await {
        return Ok(());
    }
    let told = format!("the image {image} of function {} is not here", spec.name);
    Err(Refusal::not_found(told).hint("build or pull it first"))
}

/// How far a revision came on its way to traffic.
enum Progress {
    Waiting,
    Serving,
    Failed(String),
}

/// Tells of each revision once it serves or failed, and returns the last line.
async fn wait_until_serving(
    platform: &dyn Platform,
    app: &AppName,
    mut waiting: Vec<(control_plane::model::FunctionName, RevisionNumber)>,
    deadline: Instant,
    lines: &mpsc::Sender<DeployEvent>,
) -> DeployEvent {
    let mut changes = platform.changes();
    let mut failed = Vec::new();
    loop {
        changes.mark_unchanged();
        let (index, progress) = platform.read(|state| {
            let index = state.apps.get(app).map_or(0, |app| app.index);
            (index, waiting.iter().map(|(name, number)| progress(state, name, *number)).collect::<Vec<_>>())
        });
        let mut still = Vec::new();
        for ((name, number), progress) in waiting.into_iter().zip(progress) {
            let RevisionNumber(revision) = number;
            let function = name.to_string();
            match progress {
                Progress::Waiting => still.push((name, number)),
                Progress::Serving => {
                    let _ = lines.send(DeployEvent::Serving(json::RevisionRef { function, revision })).await;
                }
                Progress::Failed(reason) => {
                    failed.push(format!("{function}@{revision}"));
                    let _ = lines.send(DeployEvent::Failed { function, revision, reason }).await;
                }
            }
        }
        waiting = still;
        if waiting.is_empty() {
            return finished(index, &failed);
        }
        let is_over = match tokio::time::timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(ErrorBody::new(ErrorCode::Unavailable, "the node stops").hint("the deployment stands")),
            Err(_) => {
                let names: Vec<String> = waiting.iter().map(|(name, number)| format!("{name}@{number}")).collect();
                let told = format!("{} did not serve in time", names.join(", "));
                Some(
                    ErrorBody::new(ErrorCode::Timeout, told)
                        .hint("the deployment stands; `hearth get events` tells more"),
                )
            }
        };
        if let Some(error) = is_over {
            return DeployEvent::Error(error);
        }
    }
}

fn progress(state: &state::State, name: &control_plane::model::FunctionName, number: RevisionNumber) -> Progress {
    let Some(function) = state.functions.get(name) else {
        return Progress::Failed("the function was deleted meanwhile".to_owned());
    };
    if function.live == Some(number) {
        return Progress::Serving;
    }
    match function.revisions.get(&number).map(|revision| &revision.status) {
        Some(RevisionStatus::Failed(reason)) => Progress::Failed(reason.clone()),
        Some(RevisionStatus::Pending | RevisionStatus::Proved) if function.candidate == Some(number) => {
            Progress::Waiting
        }
        Some(RevisionStatus::Pending | RevisionStatus::Proved) | None => {
            Progress::Failed("another deployment overtook it".to_owned())
        }
    }
}

fn finished(index: u64, failed: &[String]) -> DeployEvent {
    if failed.is_empty() {
        return DeployEvent::Done { index };
    }
    let told = format!("{} did not start", failed.join(", "));
    DeployEvent::Error(ErrorBody::new(ErrorCode::RevisionFailed, told).hint("what served before still serves"))
}

fn write(state: &state::State, name: &AppName, app: &state::App) -> json::App {
    json::App {
        name: name.to_string(),
        index: app.index,
        deployed_at_ms: app.deployed_at.as_millis(),
        functions: state.functions_of(name).map(|function| function.to_string()).collect(),
    }
}
