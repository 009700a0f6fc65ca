//! What may be proposed to the cluster, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use super::Definitions;
use crate::model::{
    AppName, Digest, Ending, Epoch, FeatureLevel, FunctionName, FunctionSpec, InstanceId, NodeId, NodeSpec, Purpose,
    Resources, RevisionId, RevisionNumber, ScalingChange, Timestamp,
};

/// The most instances that one command places: what a leader plans in one tick.
pub const PLACE_MAX: usize = 256;

/// How many nodes one command grants something.
pub const GRANT_MAX: usize = 1024;

/// What one node may start by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The node.
    pub node: NodeId,
    /// Its epoch as the leader knows it.
    pub epoch: Epoch,
    /// All of it; together with the node's placements at most its capacity.
    pub resources: Resources,
}

/// One instance that is to run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What to run.
    pub revision: RevisionId,
    /// Where.
    pub node: NodeId,
    /// Why.
    pub purpose: Purpose,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes an app exactly these functions: creates revisions where the spec differs from the newest one, changes scaling and
    /// triggers in place, deletes functions of the app that are not listed. All or nothing.
    DeployApp {
        /// The app.
        app: AppName,
        /// Its functions.
        functions: Vec<FunctionSpec>,
        /// Refuse unless the app's index is this; zero means the app must not exist.
        check_index: Option<u64>,
    },
    /// Deletes an app and its functions.
    DeleteApp {
        /// The app.
        app: AppName,
    },
    /// Deletes one function.
    DeleteFunction {
        /// The function.
        function: FunctionName,
    },
    /// Makes a revision the live one: the controller after it proved itself, or an operator rolling back.
    Promote {
        /// The revision: the candidate, or one that has proved itself before.
        revision: RevisionId,
    },
    /// Records that a revision does not start; a candidate is given up, the live revision stays.
    FailRevision {
        /// The revision.
        revision: RevisionId,
        /// Why, for people.
        reason: String,
    },
    /// Changes how a function scales; what somebody else changes at the same time stays.
    Scale {
        /// The function.
        function: FunctionName,
        /// What changes.
        change: ScalingChange,
    },
    /// Lets machines join that show a secret, of which the cluster keeps no more than the hash.
    Invite {
        /// The SHA-256 of the secret.
        secret: Digest,
        /// Until when, by the clock of the leader.
        expires_at: Timestamp,
        /// How many machines may join by it; none means any number.
        uses: Option<u32>,
    },
    /// Lets in a machine that has shown a secret: it becomes a node with an id of its own, which comes back in the reply.
    ///
    /// Whoever asks again with the same request, because an answer was lost, is the same node, and counts once.
    Admit {
        /// The SHA-256 of the secret.
        secret: Digest,
        /// The SHA-256 of the machine's request for a certificate.
        request: Digest,
    },
    /// Takes a node out of the cluster, with what is placed on it; its id is never given again.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Gives a node up: what was placed on it is free to be placed elsewhere, and what it says in this epoch is refused from
    /// here on. It comes back by registering.
    DeclareDead {
        /// The node.
        node: NodeId,
        /// The epoch in which it was not heard of any more.
        epoch: Epoch,
    },
    /// Wants nothing to run on a node, or something again.
    Drain {
        /// The node.
        node: NodeId,
        /// Whether it is emptied.
        is_draining: bool,
    },
    /// Sets labels on a node and takes others back; they stand above what its agent says, whatever that is from now on.
    Label {
        /// The node.
        node: NodeId,
        /// Names with their values.
        set: BTreeMap<String, String>,
        /// Names of labels that were set before.
        unset: BTreeSet<String>,
    },
    /// Wants a node to vote before all that were not wanted, or were wanted earlier.
    PreferVoter {
        /// The node.
        node: NodeId,
    },
    /// A node's agent has started, or has come back after it was declared dead: its epoch goes up by one, its grant becomes zero
    /// until the leader sets one.
    RegisterNode {
        /// The node.
        node: NodeId,
        /// What it says about itself.
        spec: NodeSpec,
    },
    /// Sets what nodes may start by themselves, each by itself: one that is refused leaves the others as they are.
    ///
    /// Refused as a whole if all are, for the reason of the first.
    Grant {
        /// At most [`GRANT_MAX`] of them.
        grants: Vec<Grant>,
    },
    /// Places one instance on a node; the id comes back in the reply.
    Place(Place),
    /// Places many instances, each by itself: one that is refused leaves the others as they are, and the reply says which.
    PlaceMany {
        /// At most [`PLACE_MAX`] of them, applied in this order.
        places: Vec<Place>,
    },
    /// Ratifies instances that a node started inside its grant: they become placements, the grant shrinks by what they hold.
    Adopt {
        /// The node.
        node: NodeId,
        /// The epoch in which it speaks.
        epoch: Epoch,
        /// The instances and what they run.
        instances: Vec<(InstanceId, RevisionId)>,
    },
    /// Removes placements whose instances have ended.
    Release {
        /// The node.
        node: NodeId,
        /// The epoch in which it speaks.
        epoch: Epoch,
        /// The instances and how they ended.
        instances: Vec<(InstanceId, Ending)>,
    },
    /// Takes placements back: their nodes drain and stop the instances.
    Unplace {
        /// The instances; unknown ones are passed over.
        instances: Vec<InstanceId>,
    },
    /// Brings what a backup keeps into a cluster where nothing was ever deployed.
    Restore(Box<Definitions>),
}

