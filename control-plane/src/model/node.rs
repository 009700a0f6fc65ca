//! The machines of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::{Epoch, FeatureLevel, LABEL_LENGTH_MAX, Resources};

/// The most labels that operators may set on one node.
pub const LABELS_SET_MAX: usize = 64;

/// The label that says what programs a node runs; only its agent knows.
pub const ARCH_LABEL: &str = "arch";

/// What a node's agent says about its machine when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// The name people call it by; the host name unless configured.
    pub name: String,
    /// What instances may hold of it in all.
    pub capacity: Resources,
    /// Facts that placement may require: `arch`, `zone` and what the node's configuration says.
    pub labels: BTreeMap<String, String>,
    /// What it can read from the log.
    pub features: FeatureLevel,
}

/// A node as the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What its agent said when it last started.
    pub spec: NodeSpec,
    /// Counts the starts of its agent; fences off what an older one says.
    pub epoch: Epoch,
    /// What it may start by itself without asking.
    ///
    /// Invariant: grant plus what its placements hold never exceeds the capacity.
    pub grant: Resources,
    /// Whether an operator wants nothing to run on it: it gets no grant and no placements, and loses those it has.
    pub is_draining: bool,
    /// Whether it was declared dead and has not registered since.
    ///
    /// Invariant: then it holds no placements and no grant.
    pub is_dead: bool,
    /// The index of the state at which an operator wanted it to vote; whoever was wanted last comes first.
    pub promoted_at: Option<u64>,
    labels_set: BTreeMap<String, String>,
    /// Invariant: what the agent says, and above it what is set.
    labels: BTreeMap<String, String>,
}

/// Why a label cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// It has no name.
    #[error("a label needs a name")]
    NoKey,
    /// A name or a value is longer than [`LABEL_LENGTH_MAX`].
    #[error("{text:?} has {} characters, a label's name and its value have {LABEL_LENGTH_MAX} at most", text.len())]
    TooLong {
        /// The name or the value.
        text: String,
    },
    /// It has characters that nobody could write.
    #[error("{text:?} has characters that no label has: control characters, or an equals sign in its name")]
    Characters {
        /// The name or the value.
        text: String,
    },
    /// Only the node itself knows it.
    #[error("label {ARCH_LABEL} is what the machine is: nobody sets it")]
    Reserved,
    /// There would be more than [`LABELS_SET_MAX`].
    #[error("{count} labels would be set, the most is {LABELS_SET_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
}

impl Node {
    /// Makes a node whose agent has just said this; it takes work, and has no grant yet.
    pub fn new(spec: NodeSpec, epoch: Epoch) -> Self {
        Self {
            labels: spec.labels.clone(),
            spec,
            epoch,
            grant: Resources::default(),
            is_draining: false,
            is_dead: false,
            promoted_at: None,
            labels_set: BTreeMap::new(),
        }
    }

    /// Returns whether instances may be placed on it.
    pub fn is_eligible(&self) -> bool {
        !self.is_draining && !self.is_dead
    }

    /// Returns the facts that placement may require: what an operator has set stands above what the agent says.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Returns what operators have set.
    pub fn labels_set(&self) -> &BTreeMap<String, String> {
        &self.labels_set
    }

    /// Lets exactly these labels be set.
    #[must_use]
    pub fn with_labels_set(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = self.spec.labels.clone();
        self.labels.extend(labels.clone());
        self.labels_set = labels;
        self
    }
}

/// Refuses labels that cannot be set on a node.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), LabelError> {
    if labels.len() > LABELS_SET_MAX {
        return Err(LabelError::TooMany { count: labels.len() });
    }
    for (key, value) in labels {
        if key.is_empty() {
            return Err(LabelError::NoKey);
        }
        if key == ARCH_LABEL {
            return Err(LabelError::Reserved);
        }
        for text in [key, value] {
            if text.len() > LABEL_LENGTH_MAX {
                return Err(LabelError::TooLong { text: text.clone() });
            }
            if text.chars().any(char::is_control) {
                return Err(LabelError::Characters { text: text.clone() });
            }
        }
        if key.contains('=') {
            return Err(LabelError::Characters { text: key.clone() });
        }
    }
    Ok(())
}

/// Returns what is set after a change, or the first name that is to be taken back and is not set.
pub fn relabelled(
    before: &BTreeMap<String, String>,
    set: BTreeMap<String, String>,
    unset: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, String> {
    let mut after = before.clone();
    for key in unset {
        if after.remove(key).is_none() {
            return Err(key.clone());
        }
    }
    after.extend(set);
    Ok(after)
}
