//! Between the wire and the model: parsed once at the border into values that cannot be wrong, or refused.

mod command;
mod definitions;
mod model;
mod reply;
mod report;
mod snapshot;

use prost::Message;
use proto::v1;

use crate::model::{Epoch, FunctionName, NodeId, Timestamp};
use crate::state::{Command, Definitions, Rejection, Reply, State, Ticket};
use crate::supervisor::ReportEvent;

/// Why bytes are no command or no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no message.
    #[error("the bytes are no message")]
    Malformed(#[source] prost::DecodeError),
    /// A field is missing; a newer version may have written something this one does not know.
    #[error("field {0} is missing or not known to this version")]
    Missing(&'static str),
    /// A field has a value that its type cannot have.
    #[error("field {field} is invalid: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl DecodeError {
    fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid { field, reason: reason.to_string() }
    }
}

/// Returns the bytes of one log entry: a command, the time at which every replica applies it, and what makes it apply once.
pub fn encode_entry(at: Timestamp, ticket: Option<&Ticket>, command: &Command) -> Vec<u8> {
    let ticket = ticket.map(encode_ticket);
    v1::Entry { at_ms: at.as_millis(), command: Some(command::encode(command)), ticket }.encode_to_vec()
}

/// Reads one log entry.
pub fn decode_entry(bytes: &[u8]) -> Result<(Timestamp, Option<Ticket>, Command), DecodeError> {
    let entry = v1::Entry::decode(bytes).map_err(DecodeError::Malformed)?;
    let command = command::decode(entry.command.ok_or(DecodeError::Missing("command"))?)?;
    Ok((Timestamp::from_millis(entry.at_ms), entry.ticket.map(decode_ticket), command))
}

/// Returns what makes a proposal apply once.
pub fn encode_ticket(ticket: &Ticket) -> v1::Ticket {
    let Ticket { node, epoch, number, oldest } = *ticket;
    v1::Ticket { node: node.0, epoch: epoch.0, number, oldest }
}

/// Reads what makes a proposal apply once.
pub fn decode_ticket(ticket: v1::Ticket) -> Ticket {
    let v1::Ticket { node, epoch, number, oldest } = ticket;
    Ticket { node: NodeId(node), epoch: Epoch(epoch), number, oldest }
}

/// Returns the message that proposes a command to the leader.
pub fn encode_command(command: &Command) -> v1::Command {
    command::encode(command)
}

/// Reads a command that a peer proposes.
pub fn decode_command(command: v1::Command) -> Result<Command, DecodeError> {
    command::decode(command)
}

/// Returns what a command brought about, or why it changed nothing.
pub fn encode_answer(answer: &Result<Reply, Rejection>) -> v1::propose_reply::applied::Answer {
    use v1::propose_reply::applied::Answer;
    match answer {
        Ok(reply) => Answer::Reply(reply::encode(reply)),
        Err(rejection) => Answer::Rejection(reply::encode_rejection(rejection)),
    }
}

/// Reads what a command brought about.
pub fn decode_answer(answer: v1::propose_reply::applied::Answer) -> Result<Result<Reply, Rejection>, DecodeError> {
    use v1::propose_reply::applied::Answer;
    Ok(match answer {
        Answer::Reply(reply) => Ok(reply::decode(reply)?),
        Answer::Rejection(rejection) => Err(reply::decode_rejection(rejection)?),
    })
}

/// Returns why a command is not put into the log.
pub fn encode_rejection(rejection: &Rejection) -> v1::Rejection {
    reply::encode_rejection(rejection)
}

/// Reads why a command is not put into the log.
pub fn decode_rejection(rejection: v1::Rejection) -> Result<Rejection, DecodeError> {
    reply::decode_rejection(rejection)
}

/// Returns what happened to an instance, for the leader.
pub fn encode_report(event: &ReportEvent) -> v1::Report {
    report::encode(event)
}

/// Reads what happened to an instance.
pub fn decode_report(report: v1::Report) -> Result<ReportEvent, DecodeError> {
    report::decode(report)
}

/// Returns the bytes of the whole state; equal states have equal bytes.
pub fn encode_state(state: &State) -> Vec<u8> {
    snapshot::encode(state).encode_to_vec()
}

/// Reads a whole state.
pub fn decode_state(bytes: &[u8]) -> Result<State, DecodeError> {
    snapshot::decode(v1::Snapshot::decode(bytes).map_err(DecodeError::Malformed)?)
}

/// Returns the bytes of what users have defined; equal definitions have equal bytes.
pub fn encode_definitions(definitions: &Definitions) -> Vec<u8> {
    definitions::encode(definitions).encode_to_vec()
}

/// Reads what users have defined.
pub fn decode_definitions(bytes: &[u8]) -> Result<Definitions, DecodeError> {
    definitions::decode(v1::Definitions::decode(bytes).map_err(DecodeError::Malformed)?)
}

fn function_name(text: &str) -> Result<FunctionName, DecodeError> {
    text.parse().map_err(|error| DecodeError::invalid("function", error))
}

#[cfg(test)]
mod tests;
