//! One voter as its peers see it: their messages in, openraft's answers out.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, StreamExt, stream};
use openraft::Raft;
use openraft_rt::AsyncRuntime;
use proto::v1;
use proto::v1::raft_reply::Reply;
use proto::v1::raft_request::Request;

use super::parts::{Incoming, Taken};
use super::transport::{AppendReplies, TransportError};
use super::{Disk, Machine, Types, machine, message, wire};
use crate::codec::DecodeError;

/// openraft with our state machine.
pub type Core<RT, D> = Raft<Types<RT>, Machine<RT, D>>;

/// Answers peers; clones answer for the same voter.
pub struct Replica<RT: AsyncRuntime, D: Disk> {
    core: Core<RT, D>,
    incoming: Arc<Mutex<Incoming>>,
}

impl<RT: AsyncRuntime, D: Disk> Clone for Replica<RT, D> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), incoming: Arc::clone(&self.incoming) }
    }
}

impl<RT: AsyncRuntime, D: Disk> fmt::Debug for Replica<RT, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("node", self.core.node_id()).finish_non_exhaustive()
    }
}

/// Why a peer's message gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It cannot be read.
    #[error("the message makes no sense")]
    Malformed(#[from] DecodeError),
    /// The snapshot that it is a part of is damaged or too large.
    #[error("the snapshot is refused: {0}")]
    Snapshot(#[from] std::io::Error),
    /// This voter is stopping, or its disk has failed.
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
}

fn stopped(error: impl fmt::Display) -> AnswerError {
    AnswerError::Stopped(error.to_string())
}

impl<RT: AsyncRuntime, D: Disk> Replica<RT, D> {
    /// Returns what answers for a running voter.
    pub fn new(core: Core<RT, D>) -> Self {
        Self { core, incoming: Arc::default() }
    }

    /// Returns openraft itself.
    pub fn core(&self) -> &Core<RT, D> {
        &self.core
    }

    /// Answers one message.
    pub async fn answer(&self, request: v1::RaftRequest) -> Result<v1::RaftReply, AnswerError> {
        let reply = match request.request.ok_or(DecodeError::Missing("request"))? {
            Request::Vote(request) => {
                let request = message::parse_vote_request(request)?;
                Reply::Vote(message::vote_reply(&self.core.vote(request).await.map_err(stopped)?))
            }
            Request::PreVote(request) => {
                let request = message::parse_vote_request(request)?;
                Reply::Vote(message::vote_reply(&self.core.pre_vote(request).await.map_err(stopped)?))
            }
            Request::Append(request) => {
                let asked = message::Asked::of(&request);
                let request = message::parse_append_request(request)?;
                let response = self.core.append_entries(request).await.map_err(stopped)?;
                Reply::Append(message::append_reply(&message::single_reply(response, asked)?))
            }
            Request::Snapshot(part) => Reply::Snapshot(self.take(part).await?),
            Request::Transfer(request) => {
                let request = message::parse_transfer_request(request)?;
                let response = self.core.handle_transfer_leader(request).await.map_err(stopped)?;
                Reply::Transfer(message::transfer_reply(&response))
            }
        };
        Ok(v1::RaftReply { reply: Some(reply) })
    }

    /// Answers a stream of entries, each request in turn; ends with the first that cannot be answered.
    pub fn answer_appends(&self, requests: impl Stream<Item = v1::AppendRequest> + Send + 'static) -> AppendReplies {
        let broken = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&broken);
        let parsed = requests.map(message::parse_append_request::<RT>).scan(noted, |noted, parsed| {
            // What cannot be read ends the stream: its sender is told after the answers to what came before.
            let request = parsed.map_err(|error| {
                *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            });
            std::future::ready(request.ok())
        });
        let answers = self.core.stream_append(Box::pin(parsed)).map(|answer| match answer {
            Ok(result) => Ok(message::append_reply(&result)),
            Err(fatal) => Err(TransportError::Failed(fatal.to_string())),
        });
        let last = stream::once(async move {
            let error = broken.lock().unwrap_or_else(PoisonError::into_inner).take();
            error.map(|error| Err(TransportError::Failed(error.to_string())))
        });
        Box::pin(answers.chain(last.filter_map(std::future::ready)))
    }

    async fn take(&self, part: v1::SnapshotPart) -> Result<v1::SnapshotReply, AnswerError> {
        let from = message::required_vote(part.vote)?;
        let length = part.length;
        let taken = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take(part)?;
        let (vote, received) = match taken {
            Taken::Upto(received) => (from, received),
            Taken::Whole(file) => {
                let snapshot = machine::whole_snapshot(file)?;
                let response = self.core.install_full_snapshot(from, snapshot).await.map_err(stopped)?;
                (response.vote, length)
            }
        };
        Ok(v1::SnapshotReply { vote: Some(wire::vote(&vote)), received })
    }
}
