//! Commands on the wire.

use proto::v1;
use proto::v1::command::Kind;

use super::model::{
    decode_ending, decode_function, decode_instance, decode_node, decode_purpose, decode_resources, decode_revision_id,
    decode_scaling, decode_scaling_change, encode_ending, encode_function, encode_instance, encode_node,
    encode_purpose, encode_resources, encode_revision_id, encode_scaling, encode_scaling_change,
};
use super::{DecodeError, definitions, function_name};
use crate::model::{AppName, Digest, Epoch, NodeId, Timestamp};
use crate::state::{Command, Grant, Place};

pub(super) fn app_name(text: &str) -> Result<AppName, DecodeError> {
    text.parse().map_err(|error| DecodeError::invalid("app", error))
}

/// Reads a SHA-256.
pub(super) fn decode_hash(bytes: &[u8]) -> Result<Digest, DecodeError> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|error| DecodeError::invalid("hash", error))?;
    Ok(Digest::from_bytes(bytes))
}

pub(super) fn encode_invitation(secret: &Digest, expires_at: Timestamp, uses: Option<u32>) -> v1::Invite {
    v1::Invite { secret: secret.as_bytes().to_vec(), expires_at_ms: expires_at.as_millis(), uses }
}

pub(super) fn decode_invitation(invite: v1::Invite) -> Result<(Digest, Timestamp, Option<u32>), DecodeError> {
    Ok((decode_hash(&invite.secret)?, Timestamp::from_millis(invite.expires_at_ms), invite.uses))
}

fn encode_grant(grant: &Grant) -> v1::Grant {
    v1::Grant { node: grant.node.0, epoch: grant.epoch.0, resources: Some(encode_resources(&grant.resources)) }
}

fn decode_grant(grant: v1::Grant) -> Result<Grant, DecodeError> {
    Ok(Grant { node: NodeId(grant.node), epoch: Epoch(grant.epoch), resources: decode_resources(grant.resources)? })
}

fn encode_place(place: &Place) -> v1::Place {
    v1::Place {
        revision: Some(encode_revision_id(&place.revision)),
        node: place.node.0,
        purpose: encode_purpose(place.purpose),
    }
}

fn decode_place(place: v1::Place) -> Result<Place, DecodeError> {
    Ok(Place {
        purpose: decode_purpose(place.purpose())?,
        revision: decode_revision_id(place.revision)?,
        node: NodeId(place.node),
    })
}

pub(super) fn encode(command: &Command) -> v1::Command {
    let kind = match command {
        Command::DeployApp { app, functions, check_index } => Kind::DeployApp(v1::DeployApp {
            app: app.to_string(),
            functions: functions.iter().map(encode_function).collect(),
            check_index: *check_index,
        }),
        Command::DeleteApp { app } => Kind::DeleteApp(app.to_string()),
        Command::DeleteFunction { function } => Kind::DeleteFunction(function.to_string()),
        Command::Promote { revision } => Kind::Promote(encode_revision_id(revision)),
        Command::FailRevision { revision, reason } => Kind::FailRevision(v1::FailRevision {
            revision: Some(encode_revision_id(revision)),
            reason: reason.clone(),
        }),
        Command::Scale { function, change } => {
            let function = function.to_string();
            // What older nodes read too is written as they read it.
            let scaling = change.whole().as_ref().map(encode_scaling);
            let change = scaling.is_none().then(|| encode_scaling_change(change));
            Kind::Scale(v1::Scale { function, scaling, change })
        }
        Command::Invite { secret, expires_at, uses } => Kind::Invite(encode_invitation(secret, *expires_at, *uses)),
        Command::Admit { secret, request } => {
            Kind::Admit(v1::Admit { secret: secret.as_bytes().to_vec(), request: request.as_bytes().to_vec() })
        }
        Command::RemoveNode { node } => Kind::RemoveNode(node.0),
        Command::DeclareDead { node, epoch } => Kind::DeclareDead(v1::DeclareDead { node: node.0, epoch: epoch.0 }),
        Command::Drain { node, is_draining } => Kind::Drain(v1::Drain { node: node.0, is_draining: *is_draining }),
        Command::Label { node, set, unset } => {
            Kind::Label(v1::Label { node: node.0, set: set.clone(), unset: unset.iter().cloned().collect() })
        }
        Command::PreferVoter { node } => Kind::PreferVoter(node.0),
        Command::RegisterNode { node, spec } => {
            Kind::RegisterNode(v1::RegisterNode { node: node.0, spec: Some(encode_node(spec)) })
        }
        Command::Grant { grants } => match grants.as_slice() {
            // As older nodes read it too.
            [grant] => Kind::Grant(encode_grant(grant)),
            several => Kind::GrantMany(v1::GrantMany { grants: several.iter().map(encode_grant).collect() }),
        },
        Command::Place(place) => Kind::Place(encode_place(place)),
        Command::PlaceMany { places } => {
            Kind::PlaceMany(v1::PlaceMany { places: places.iter().map(encode_place).collect() })
        }
        Command::Adopt { node, epoch, instances } => Kind::Adopt(v1::Adopt {
            node: node.0,
            epoch: epoch.0,
            instances: instances
                .iter()
                .map(|(instance, revision)| v1::adopt::Instance {
                    instance: Some(encode_instance(*instance)),
                    revision: Some(encode_revision_id(revision)),
                })
                .collect(),
        }),
        Command::Release { node, epoch, instances } => Kind::Release(v1::Release {
            node: node.0,
            epoch: epoch.0,
            instances: instances
                .iter()
                .map(|(instance, ending)| v1::release::Instance {
                    instance: Some(encode_instance(*instance)),
                    ending: Some(encode_ending(ending)),
                })
                .collect(),
        }),
        Command::Restore(restored) => Kind::Restore(definitions::encode(restored)),
        Command::Unplace { instances } => {
            Kind::Unplace(v1::Unplace { instances: instances.iter().copied().map(encode_instance).collect() })
        }
    };
    v1::Command { kind: Some(kind) }
}

