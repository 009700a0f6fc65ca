//! What voters say to each other: openraft's messages as our own protobuf, and back.

use openraft::raft::TransferLeaderError;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft_rt::AsyncRuntime;
use proto::v1;

use super::wire::{entry, log_id, parse_entry, parse_log_id, parse_vote, vote};
use super::{LogId, Types, Vote};
use crate::codec::DecodeError;

/// Returns the vote that a message must carry.
pub(super) fn required_vote(found: Option<v1::Vote>) -> Result<Vote, DecodeError> {
    found.map(parse_vote).ok_or(DecodeError::Missing("vote"))
}

pub(super) fn vote_request<RT: AsyncRuntime>(request: &VoteRequest<Types<RT>>) -> v1::VoteRequest {
    v1::VoteRequest {
        vote: Some(vote(&request.vote)),
        last: request.last_log_id.map(log_id),
        is_transfer: request.leadership_transfer,
    }
}

pub(super) fn parse_vote_request<RT: AsyncRuntime>(
    request: v1::VoteRequest,
) -> Result<VoteRequest<Types<RT>>, DecodeError> {
    Ok(VoteRequest {
        vote: required_vote(request.vote)?,
        last_log_id: request.last.map(parse_log_id),
        leadership_transfer: request.is_transfer,
    })
}

pub(super) fn vote_reply<RT: AsyncRuntime>(reply: &VoteResponse<Types<RT>>) -> v1::VoteReply {
    v1::VoteReply { vote: Some(vote(&reply.vote)), granted: reply.vote_granted, last: reply.last_log_id.map(log_id) }
}

pub(super) fn parse_vote_reply<RT: AsyncRuntime>(reply: v1::VoteReply) -> Result<VoteResponse<Types<RT>>, DecodeError> {
    let last = reply.last.map(parse_log_id);
    Ok(VoteResponse { vote: required_vote(reply.vote)?, vote_granted: reply.granted, last_log_id: last })
}

pub(super) fn append_request<RT: AsyncRuntime>(request: &AppendEntriesRequest<Types<RT>>) -> v1::AppendRequest {
    v1::AppendRequest {
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.map(log_id),
        entries: request.entries.iter().map(entry).collect(),
        committed: request.leader_commit.map(log_id),
    }
}

/// Reads a request. Its entries must follow each other and the one before them: openraft takes that for granted.
pub(super) fn parse_append_request<RT: AsyncRuntime>(
    request: v1::AppendRequest,
) -> Result<AppendEntriesRequest<Types<RT>>, DecodeError> {
    let previous = request.previous.map(parse_log_id);
    let mut next = previous.map_or(Some(0), |id| id.index.checked_add(1));
    let mut entries = Vec::with_capacity(request.entries.len());
    for message in request.entries {
        let entry = parse_entry(message)?;
        if Some(entry.log_id.index) != next {
            let reason = format!("entry {} comes where {next:?} should", entry.log_id.index);
            return Err(DecodeError::Invalid { field: "entries", reason });
        }
        next = entry.log_id.index.checked_add(1);
        entries.push(entry);
    }
    Ok(AppendEntriesRequest {
        vote: required_vote(request.vote)?,
        prev_log_id: previous,
        entries,
        leader_commit: request.committed.map(parse_log_id),
    })
}

/// Returns where a request ends: what matches once all of it is taken.
fn ends_at(request: &v1::AppendRequest) -> Option<LogId> {
    let last = request.entries.last().and_then(|entry| entry.id).or(request.previous);
    last.map(parse_log_id)
}

/// What one request of a stream or by itself was about; needed to read its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl Asked {
    pub(super) fn of(request: &v1::AppendRequest) -> Self {
        Self { previous: request.previous.map(parse_log_id), last: ends_at(request) }
    }
}