/// What applying a command brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done, at this index.
    Done {
        /// The state's index after it.
        index: u64,
    },
    /// An app was deployed.
    Deployed {
        /// The app's index after it.
        index: u64,
        /// What became of each function, deleted ones included.
        functions: Vec<AppliedFunction>,
    },
    /// A machine was let in.
    Admitted {
        /// The node it is from here on.
        node: NodeId,
    },
    /// A node registered.
    Registered {
        /// The epoch in which it speaks from here on.
        epoch: Epoch,
    },
    /// An instance was placed.
    Placed {
        /// Its id.
        instance: InstanceId,
    },
    /// Instances were placed, or some of them.
    PlacedMany {
        /// For each, in the order of the command, its id or why it was not placed.
        placed: Vec<Result<InstanceId, Rejection>>,
    },
}

/// What a deployment did to one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedFunction {
    /// The function.
    pub name: FunctionName,
    /// Its newest revision; none once it is deleted.
    pub revision: Option<RevisionNumber>,
    /// What happened.
    pub change: Change,
}

/// What happened to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It did not exist before.
    Created,
    /// It has another revision.
    Revised,
    /// Only scaling or triggers changed.
    Adjusted,
    /// Nothing changed.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such function.
    #[error("there is no function {0}")]
    NoFunction(FunctionName),
    /// No such app.
    #[error("there is no app {0}")]
    NoApp(AppName),
    /// No such revision, or it was forgotten.
    #[error("there is no revision {0}")]
    NoRevision(RevisionId),
    /// No such node.
    #[error("there is no {0}")]
    NoNode(NodeId),
    /// The secret lets nobody in.
    #[error("the join token {0}")]
    NotInvited(NotInvited),
    /// The node has been taken out of the cluster.
    #[error("{0} was removed from the cluster")]
    NodeRemoved(NodeId),
    /// The node is the only one.
    #[error("{0} is the only node of the cluster")]
    LastNode(NodeId),
    /// The node is dead.
    #[error("{0} is dead")]
    NodeDead(NodeId),
    /// The node is on its way out.
    #[error("{0} is being emptied")]
    NodeDraining(NodeId),
    /// The cluster is too small for more than one voter.
    #[error("a cluster of {nodes} has one voter: of two, neither could decide without the other")]
    OneVoter {
        /// How many nodes it has.
        nodes: u32,
    },
    /// A label cannot be set.
    #[error("{0}")]
    BadLabel(String),
    /// A label is to be taken back that nobody has set.
    #[error("nobody has set label {key} on {node}")]
    LabelNotSet {
        /// The node.
        node: NodeId,
        /// The label's name.
        key: String,
    },
    /// The name is taken by another app.
    #[error("function {function} belongs to app {owner}")]
    ForeignFunction {
        /// The function.
        function: FunctionName,
        /// The app that owns it.
        owner: AppName,
    },
    /// Two functions of one deployment have the same name.
    #[error("function {0} is listed twice")]
    DuplicateFunction(FunctionName),
    /// Two functions claim the same requests.
    #[error("functions {first} and {second} both claim {claim}")]
    RouteTaken {
        /// The one that had it.
        first: FunctionName,
        /// The one that wants it.
        second: FunctionName,
        /// Host, path and method, as people write them.
        claim: String,
    },
    /// The app changed since the caller looked.
    #[error("the index of app {app} is {actual}, not {expected}")]
    IndexChanged {
        /// The app.
        app: AppName,
        /// What the caller expected.
        expected: u64,
        /// What it is.
        actual: u64,
    },
    /// The revision failed and cannot take traffic.
    #[error("revision {revision} failed: {reason}")]
    RevisionFailed {
        /// The revision.
        revision: RevisionId,
        /// Why it failed.
        reason: String,
    },
    /// The revision is no candidate and has never proved that it starts.
    #[error("revision {0} has not proved that it starts")]
    NotProved(RevisionId),
    /// The sender speaks in an epoch that has passed.
    #[error("{node} is in epoch {}, the command speaks in {}", actual.0, given.0)]
    StaleEpoch {
        /// The node.
        node: NodeId,
        /// Its epoch.
        actual: Epoch,
        /// The epoch of the command.
        given: Epoch,
    },
    /// The node has no room for it.
    #[error("{node} has {room} left, that needs {needed}")]
    NoRoom {
        /// The node.
        node: NodeId,
        /// What is needed.
        needed: Resources,
        /// What is there.
        room: Resources,
    },
    /// The node lacks a label that the revision requires.
    #[error("{node} has no label {key}={value}, which the revision requires")]
    NoLabel {
        /// The node.
        node: NodeId,
        /// The label's name.
        key: String,
        /// The value it must have.
        value: String,
    },
    /// The instance is already known, with other facts.
    #[error("{0} exists already")]
    InstanceExists(InstanceId),
    /// The instance has an id that the node did not make.
    #[error("{instance} was not started by {node} itself")]
    ForeignInstance {
        /// The node that speaks.
        node: NodeId,
        /// The instance.
        instance: InstanceId,
    },
    /// The node that proposes has registered anew since, or does not wait for this answer any more.
    #[error("proposal {number} of {node} came after its session: it may have been applied before")]
    NoSession {
        /// The node.
        node: NodeId,
        /// Which of its proposals.
        number: u64,
    },
    /// What is asked of a function's scaling contradicts itself, or what it is otherwise.
    #[error("scaling: {0}")]
    BadScaling(String),
    /// Something was deployed before: what is restored would mix with it.
    #[error("something was deployed here before")]
    NotFresh,
    /// What is to be restored contradicts itself.
    #[error("the definitions contradict themselves: {0}")]
    Unsound(String),
    /// Not every node could read the command: it must not be in the log.
    #[error("that needs feature level {needed}, the cluster has {cluster}{}", held_back(*.oldest, *.cluster))]
    TooNew {
        /// The level that it needs.
        needed: FeatureLevel,
        /// The cluster's level.
        cluster: FeatureLevel,
        /// A node that reads no more; none where no node has registered.
        oldest: Option<NodeId>,
    },
    /// The node cannot read what may be in the log.
    #[error("{node} reads feature level {level} of the log, the cluster has {cluster}")]
    NodeTooOld {
        /// The node.
        node: NodeId,
        /// What it reads.
        level: FeatureLevel,
        /// The cluster's level.
        cluster: FeatureLevel,
    },
    /// A limit of the state is reached.
    #[error("{what}: the most is {limit}")]
    Limit {
        /// What there is too much of.
        what: String,
        /// The most there may be.
        limit: usize,
    },
}

fn held_back(oldest: Option<NodeId>, cluster: FeatureLevel) -> String {
    oldest.map_or_else(String::new, |node| format!(": {node} reads no more than {cluster}"))
}

/// Why a secret lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotInvited {
    /// The cluster has given no such token, or has forgotten it since.
    #[error("is not known to the cluster")]
    Unknown,
    /// Its time is over.
    #[error("has expired")]
    Expired,
    /// It has admitted as many nodes as it may.
    #[error("has been used as often as it may be")]
    UsedUp,
}
