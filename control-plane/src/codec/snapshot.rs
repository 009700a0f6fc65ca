//! The whole state on the wire.

use std::collections::BTreeMap;

use proto::v1::snapshot::answer::Answer;
use proto::v1::snapshot::revision::Status;
use proto::v1::{Snapshot, snapshot};

use super::command::{app_name, decode_hash, decode_invitation, encode_invitation};
use super::model::{
    decode_instance, decode_node, decode_purpose, decode_resources, decode_revision, decode_revision_id,
    decode_scaling, decode_triggers, encode_instance, encode_node, encode_purpose, encode_resources, encode_revision,
    encode_revision_id, encode_scaling, encode_triggers,
};
use super::{DecodeError, function_name, reply};
use crate::model::{Epoch, Node, NodeId, RevisionNumber, Timestamp};
use crate::planted::planted;
use crate::state::{
    Admitted, App, Deleted, Function, Invitation, Placement, Rejection, Reply, Revision, RevisionStatus, Session,
    State, violations,
};

pub(super) fn encode(state: &State) -> Snapshot {
    Snapshot {
        index: state.index,
        placed_last: state.placed_last,
        apps: state
            .apps
            .iter()
            .map(|(name, app)| snapshot::App {
                name: name.to_string(),
                index: app.index,
                deployed_at_ms: app.deployed_at.as_millis(),
            })
            .collect(),
        functions: state
            .functions
            .iter()
            .map(|(name, function)| snapshot::Function {
                name: name.to_string(),
                app: function.app.to_string(),
                index: function.index,
                scaling: Some(encode_scaling(&function.scaling)),
                triggers: encode_triggers(&function.triggers),
                revisions: function.revisions.iter().map(encode_numbered).collect(),
                live: function.live.map(|number| number.0),
                candidate: function.candidate.filter(|_| !planted!(SnapshotForgets)).map(|number| number.0),
            })
            .collect(),
        deleted: state
            .deleted
            .iter()
            .map(|(name, deleted)| snapshot::Deleted {
                name: name.to_string(),
                newest: deleted.newest.0,
                index: deleted.index,
            })
            .collect(),
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

fn encode_numbered((number, revision): (&RevisionNumber, &Revision)) -> snapshot::Revision {
    let status = match &revision.status {
        RevisionStatus::Pending => Status::Pending(true),
        RevisionStatus::Proved => Status::Proved(true),
        RevisionStatus::Failed(reason) => Status::Failed(reason.clone()),
    };
    snapshot::Revision {
        number: number.0,
        spec: Some(encode_revision(&revision.spec)),
        created_at_ms: revision.created_at.as_millis(),
        status: Some(status),
    }
}

pub(super) fn decode(snapshot: Snapshot) -> Result<State, DecodeError> {
    let mut state = State { index: snapshot.index, placed_last: snapshot.placed_last, ..State::default() };
    for app in snapshot.apps {
        let deployed_at = Timestamp::from_millis(app.deployed_at_ms);
        state.apps.insert(app_name(&app.name)?, App { index: app.index, deployed_at });
    }
    for function in snapshot.functions {
        let mut revisions = BTreeMap::new();
        for revision in function.revisions {
            let status = match revision.status.ok_or(DecodeError::Missing("status"))? {
                Status::Pending(_) => RevisionStatus::Pending,
                Status::Proved(_) => RevisionStatus::Proved,
                Status::Failed(reason) => RevisionStatus::Failed(reason),
            };
            let created_at = Timestamp::from_millis(revision.created_at_ms);
            let decoded = Revision { spec: decode_revision(revision.spec)?, created_at, status };
            revisions.insert(RevisionNumber(revision.number), decoded);
        }
        let decoded = Function {
            app: app_name(&function.app)?,
            index: function.index,
            scaling: decode_scaling(function.scaling)?,
            triggers: decode_triggers(function.triggers)?,
            revisions,
            live: function.live.map(RevisionNumber),
            candidate: function.candidate.map(RevisionNumber),
        };
        state.functions.insert(function_name(&function.name)?, decoded);
    }
    for deleted in snapshot.deleted {
        let decoded = Deleted { newest: RevisionNumber(deleted.newest), index: deleted.index };
        state.deleted.insert(function_name(&deleted.name)?, decoded);
    }
    for node in snapshot.nodes {
        let decoded = Node {
            spec: decode_node(node.spec)?,
            epoch: Epoch(node.epoch),
            grant: decode_resources(node.grant)?,
            is_draining: node.is_draining,
            is_dead: node.is_dead,
        };
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
