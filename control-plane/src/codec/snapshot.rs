//! The whole state on the wire.

use std::collections::BTreeMap;

use proto::v1::snapshot::answer::Answer;
use proto::v1::{Snapshot, snapshot};

use super::command::{decode_hash, decode_invitation, encode_invitation};
use super::definitions::{
    decode_apps, decode_deleted, decode_functions, encode_apps, encode_deleted, encode_functions,
};
use super::model::{
    decode_instance, decode_node, decode_purpose, decode_resources, decode_revision_id, encode_instance, encode_node,
    encode_purpose, encode_resources, encode_revision_id,
};
use super::{DecodeError, reply};
use crate::model::{Epoch, FeatureLevel, Node, NodeId, Timestamp};
use crate::state::{Admitted, Invitation, Placement, Rejection, Reply, Session, State, violations};

pub(super) fn encode(state: &State) -> Snapshot {
    Snapshot {
        index: state.index,
        placed_last: state.placed_last,
        features: state.features.0,
        apps: encode_apps(&state.apps),
        functions: encode_functions(&state.functions),
        deleted: encode_deleted(&state.deleted),
        nodes: state
            .nodes
            .iter()
            .map(|(id, node)| snapshot::Node {
                id: id.0,
                spec: Some(encode_node(&node.spec)),
                epoch: node.epoch.0,
                grant: Some(encode_resources(&node.grant)),
                is_draining: node.is_draining,
                is_dead: node.is_dead,
                labels: node.labels_set().clone(),
                promoted_at: node.promoted_at,
            })
            .collect(),
        admitted: state
            .admitted
            .iter()
            .map(|(id, known)| snapshot::Admitted {
                node: id.0,
                at_ms: known.at.as_millis(),
                request: known.request.as_bytes().to_vec(),
            })
            .collect(),
        removed: state.removed.iter().map(|id| id.0).collect(),
        invitations: state
            .invitations
            .iter()
            .map(|(secret, invitation)| encode_invitation(secret, invitation.expires_at, invitation.uses_left))
            .collect(),
        placements: state
            .placements
            .iter()
            .map(|(instance, placement)| snapshot::Placement {
                instance: Some(encode_instance(*instance)),
                revision: Some(encode_revision_id(&placement.revision)),
                node: placement.node.0,
                resources: Some(encode_resources(&placement.resources)),
                purpose: encode_purpose(placement.purpose),
                since_ms: placement.since.as_millis(),
            })
            .collect(),
        sessions: state.sessions.iter().map(encode_session).collect(),
    }
}

fn encode_session((node, session): (&NodeId, &Session)) -> snapshot::Session {
    let answer = |(number, answer): (&u64, &Result<Reply, Rejection>)| {
        let answer = match answer {
            Ok(reply) => Answer::Reply(reply::encode(reply)),
            Err(rejection) => Answer::Rejection(reply::encode_rejection(rejection)),
        };
        snapshot::Answer { number: *number, answer: Some(answer) }
    };
    let answers = session.answers.iter().map(answer).collect();
    snapshot::Session { node: node.0, epoch: session.epoch.0, oldest: session.oldest, answers }
}

fn decode_session(session: snapshot::Session) -> Result<(NodeId, Session), DecodeError> {
    let mut answers = BTreeMap::new();
    for answer in session.answers {
        let decoded = match answer.answer.ok_or(DecodeError::Missing("answer"))? {
            Answer::Reply(reply) => Ok(reply::decode(reply)?),
            Answer::Rejection(rejection) => Err(reply::decode_rejection(rejection)?),
        };
        answers.insert(answer.number, decoded);
    }
    Ok((NodeId(session.node), Session { epoch: Epoch(session.epoch), oldest: session.oldest, answers }))
}

pub(super) fn decode(snapshot: Snapshot) -> Result<State, DecodeError> {
    let mut state = State {
        index: snapshot.index,
        placed_last: snapshot.placed_last,
        features: FeatureLevel(snapshot.features),
        apps: decode_apps(snapshot.apps)?,
        functions: decode_functions(snapshot.functions)?,
        deleted: decode_deleted(snapshot.deleted)?,
        ..State::default()
    };
    for node in snapshot.nodes {
        let mut decoded = Node::new(decode_node(node.spec)?, Epoch(node.epoch)).with_labels_set(node.labels);
        decoded.grant = decode_resources(node.grant)?;
        decoded.is_draining = node.is_draining;
        decoded.is_dead = node.is_dead;
        decoded.promoted_at = node.promoted_at;
        state.nodes.insert(NodeId(node.id), decoded);
    }
    for admitted in snapshot.admitted {
        let at = Timestamp::from_millis(admitted.at_ms);
        let known = Admitted { at, request: decode_hash(&admitted.request)? };
        state.admitted.insert(NodeId(admitted.node), known);
    }
    state.removed = snapshot.removed.into_iter().map(NodeId).collect();
    for invite in snapshot.invitations {
        let (secret, expires_at, uses_left) = decode_invitation(invite)?;
        state.invitations.insert(secret, Invitation { expires_at, uses_left });
    }
    for placement in snapshot.placements {
        let decoded = Placement {
            purpose: decode_purpose(placement.purpose())?,
            revision: decode_revision_id(placement.revision)?,
            node: NodeId(placement.node),
            resources: decode_resources(placement.resources)?,
            since: Timestamp::from_millis(placement.since_ms),
        };
        state.placements.insert(decode_instance(placement.instance)?, decoded);
    }
    for session in snapshot.sessions {
        let (node, session) = decode_session(session)?;
        state.sessions.insert(node, session);
    }
    match violations(&state).into_iter().next() {
        None => Ok(state),
        Some(violation) => Err(DecodeError::invalid("snapshot", violation)),
    }
}
