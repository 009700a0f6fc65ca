//! Nodes and instances, recent events, and what a node says about itself.

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use control_plane::model::Node;
use proto::json::{self, ErrorCode};
use serde::Deserialize;

use super::error::Refusal;
use super::platform::Running;
use super::request::parameters;
use super::{Api, OPENAPI, body};
use crate::telemetry::exposition;

/// The media type of what Prometheus scrapes: it asks for it by name.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The media type of the older format, for everybody else.
const PLAIN_METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn nodes(State(api): State<Api>) -> Json<Vec<json::Node>> {
    let leader = api.platform.leader();
    Json(api.platform.read(|state| {
        let nodes = state.nodes.iter();
        nodes
            .map(|(id, node)| {
                let instances = state.placements.count_on(*id);
                json::Node {
                    id: id.to_string(),
                    name: node.spec.name.clone(),
                    status: status(node),
                    is_leader: leader == Some(*id),
                    epoch: node.epoch.0,
                    capacity: body::write_resources(&node.spec.capacity),
                    held: body::write_resources(&state.placements.held(*id)),
                    grant: body::write_resources(&node.grant),
                    labels: node.labels().clone(),
                    labels_set: node.labels_set().clone(),
                    feature_level: node.spec.features.0,
                    instances: u32::try_from(instances).unwrap_or(u32::MAX),
                }
            })
            .collect()
    }))
}

/// Returns whether a node takes work.
pub(super) fn status(node: &Node) -> json::NodeStatus {
    match (node.is_dead, node.is_draining) {
        (true, _) => json::NodeStatus::Dead,
        (false, true) => json::NodeStatus::Draining,
        (false, false) => json::NodeStatus::Ready,
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ReadParameters {
    stale: u8,
}

/// Lists what runs; where a node that lives does not say so, the list would lack it and is refused.
pub(super) async fn instances(State(api): State<Api>, uri: Uri) -> Result<Json<Vec<json::Instance>>, Refusal> {
    let ReadParameters { stale } = parameters(&uri)?;
    let Running { instances, silent } = api.platform.instances().await;
    match silent.first() {
        Some(node) if stale == 0 => {
            let told = format!("{node} does not answer: what runs there is not known");
            Err(Refusal::new(ErrorCode::Unavailable, told)
                .hint("it is given up when it stays silent; until then `--stale` (?stale=1) lists what the others run"))
        }
        Some(_) | None => Ok(Json(instances)),
    }
}

pub(super) async fn events(State(api): State<Api>) -> Json<Vec<json::Event>> {
    Json(api.events.list())
}

pub(super) async fn version(State(api): State<Api>) -> Json<json::Version> {
    let identity = api.platform.identity();
    Json(json::Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: identity.node.to_string(),
        name: identity.name,
        pid: std::process::id(),
        gateway: identity.gateway.to_string(),
        api: identity.api.to_string(),
    })
}

pub(super) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Answers as long as the process can answer at all.
pub(super) async fn health() -> &'static str {
    "ok\n"
}

pub(super) async fn readiness(State(api): State<Api>) -> Response {
    let reasons = api.platform.unready();
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json::Readiness { ready, reasons })).into_response()
}

pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    let takes = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let text = api.metrics.render();
    if takes.into_iter().any(|types| types.contains("application/openmetrics-text")) {
        return ([(CONTENT_TYPE, OPENMETRICS)], text).into_response();
    }
    ([(CONTENT_TYPE, PLAIN_METRICS)], exposition::plain(&text)).into_response()
}
