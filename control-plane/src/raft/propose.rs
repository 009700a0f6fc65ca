//! The way into the log: what some registered node cannot read is refused before it is there.

use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::{ClientWriteResponse, ReadPolicy};
use openraft_rt::AsyncRuntime;

use super::{Core, Disk, Proposal, Types, View};
use crate::state::Rejection;

/// Why nothing is known to be in the log.
pub type WriteError<RT> = RaftError<Types<RT>, ClientWriteError<Types<RT>>>;

/// What became of a proposal that is in the log, or why it is not there.
pub type Written<RT> = Result<ClientWriteResponse<Types<RT>>, Rejection>;

/// Puts a proposal into the log, if this node leads and every registered node can read it, and waits until it is applied.
pub async fn write<RT, D>(core: &Core<RT, D>, view: &View, proposal: Proposal) -> Result<Written<RT>, WriteError<RT>>
where
    RT: AsyncRuntime,
    D: Disk,
{
    let check = || view.read(|state| state.check_readable(&proposal.command));
    if check().is_err() {
        // Whoever has just come to lead may not have applied yet what allows it.
        match core.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => {}
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                return Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)));
            }
            // Nobody is known to have a quorum: it may be tried again.
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                return Err(RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader::empty())));
            }
            Err(RaftError::Fatal(fatal)) => return Err(RaftError::Fatal(fatal)),
        }
        if let Err(rejection) = check() {
            return Ok(Err(rejection));
        }
    }
    core.client_write(proposal).await.map(Ok)
}
