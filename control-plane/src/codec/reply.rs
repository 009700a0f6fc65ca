//! What became of a command, between peers.

use proto::v1;
use proto::v1::applied_function::Change as WireChange;
use proto::v1::rejection::{self, NotInvited as WireNotInvited, Rejection as Wire};
use proto::v1::reply::placed_many::{self, outcome::Outcome};
use proto::v1::reply::{Deployed, PlacedMany, Reply as WireReply};

use super::command::app_name;
use super::model::{
    decode_instance, decode_resources, decode_revision_id, encode_instance, encode_resources, encode_revision_id,
};
use super::{DecodeError, function_name};
use crate::model::{Epoch, FeatureLevel, InstanceId, NodeId, RevisionNumber};
use crate::state::{AppliedFunction, Change, NotInvited, Rejection, Reply};

pub(super) fn encode(reply: &Reply) -> v1::Reply {
    let reply = match reply {
        Reply::Done { index } => WireReply::Done(*index),
        Reply::Deployed { index, functions } => {
            WireReply::Deployed(Deployed { index: *index, functions: functions.iter().map(encode_applied).collect() })
        }
        Reply::Admitted { node } => WireReply::Admitted(node.0),
        Reply::Registered { epoch } => WireReply::Registered(epoch.0),
        Reply::Placed { instance } => WireReply::Placed(encode_instance(*instance)),
        Reply::PlacedMany { placed } => {
            WireReply::PlacedMany(PlacedMany { placed: placed.iter().map(encode_outcome).collect() })
        }
    };
    v1::Reply { reply: Some(reply) }
}

pub(super) fn decode(reply: v1::Reply) -> Result<Reply, DecodeError> {
    Ok(match reply.reply.ok_or(DecodeError::Missing("reply"))? {
        WireReply::Done(index) => Reply::Done { index },
        WireReply::Deployed(Deployed { index, functions }) => {
            let functions = functions.into_iter().map(decode_applied).collect::<Result<_, _>>()?;
            Reply::Deployed { index, functions }
        }
        WireReply::Admitted(node) => Reply::Admitted { node: NodeId(node) },
        WireReply::Registered(epoch) => Reply::Registered { epoch: Epoch(epoch) },
        WireReply::Placed(instance) => Reply::Placed { instance: decode_instance(Some(instance))? },
        WireReply::PlacedMany(many) => {
            Reply::PlacedMany { placed: many.placed.into_iter().map(decode_outcome).collect::<Result<_, _>>()? }
        }
    })
}

fn encode_outcome(outcome: &Result<InstanceId, Rejection>) -> placed_many::Outcome {
    let outcome = match outcome {
        Ok(instance) => Outcome::Instance(encode_instance(*instance)),
        Err(rejection) => Outcome::Rejection(encode_rejection(rejection)),
    };
    placed_many::Outcome { outcome: Some(outcome) }
}

fn decode_outcome(outcome: placed_many::Outcome) -> Result<Result<InstanceId, Rejection>, DecodeError> {
    Ok(match outcome.outcome.ok_or(DecodeError::Missing("outcome"))? {
        Outcome::Instance(instance) => Ok(decode_instance(Some(instance))?),
        Outcome::Rejection(rejection) => Err(decode_rejection(rejection)?),
    })
}

fn encode_applied(applied: &AppliedFunction) -> v1::AppliedFunction {
    let change = match applied.change {
        Change::Created => WireChange::Created,
        Change::Revised => WireChange::Revised,
        Change::Adjusted => WireChange::Adjusted,
        Change::Unchanged => WireChange::Unchanged,
        Change::Deleted => WireChange::Deleted,
    };
    v1::AppliedFunction {
        name: applied.name.to_string(),
        revision: applied.revision.map(|number| number.0),
        change: change.into(),
    }
}

fn decode_applied(applied: v1::AppliedFunction) -> Result<AppliedFunction, DecodeError> {
    let change = match applied.change() {
        WireChange::Created => Change::Created,
        WireChange::Revised => Change::Revised,
        WireChange::Adjusted => Change::Adjusted,
        WireChange::Unchanged => Change::Unchanged,
        WireChange::Deleted => Change::Deleted,
        WireChange::Unspecified => return Err(DecodeError::Missing("change")),
    };
    let revision = applied.revision.map(RevisionNumber);
    Ok(AppliedFunction { name: function_name(&applied.name)?, revision, change })
}