pub(super) fn decode(command: v1::Command) -> Result<Command, DecodeError> {
    Ok(match command.kind.ok_or(DecodeError::Missing("command"))? {
        Kind::DeployApp(deploy) => Command::DeployApp {
            app: app_name(&deploy.app)?,
            functions: deploy.functions.into_iter().map(decode_function).collect::<Result<_, _>>()?,
            check_index: deploy.check_index,
        },
        Kind::DeleteApp(app) => Command::DeleteApp { app: app_name(&app)? },
        Kind::DeleteFunction(function) => Command::DeleteFunction { function: function_name(&function)? },
        Kind::Promote(revision) => Command::Promote { revision: decode_revision_id(Some(revision))? },
        Kind::FailRevision(fail) => {
            Command::FailRevision { revision: decode_revision_id(fail.revision)?, reason: fail.reason }
        }
        Kind::Scale(scale) => {
            let change = match scale.change {
                Some(change) => decode_scaling_change(change),
                None => decode_scaling(scale.scaling)?.into(),
            };
            Command::Scale { function: function_name(&scale.function)?, change }
        }
        Kind::Invite(invite) => {
            let (secret, expires_at, uses) = decode_invitation(invite)?;
            Command::Invite { secret, expires_at, uses }
        }
        Kind::Admit(admit) => {
            Command::Admit { secret: decode_hash(&admit.secret)?, request: decode_hash(&admit.request)? }
        }
        Kind::RemoveNode(node) => Command::RemoveNode { node: NodeId(node) },
        Kind::DeclareDead(dead) => Command::DeclareDead { node: NodeId(dead.node), epoch: Epoch(dead.epoch) },
        Kind::Drain(drain) => Command::Drain { node: NodeId(drain.node), is_draining: drain.is_draining },
        Kind::Label(label) => {
            Command::Label { node: NodeId(label.node), set: label.set, unset: label.unset.into_iter().collect() }
        }
        Kind::PreferVoter(node) => Command::PreferVoter { node: NodeId(node) },
        Kind::RegisterNode(register) => {
            Command::RegisterNode { node: NodeId(register.node), spec: decode_node(register.spec)? }
        }
        Kind::Grant(grant) => Command::Grant { grants: vec![decode_grant(grant)?] },
        Kind::GrantMany(many) => {
            Command::Grant { grants: many.grants.into_iter().map(decode_grant).collect::<Result<_, _>>()? }
        }
        Kind::Place(place) => Command::Place(decode_place(place)?),
        Kind::PlaceMany(many) => {
            Command::PlaceMany { places: many.places.into_iter().map(decode_place).collect::<Result<_, _>>()? }
        }
        Kind::Adopt(adopt) => Command::Adopt {
            node: NodeId(adopt.node),
            epoch: Epoch(adopt.epoch),
            instances: adopt
                .instances
                .into_iter()
                .map(|adopted| Ok((decode_instance(adopted.instance)?, decode_revision_id(adopted.revision)?)))
                .collect::<Result<_, DecodeError>>()?,
        },
        Kind::Release(release) => Command::Release {
            node: NodeId(release.node),
            epoch: Epoch(release.epoch),
            instances: release
                .instances
                .into_iter()
                .map(|released| Ok((decode_instance(released.instance)?, decode_ending(released.ending)?)))
                .collect::<Result<_, DecodeError>>()?,
        },
        Kind::Restore(restored) => Command::Restore(Box::new(definitions::decode(restored)?)),
        Kind::Unplace(unplace) => Command::Unplace {
            instances: unplace
                .instances
                .into_iter()
                .map(|instance| decode_instance(Some(instance)))
                .collect::<Result<_, _>>()?,
        },
    })
}
