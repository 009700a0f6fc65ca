//! What the cluster has agreed on: the replicated state machine.
//!
//! [`State::apply`] is total and deterministic: time comes inside the log entry, a bad command is refused with a
//! [`Rejection`], and nothing panics, because one poisoned entry would stop every replica.

mod check;
mod command;
mod definitions;
mod features;
mod function;
mod instance;
mod member;
mod node;
mod placements;
mod session;
mod tickets;

use std::collections::{BTreeMap, BTreeSet};

pub use check::violations;
pub use command::{AppliedFunction, Change, Command, GRANT_MAX, Grant, NotInvited, PLACE_MAX, Place, Rejection, Reply};
pub use definitions::Definitions;
pub use function::{DELETED_MAX, FUNCTIONS_MAX, REVISIONS_KEPT};
pub use member::{ADMITTED_LIFE, ADMITTED_MAX, Admitted, INVITATIONS_MAX, Invitation};
pub use placements::Placements;
pub use session::{ANSWERS_MAX, Session, Ticket};
pub use tickets::Tickets;

use crate::model::{
    AppName, Digest, FeatureLevel, FunctionName, Node, NodeId, Purpose, Resources, RevisionId, RevisionNumber,
    RevisionSpec, Scaling, Timestamp, Trigger,
};

/// Everything that is replicated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// How many commands changed something; `check-index` compares against a function's or app's share of it.
    pub index: u64,
    /// What each manifest deployed.
    pub apps: BTreeMap<AppName, App>,
    /// Every function by name.
    pub functions: BTreeMap<FunctionName, Function>,
    /// The functions that were deleted last: whoever takes such a name goes on counting its revisions.
    ///
    /// An instance of the deleted function may still run, and must not pass for one of the new function.
    pub deleted: BTreeMap<FunctionName, Deleted>,
    /// Every node that ever registered and was not removed.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Nodes that were let in and have not registered yet.
    pub admitted: BTreeMap<NodeId, Admitted>,
    /// Nodes that were taken out: none of them comes back, and no id is given twice.
    pub removed: BTreeSet<NodeId>,
    /// Which secrets let machines in, by their SHA-256.
    pub invitations: BTreeMap<Digest, Invitation>,
    /// What every registered node can read from the log; it never falls.
    ///
    /// Invariant: the most that the least of the nodes has been, so no registered node reads less.
    pub features: FeatureLevel,
    /// Every instance that is agreed to run, wherever it is.
    pub placements: Placements,
    /// The last sequence handed out for a placed instance.
    pub placed_last: u32,
    /// The proposals of each node that has registered.
    pub sessions: BTreeMap<NodeId, Session>,
}

/// What is remembered of a deleted function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Its newest revision.
    pub newest: RevisionNumber,
    /// The [`State::index`] at which it was deleted.
    pub index: u64,
}

/// What one manifest deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// The [`State::index`] at which it last changed.
    pub index: u64,
    /// When it was last deployed.
    pub deployed_at: Timestamp,
}

/// A function and its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The app that owns it.
    pub app: AppName,
    /// The [`State::index`] at which it last changed.
    pub index: u64,
    /// How it scales.
    pub scaling: Scaling,
    /// What invokes it beside its name.
    pub triggers: Vec<Trigger>,
    /// Its revisions; old ones beyond a limit are forgotten, the live one and the candidate never.
    pub revisions: BTreeMap<RevisionNumber, Revision>,
    /// The revision that takes all traffic, once one has proved that it starts.
    pub live: Option<RevisionNumber>,
    /// The revision that is being proved before it becomes live.
    pub candidate: Option<RevisionNumber>,
}

/// Immutable code and settings of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// What its instances run.
    pub spec: RevisionSpec,
    /// When it was deployed.
    pub created_at: Timestamp,
    /// How far it came.
    pub status: RevisionStatus,
}

/// How far a revision came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevisionStatus {
    /// No instance of it has become ready yet.
    Pending,
    /// An instance of it became ready: it may take traffic.
    Proved,
    /// Its instances do not start; the text says why.
    Failed(String),
}

/// The agreed decision that an instance runs on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What it runs.
    pub revision: RevisionId,
    /// Where.
    pub node: NodeId,
    /// What it holds of its node.
    pub resources: Resources,
    /// Why it exists.
    pub purpose: Purpose,
    /// When it was agreed.
    pub since: Timestamp,
}

impl State {
    /// Applies one command at the time its log entry carries.
    ///
    /// A refused command changes nothing. Equal states and equal commands give equal states and equal answers, on every replica.
    pub fn apply(&mut self, at: Timestamp, command: Command) -> Result<Reply, Rejection> {
        self.check_readable(&command)?;
        let reply = match command {
            Command::DeployApp { app, functions, check_index } => self.deploy_app(at, app, functions, check_index),
            Command::DeleteApp { app } => self.delete_app(&app),
            Command::DeleteFunction { function } => self.delete_function(&function),
            Command::Promote { revision } => self.promote(&revision),
            Command::FailRevision { revision, reason } => self.fail_revision(&revision, reason),
            Command::Scale { function, change } => self.scale(&function, change),
            Command::Invite { secret, expires_at, uses } => self.invite(at, secret, expires_at, uses),
            Command::Admit { secret, request } => self.admit(at, secret, request),
            Command::RemoveNode { node } => self.remove_node(node),
            Command::DeclareDead { node, epoch } => self.declare_dead(node, epoch),
            Command::Label { node, set, unset } => self.label(node, set, &unset),
            Command::PreferVoter { node } => self.prefer_voter(node),
            Command::Drain { node, is_draining } => self.drain(node, is_draining),
            Command::RegisterNode { node, spec } => self.register_node(node, spec),
            Command::Grant { grants } => self.grant(&grants),
            Command::Place(place) => self.place(at, place),
            Command::PlaceMany { places } => self.place_many(at, places),
            Command::Adopt { node, epoch, instances } => self.adopt(at, node, epoch, &instances),
            Command::Release { node, epoch, instances } => self.release(node, epoch, &instances),
            Command::Unplace { instances } => self.unplace(&instances),
            Command::Restore(definitions) => self.restore(*definitions),
        }?;
        debug_assert_eq!(violations(self), Vec::<String>::new(), "a command left the state inconsistent");
        Ok(reply)
    }

    /// Returns a revision, if it is remembered.
    pub fn revision(&self, id: &RevisionId) -> Option<&Revision> {
        self.functions.get(&id.function)?.revisions.get(&id.number)
    }

    /// Returns whether a node may speak with the others: it was let in, and not taken out.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node) || self.admitted.contains_key(&node)
    }

    /// Counts one change and answers with the index it has.
    fn done(&mut self) -> Reply {
        self.index += 1;
        Reply::Done { index: self.index }
    }
}

impl Function {
    /// Returns whether instances of a revision have a reason to exist.
    pub fn wants(&self, number: RevisionNumber) -> bool {
        self.live == Some(number) || self.candidate == Some(number)
    }
}

#[cfg(test)]
mod tests;