pub(super) fn encode_rejection(rejection: &Rejection) -> v1::Rejection {
    let rejection = match rejection {
        Rejection::NoFunction(function) => Wire::NoFunction(function.to_string()),
        Rejection::NoApp(app) => Wire::NoApp(app.to_string()),
        Rejection::NoRevision(revision) => Wire::NoRevision(encode_revision_id(revision)),
        Rejection::NoNode(node) => Wire::NoNode(node.0),
        Rejection::ForeignFunction { function, owner } => Wire::ForeignFunction(rejection::ForeignFunction {
            function: function.to_string(),
            owner: owner.to_string(),
        }),
        Rejection::DuplicateFunction(function) => Wire::DuplicateFunction(function.to_string()),
        Rejection::RouteTaken { first, second, claim } => Wire::RouteTaken(rejection::RouteTaken {
            first: first.to_string(),
            second: second.to_string(),
            claim: claim.clone(),
        }),
        Rejection::IndexChanged { app, expected, actual } => {
            let app = app.to_string();
            Wire::IndexChanged(rejection::IndexChanged { app, expected: *expected, actual: *actual })
        }
        Rejection::RevisionFailed { revision, reason } => Wire::RevisionFailed(rejection::RevisionFailed {
            revision: Some(encode_revision_id(revision)),
            reason: reason.clone(),
        }),
        Rejection::NotProved(revision) => Wire::NotProved(encode_revision_id(revision)),
        Rejection::StaleEpoch { node, actual, given } => {
            Wire::StaleEpoch(rejection::StaleEpoch { node: node.0, actual: actual.0, given: given.0 })
        }
        Rejection::NoRoom { node, needed, room } => Wire::NoRoom(rejection::NoRoom {
            node: node.0,
            needed: Some(encode_resources(needed)),
            room: Some(encode_resources(room)),
        }),
        Rejection::NoLabel { node, key, value } => {
            Wire::NoLabel(rejection::NoLabel { node: node.0, key: key.clone(), value: value.clone() })
        }
        Rejection::InstanceExists(instance) => Wire::InstanceExists(encode_instance(*instance)),
        Rejection::ForeignInstance { node, instance } => {
            let instance = Some(encode_instance(*instance));
            Wire::ForeignInstance(rejection::ForeignInstance { node: node.0, instance })
        }
        Rejection::NotInvited(reason) => Wire::NotInvited(
            match reason {
                NotInvited::Unknown => WireNotInvited::Unknown,
                NotInvited::Expired => WireNotInvited::Expired,
                NotInvited::UsedUp => WireNotInvited::UsedUp,
            }
            .into(),
        ),
        Rejection::NodeRemoved(node) => Wire::NodeRemoved(node.0),
        Rejection::LastNode(node) => Wire::LastNode(node.0),
        Rejection::NoSession { node, number } => {
            Wire::NoSession(rejection::NoSession { node: node.0, number: *number })
        }
        Rejection::NodeDead(node) => Wire::NodeDead(node.0),
        Rejection::NodeDraining(node) => Wire::NodeDraining(node.0),
        Rejection::OneVoter { nodes } => Wire::OneVoter(*nodes),
        Rejection::BadLabel(reason) => Wire::BadLabel(reason.clone()),
        Rejection::LabelNotSet { node, key } => {
            Wire::LabelNotSet(rejection::LabelNotSet { node: node.0, key: key.clone() })
        }
        Rejection::BadScaling(reason) => Wire::BadScaling(reason.clone()),
        Rejection::NotFresh => Wire::NotFresh(true),
        Rejection::Unsound(violation) => Wire::Unsound(violation.clone()),
        Rejection::TooNew { needed, cluster, oldest } => {
            let oldest = oldest.map(|node| node.0);
            Wire::TooNew(rejection::TooNew { needed: needed.0, cluster: cluster.0, oldest })
        }
        Rejection::NodeTooOld { node, level, cluster } => {
            Wire::NodeTooOld(rejection::NodeTooOld { node: node.0, level: level.0, cluster: cluster.0 })
        }
        Rejection::Limit { what, limit } => Wire::Limit(rejection::Limit { what: what.clone(), limit: *limit as u64 }),
    };
    v1::Rejection { rejection: Some(rejection) }
}