pub(super) fn append_reply<RT: AsyncRuntime>(result: &StreamAppendResult<Types<RT>>) -> v1::AppendReply {
    use v1::append_reply::{Matching, Result as Wire};
    let result = match result {
        Ok(last) => Wire::Matching(Matching { last: last.map(log_id) }),
        Err(StreamAppendError::Conflict(at)) => Wire::Conflict(log_id(*at)),
        Err(StreamAppendError::HigherVote(other)) => Wire::Higher(vote(other)),
    };
    v1::AppendReply { result: Some(result) }
}

pub(super) fn parse_append_reply<RT: AsyncRuntime>(
    reply: v1::AppendReply,
) -> Result<StreamAppendResult<Types<RT>>, DecodeError> {
    use v1::append_reply::Result as Wire;
    Ok(match reply.result.ok_or(DecodeError::Missing("result"))? {
        Wire::Matching(matching) => Ok(matching.last.map(parse_log_id)),
        Wire::Conflict(at) => Err(StreamAppendError::Conflict(parse_log_id(at))),
        Wire::Higher(other) => Err(StreamAppendError::HigherVote(parse_vote(other))),
    })
}

/// Turns openraft's answer to one request into the answer of a stream, which says the same with more words.
pub(super) fn single_reply<RT: AsyncRuntime>(
    response: AppendEntriesResponse<Types<RT>>,
    asked: Asked,
) -> Result<StreamAppendResult<Types<RT>>, DecodeError> {
    Ok(match response {
        AppendEntriesResponse::Success => Ok(asked.last),
        AppendEntriesResponse::PartialSuccess(last) => Ok(last),
        AppendEntriesResponse::Conflict => {
            Err(StreamAppendError::Conflict(asked.previous.ok_or(DecodeError::Missing("previous"))?))
        }
        AppendEntriesResponse::HigherVote(other) => Err(StreamAppendError::HigherVote(other)),
    })
}

/// The way back of [`single_reply`].
pub(super) fn parse_single_reply<RT: AsyncRuntime>(
    result: StreamAppendResult<Types<RT>>,
    asked: Asked,
) -> AppendEntriesResponse<Types<RT>> {
    match result {
        Ok(last) if last == asked.last => AppendEntriesResponse::Success,
        Ok(last) => AppendEntriesResponse::PartialSuccess(last),
        Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
        Err(StreamAppendError::HigherVote(other)) => AppendEntriesResponse::HigherVote(other),
    }
}

pub(super) fn transfer_request<RT: AsyncRuntime>(request: &TransferLeaderRequest<Types<RT>>) -> v1::TransferRequest {
    v1::TransferRequest {
        from: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().copied().map(log_id),
    }
}

pub(super) fn parse_transfer_request<RT: AsyncRuntime>(
    request: v1::TransferRequest,
) -> Result<TransferLeaderRequest<Types<RT>>, DecodeError> {
    let from = required_vote(request.from)?;
    Ok(TransferLeaderRequest::new(from, request.to, request.last.map(parse_log_id)))
}

pub(super) fn transfer_reply<RT: AsyncRuntime>(response: &TransferLeaderResponse<Types<RT>>) -> v1::TransferReply {
    use v1::transfer_reply::{Ends, Refusal};
    let refusal = match response {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => Some(Refusal::Vote(vote(actual))),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            Some(Refusal::Ends(Ends { last: actual.map(log_id) }))
        }
    };
    v1::TransferReply { refusal }
}

pub(super) fn parse_transfer_reply<RT: AsyncRuntime>(
    reply: v1::TransferReply,
    asked: &TransferLeaderRequest<Types<RT>>,
) -> TransferLeaderResponse<Types<RT>> {
    use v1::transfer_reply::Refusal;
    match reply.refusal {
        None => Ok(()),
        Some(Refusal::Vote(actual)) => {
            Err(TransferLeaderError::VoteChanged { expected: *asked.from_leader(), actual: parse_vote(actual) })
        }
        Some(Refusal::Ends(ends)) => Err(TransferLeaderError::LogNotFlushed {
            expected: asked.last_log_id().copied(),
            actual: ends.last.map(parse_log_id),
        }),
    }
}
