//! Why a daemon that runs cannot go on, and what to do about it.

use control_plane::state::Rejection;

use crate::cluster::Refused;

/// Why a daemon that runs cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The consensus has stopped: the disk has failed, or what is on it.
    #[error("the node cannot go on: {0}")]
    Consensus(String),
    /// The cluster does not take the node, and never will as it is.
    #[error("the cluster does not take this node: {0}")]
    Refused(Refused),
}

impl Failed {
    /// Returns what to do about it.
    pub fn hint(&self) -> String {
        let again = || "its log tells more; nothing acknowledged is lost: start it again".to_owned();
        match self {
            Self::Refused(Refused::Registration(Rejection::NodeTooOld { node, cluster, .. })) => format!(
                "start a version that reads feature level {cluster}, without a --feature-level below it, or take the node out: \
                 `hearth cluster remove {node}`"
            ),
            Self::Refused(Refused::Certificate(error)) => error.hint().unwrap_or_else(again),
            Self::Consensus(_) | Self::Refused(Refused::Registration(_)) => again(),
        }
    }
}
