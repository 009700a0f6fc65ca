//! The cluster: who belongs to it, tokens that let machines in, and nodes on their way out.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use control_plane::model::NodeId;
use control_plane::state::{self, Command, Rejection};
use proto::json::{self, ErrorCode};

use super::error::Refusal;
use super::request::{BODY_MAX_BYTES, read};
use super::{Api, body, node};
use crate::auth::JoinToken;

/// How long a join token is good for unless it is said.
const TTL_DEFAULT: Duration = Duration::from_secs(3600);

/// How long a join token is good for at most.
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

pub(super) async fn get(State(api): State<Api>) -> Json<json::Cluster> {
    let standing = api.platform.standing();
    let members = &standing.members;
    let is_leader = |id: NodeId| members.leader == Some(id);
    let place = |id: NodeId| match (members.voters.get(&id), members.learners.get(&id)) {
        (Some(address), _) => (address.clone(), json::Role::Voter),
        (None, Some(address)) => (address.clone(), json::Role::Learner),
        (None, None) => (String::new(), json::Role::Joining),
    };
    let mut listed: Vec<(NodeId, json::Member)> = api.platform.read(|state| {
        let registered = state
            .nodes
            .iter()
            .map(|(id, known)| (*id, known.spec.name.clone(), node::status(known), known.promoted_at.is_some()));
        let joining = state.admitted.keys().map(|id| (*id, String::new(), json::NodeStatus::Joining, false));
        let all = registered.chain(joining).map(|(id, name, status, is_promoted)| {
            let (address, role) = place(id);
            let is_leader = is_leader(id);
            (id, json::Member { id: id.to_string(), name, address, role, status, is_leader, is_promoted })
        });
        all.collect()
    });
    listed.sort_by_key(|(id, _)| *id);
    let voters = u32::try_from(members.voters.len()).unwrap_or(u32::MAX);
    Json(json::Cluster {
        id: standing.cluster.to_string(),
        node: api.platform.identity().node.to_string(),
        certificate_ends_at_ms: Some(standing.certificate_end.as_millis()),
        leader: members.leader.map(|leader| leader.to_string()),
        term: standing.term,
        voters_to_lose: voters.saturating_sub(1) / 2,
        feature_level: api.platform.read(|state| state.features.0),
        members: listed.into_iter().map(|(_, member)| member).collect(),
    })
}

pub(super) async fn token(State(api): State<Api>, body: Body) -> Result<Json<json::JoinToken>, Refusal> {
    let request: json::TokenRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    let ttl = request.ttl_ms.map_or(TTL_DEFAULT, Duration::from_millis);
    if ttl.is_zero() || ttl > TTL_MAX {
        return Err(Refusal::bad_request("ttl_ms is 1 to 31536000000, a year"));
    }
    if request.uses == Some(0) {
        return Err(Refusal::bad_request("uses is at least 1"));
    }
    let standing = api.platform.standing();
    let token = JoinToken::random(standing.authority);
    let expires_at = api.clock.now() + ttl;
    api.change(Command::Invite { secret: token.secret().hash(), expires_at, uses: request.uses }).await?;
    let (expires_ms, uses) = (expires_at.as_millis(), request.uses);
    Ok(Json(json::JoinToken { token: token.reveal(), expires_ms, uses, address: standing.address }))
}

pub(super) async fn remove(State(api): State<Api>, Path(node): Path<String>) -> Result<Json<json::Done>, Refusal> {
    let node = find(&api, &node)?;
    let index = api.change(Command::RemoveNode { node }).await?;
    Ok(Json(json::Done { index }))
}

pub(super) async fn drain(
    State(api): State<Api>,
    Path(node): Path<String>,
    body: Body,
) -> Result<Json<json::Done>, Refusal> {
    let request: json::DrainRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    let node = find(&api, &node)?;
    let index = api.change(Command::Drain { node, is_draining: request.draining }).await?;
    Ok(Json(json::Done { index }))
}

pub(super) async fn label(
    State(api): State<Api>,
    Path(node): Path<String>,
    body: Body,
) -> Result<Json<json::NodeLabels>, Refusal> {
    let request: json::LabelRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    if let Some(both) = request.unset.iter().find(|key| request.set.contains_key(*key)) {
        return Err(Refusal::bad_request(format!("label {both} is to be set and taken back at once")));
    }
    let id = find(&api, &node)?;
    let unset = request.unset.into_iter().collect();
    api.change(Command::Label { node: id, set: request.set, unset }).await?;
    let labels = api.platform.read(|state| {
        let node = state.nodes.get(&id)?;
        let (labels, labels_set) = (node.labels().clone(), node.labels_set().clone());
        Some(json::NodeLabels { id: id.to_string(), labels, labels_set })
    });
    // It may have been removed in the meantime.
    labels.map(Json).ok_or_else(|| Rejection::NoNode(id).into())
}

pub(super) async fn promote(State(api): State<Api>, Path(node): Path<String>) -> Result<Json<json::Done>, Refusal> {
    api.catch_up().await?;
    let node = find(&api, &node)?;
    let index = api.change(Command::PreferVoter { node }).await?;
    Ok(Json(json::Done { index }))
}

pub(super) async fn transfer(State(api): State<Api>, body: Body) -> Result<Json<json::Leader>, Refusal> {
    let request: json::TransferRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    let to = request.to.map(|to| find(&api, &to)).transpose()?;
    let leader = api.platform.transfer_leader(to).await.map_err(Refusal::from)?;
    Ok(Json(json::Leader { leader: leader.to_string() }))
}

/// Returns the node that is meant by an id or by a name that only one has.
fn find(api: &Api, text: &str) -> Result<NodeId, Refusal> {
    let named: Vec<NodeId> = api.platform.read(|state: &state::State| {
        let by_id = state.nodes.keys().chain(state.admitted.keys()).copied().filter(|id| id.to_string() == text);
        let by_name = state.nodes.iter().filter(|(_, node)| node.spec.name == text).map(|(id, _)| *id);
        let found: Vec<NodeId> = by_id.collect();
        if found.is_empty() { by_name.collect() } else { found }
    });
    match named[..] {
        [node] => Ok(node),
        [] => Err(Refusal::not_found(format!("there is no node {text}")).hint("`hearth get nodes` lists them")),
        _ => {
            Err(Refusal::new(ErrorCode::Conflict, format!("several nodes are called {text}")).hint("use the id of one"))
        }
    }
}
