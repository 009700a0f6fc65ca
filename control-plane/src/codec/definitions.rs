//! What users have defined, on the wire: the larger part of a snapshot, and all of a backup.

use std::collections::BTreeMap;

use proto::v1::snapshot::revision::Status;
use proto::v1::{self, snapshot};

use super::command::app_name;
use super::model::{
    decode_revision, decode_scaling, decode_triggers, encode_revision, encode_scaling, encode_triggers,
};
use super::{DecodeError, function_name};
use crate::model::{AppName, FunctionName, RevisionNumber, Timestamp};
use crate::planted::planted;
use crate::state::{App, Definitions, Deleted, Function, Revision, RevisionStatus};

type Decoded<K, V> = Result<BTreeMap<K, V>, DecodeError>;

pub(super) fn encode(definitions: &Definitions) -> v1::Definitions {
    let Definitions { index, apps, functions, deleted } = definitions;
    v1::Definitions {
        index: *index,
        apps: encode_apps(apps),
        functions: encode_functions(functions),
        deleted: encode_deleted(deleted),
    }
}

pub(super) fn decode(definitions: v1::Definitions) -> Result<Definitions, DecodeError> {
    let v1::Definitions { index, apps, functions, deleted } = definitions;
    Ok(Definitions {
        index,
        apps: decode_apps(apps)?,
        functions: decode_functions(functions)?,
        deleted: decode_deleted(deleted)?,
    })
}

pub(super) fn encode_apps(apps: &BTreeMap<AppName, App>) -> Vec<snapshot::App> {
    let apps = apps.iter();
    apps.map(|(name, app)| snapshot::App {
        name: name.to_string(),
        index: app.index,
        deployed_at_ms: app.deployed_at.as_millis(),
    })
    .collect()
}

pub(super) fn decode_apps(apps: Vec<snapshot::App>) -> Decoded<AppName, App> {
    let decode = |app: snapshot::App| {
        let deployed_at = Timestamp::from_millis(app.deployed_at_ms);
        Ok((app_name(&app.name)?, App { index: app.index, deployed_at }))
    };
    apps.into_iter().map(decode).collect()
}

pub(super) fn encode_functions(functions: &BTreeMap<FunctionName, Function>) -> Vec<snapshot::Function> {
    let functions = functions.iter();
    functions
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
        .collect()
}

pub(super) fn decode_functions(functions: Vec<snapshot::Function>) -> Decoded<FunctionName, Function> {
    let decode = |function: snapshot::Function| {
        let decoded = Function {
            app: app_name(&function.app)?,
            index: function.index,
            scaling: decode_scaling(function.scaling)?,
            triggers: decode_triggers(function.triggers)?,
            revisions: function.revisions.into_iter().map(decode_numbered).collect::<Result<_, _>>()?,
            live: function.live.map(RevisionNumber),
            candidate: function.candidate.map(RevisionNumber),
        };
        Ok((function_name(&function.name)?, decoded))
    };
    functions.into_iter().map(decode).collect()
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

fn decode_numbered(revision: snapshot::Revision) -> Result<(RevisionNumber, Revision), DecodeError> {
    let status = match revision.status.ok_or(DecodeError::Missing("status"))? {
        Status::Pending(_) => RevisionStatus::Pending,
        Status::Proved(_) => RevisionStatus::Proved,
        Status::Failed(reason) => RevisionStatus::Failed(reason),
    };
    let created_at = Timestamp::from_millis(revision.created_at_ms);
    let decoded = Revision { spec: decode_revision(revision.spec)?, created_at, status };
    Ok((RevisionNumber(revision.number), decoded))
}

pub(super) fn encode_deleted(deleted: &BTreeMap<FunctionName, Deleted>) -> Vec<snapshot::Deleted> {
    let deleted = deleted.iter();
    deleted
        .map(|(name, deleted)| snapshot::Deleted {
            name: name.to_string(),
            newest: deleted.newest.0,
            index: deleted.index,
        })
        .collect()
}

pub(super) fn decode_deleted(deleted: Vec<snapshot::Deleted>) -> Decoded<FunctionName, Deleted> {
    let decode = |deleted: snapshot::Deleted| {
        let decoded = Deleted { newest: RevisionNumber(deleted.newest), index: deleted.index };
        Ok((function_name(&deleted.name)?, decoded))
    };
    deleted.into_iter().map(decode).collect()
}
