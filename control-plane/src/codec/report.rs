//! What a node tells the leader about its instances, between peers.

use proto::v1;
use proto::v1::report::Event as Wire;

use super::DecodeError;
use super::model::{
    decode_failure, decode_instance, decode_revision_id, encode_failure, encode_instance, encode_revision_id,
};
use crate::supervisor::ReportEvent;

pub(super) fn encode(event: &ReportEvent) -> v1::Report {
    let (instance, revision, event) = match event {
        ReportEvent::Ready { instance, revision } => (instance, revision, Wire::Ready(true)),
        ReportEvent::StartFailed { instance, revision, failure } => {
            (instance, revision, Wire::StartFailed(encode_failure(failure)))
        }
    };
    v1::Report {
        instance: Some(encode_instance(*instance)),
        revision: Some(encode_revision_id(revision)),
        event: Some(event),
    }
}

pub(super) fn decode(report: v1::Report) -> Result<ReportEvent, DecodeError> {
    let (instance, revision) = (decode_instance(report.instance)?, decode_revision_id(report.revision)?);
    Ok(match report.event.ok_or(DecodeError::Missing("event"))? {
        Wire::Ready(_) => ReportEvent::Ready { instance, revision },
        Wire::StartFailed(failure) => {
            ReportEvent::StartFailed { instance, revision, failure: decode_failure(failure)? }
        }
    })
}