pub(super) fn decode_rejection(rejection: v1::Rejection) -> Result<Rejection, DecodeError> {
    Ok(match rejection.rejection.ok_or(DecodeError::Missing("rejection"))? {
        Wire::NoFunction(function) => Rejection::NoFunction(function_name(&function)?),
        Wire::NoApp(app) => Rejection::NoApp(app_name(&app)?),
        Wire::NoRevision(revision) => Rejection::NoRevision(decode_revision_id(Some(revision))?),
        Wire::NoNode(node) => Rejection::NoNode(NodeId(node)),
        Wire::ForeignFunction(foreign) => {
            Rejection::ForeignFunction { function: function_name(&foreign.function)?, owner: app_name(&foreign.owner)? }
        }
        Wire::DuplicateFunction(function) => Rejection::DuplicateFunction(function_name(&function)?),
        Wire::RouteTaken(taken) => Rejection::RouteTaken {
            first: function_name(&taken.first)?,
            second: function_name(&taken.second)?,
            claim: taken.claim,
        },
        Wire::IndexChanged(changed) => {
            Rejection::IndexChanged { app: app_name(&changed.app)?, expected: changed.expected, actual: changed.actual }
        }
        Wire::RevisionFailed(failed) => {
            Rejection::RevisionFailed { revision: decode_revision_id(failed.revision)?, reason: failed.reason }
        }
        Wire::NotProved(revision) => Rejection::NotProved(decode_revision_id(Some(revision))?),
        Wire::StaleEpoch(stale) => {
            Rejection::StaleEpoch { node: NodeId(stale.node), actual: Epoch(stale.actual), given: Epoch(stale.given) }
        }
        Wire::NoRoom(room) => Rejection::NoRoom {
            node: NodeId(room.node),
            needed: decode_resources(room.needed)?,
            room: decode_resources(room.room)?,
        },
        Wire::NoLabel(label) => Rejection::NoLabel { node: NodeId(label.node), key: label.key, value: label.value },
        Wire::InstanceExists(instance) => Rejection::InstanceExists(decode_instance(Some(instance))?),
        Wire::ForeignInstance(foreign) => {
            Rejection::ForeignInstance { node: NodeId(foreign.node), instance: decode_instance(foreign.instance)? }
        }
        Wire::NotInvited(reason) => Rejection::NotInvited(match WireNotInvited::try_from(reason) {
            Ok(WireNotInvited::Unknown) => NotInvited::Unknown,
            Ok(WireNotInvited::Expired) => NotInvited::Expired,
            Ok(WireNotInvited::UsedUp) => NotInvited::UsedUp,
            Ok(WireNotInvited::Unspecified) | Err(_) => return Err(DecodeError::Missing("reason")),
        }),
        Wire::NodeRemoved(node) => Rejection::NodeRemoved(NodeId(node)),
        Wire::LastNode(node) => Rejection::LastNode(NodeId(node)),
        Wire::NoSession(over) => Rejection::NoSession { node: NodeId(over.node), number: over.number },
        Wire::NodeDead(node) => Rejection::NodeDead(NodeId(node)),
        Wire::NodeDraining(node) => Rejection::NodeDraining(NodeId(node)),
        Wire::OneVoter(nodes) => Rejection::OneVoter { nodes },
        Wire::BadLabel(reason) => Rejection::BadLabel(reason),
        Wire::LabelNotSet(label) => Rejection::LabelNotSet { node: NodeId(label.node), key: label.key },
        Wire::BadScaling(reason) => Rejection::BadScaling(reason),
        Wire::NotFresh(_) => Rejection::NotFresh,
        Wire::Unsound(violation) => Rejection::Unsound(violation),
        Wire::TooNew(new) => Rejection::TooNew {
            needed: FeatureLevel(new.needed),
            cluster: FeatureLevel(new.cluster),
            oldest: new.oldest.map(NodeId),
        },
        Wire::NodeTooOld(old) => Rejection::NodeTooOld {
            node: NodeId(old.node),
            level: FeatureLevel(old.level),
            cluster: FeatureLevel(old.cluster),
        },
        Wire::Limit(limit) => Rejection::Limit {
            what: limit.what,
            limit: usize::try_from(limit.limit).map_err(|error| DecodeError::invalid("limit", error))?,
        },
    })
}
