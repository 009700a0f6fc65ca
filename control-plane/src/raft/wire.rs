//! What Raft itself keeps on disk, as protobuf: votes, log ids, memberships, entries, snapshots.
//!
//! What voters say to each other is in `message`.

use std::collections::{BTreeMap, BTreeSet};

use openraft::impls::BasicNode;
use prost::Message;
use proto::v1;

use super::{Entry, LeaderId, LogId, Membership, Payload, Proposal, StoredMembership, Vote};
use crate::codec::{self, DecodeError};
use crate::state::State;

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    self::vote(vote).encode_to_vec()
}

pub(super) fn vote(vote: &Vote) -> v1::Vote {
    v1::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn parse_vote(vote: v1::Vote) -> Vote {
    Vote { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<Vote, DecodeError> {
    v1::Vote::decode(bytes).map(parse_vote).map_err(DecodeError::Malformed)
}

/// Returns the bytes of a log id; none are no log id.
pub(super) fn encode_log_id(id: Option<LogId>) -> Vec<u8> {
    // An id whose fields are all zero would be no bytes too: the membership that founds a cluster has it. The message around
    // it keeps the two apart.
    v1::StoredMembership { log_id: id.map(log_id), membership: None }.encode_to_vec()
}

pub(super) fn decode_log_id(bytes: &[u8]) -> Result<Option<LogId>, DecodeError> {
    let message = v1::StoredMembership::decode(bytes).map_err(DecodeError::Malformed)?;
    Ok(message.log_id.map(parse_log_id))
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    self::entry(entry).encode_to_vec()
}

pub(super) fn entry(entry: &Entry) -> v1::LogEntry {
    use v1::log_entry::Payload as Wire;
    let payload = match &entry.payload {
        Payload::Blank => Wire::Blank(true),
        Payload::Normal(proposal) => {
            Wire::Entry(codec::encode_entry(proposal.at, proposal.ticket.as_ref(), &proposal.command))
        }
        Payload::Membership(members) => Wire::Membership(membership(members)),
    };
    v1::LogEntry { id: Some(log_id(entry.log_id)), payload: Some(payload) }
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    parse_entry(v1::LogEntry::decode(bytes).map_err(DecodeError::Malformed)?)
}

pub(super) fn parse_entry(entry: v1::LogEntry) -> Result<Entry, DecodeError> {
    use v1::log_entry::Payload as Wire;
    let log_id = parse_log_id(entry.id.ok_or(DecodeError::Missing("id"))?);
    let payload = match entry.payload.ok_or(DecodeError::Missing("payload"))? {
        Wire::Blank(_) => Payload::Blank,
        Wire::Entry(bytes) => {
            let (at, ticket, command) = codec::decode_entry(&bytes)?;
            Payload::Normal(Proposal { at, command, ticket })
        }
        Wire::Membership(members) => Payload::Membership(parse_membership(members)?),
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn encode_snapshot(last_applied: Option<LogId>, members: &StoredMembership, state: &State) -> Vec<u8> {
    let members = v1::StoredMembership {
        log_id: members.log_id().map(log_id),
        membership: Some(membership(members.membership())),
    };
    v1::SnapshotFile {
        last_applied: last_applied.map(log_id),
        membership: Some(members),
        state: codec::encode_state(state),
    }
    .encode_to_vec()
}

pub(super) fn decode_snapshot(bytes: &[u8]) -> Result<(Option<LogId>, StoredMembership, State), DecodeError> {
    let file = v1::SnapshotFile::decode(bytes).map_err(DecodeError::Malformed)?;
    let stored = file.membership.ok_or(DecodeError::Missing("membership"))?;
    let members = parse_membership(stored.membership.unwrap_or_default())?;
    let stored = StoredMembership::new(stored.log_id.map(parse_log_id), members);
    Ok((file.last_applied.map(parse_log_id), stored, codec::decode_state(&file.state)?))
}

pub(super) fn log_id(id: LogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

pub(super) fn parse_log_id(id: v1::LogId) -> LogId {
    LogId { leader_id: LeaderId { term: id.term, node_id: id.node }, index: id.index }
}

fn membership(members: &Membership) -> v1::Membership {
    v1::Membership {
        configs: members
            .get_joint_config()
            .iter()
            .map(|voters| v1::membership::Config { voters: voters.iter().copied().collect() })
            .collect(),
        nodes: members.nodes().map(|(id, node)| v1::membership::Node { id: *id, address: node.addr.clone() }).collect(),
    }
}

fn parse_membership(members: v1::Membership) -> Result<Membership, DecodeError> {
    let configs = members.configs.into_iter().map(|config| config.voters.into_iter().collect::<BTreeSet<_>>());
    let nodes: BTreeMap<u64, BasicNode> =
        members.nodes.into_iter().map(|node| (node.id, BasicNode::new(node.address))).collect();
    Membership::new(configs.collect(), nodes)
        .map_err(|error| DecodeError::Invalid { field: "membership", reason: error.to_string() })
}
