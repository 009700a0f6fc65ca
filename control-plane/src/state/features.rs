//! Which commands may be in the log: those that every registered node can read.
//!
//! An entry that a node cannot read stops it: it must apply what all others apply. So each node says its level when it registers,
//! the cluster's level is the least of them, and whoever leads refuses what needs more *before* it is in the log. The level never
//! falls, because the log holds what was proposed at it: whoever reads less than that is not registered again.

use super::{Command, Rejection, State};
use crate::model::{FeatureLevel, FunctionName, ScalingChange};
use crate::planted::planted;

impl Command {
    /// Returns the least level at which a build can read it, as it is written.
    pub fn needs(&self) -> FeatureLevel {
        match self {
            // One alone is written as it was before there could be several.
            Self::Grant { grants } if grants.len() != 1 => FeatureLevel::GRANT_MANY,
            // A change of everything is written as it was before there could be others.
            Self::Scale { change, .. } if change.whole().is_none() => FeatureLevel::SCALE_SOME,
            Self::Restore(_) => FeatureLevel::RESTORE,
            Self::Label { .. } => FeatureLevel::LABEL,
            Self::PreferVoter { .. } => FeatureLevel::PREFER_VOTER,
            Self::DeployApp { .. }
            | Self::DeleteApp { .. }
            | Self::DeleteFunction { .. }
            | Self::Promote { .. }
            | Self::FailRevision { .. }
            | Self::Scale { .. }
            | Self::Invite { .. }
            | Self::Admit { .. }
            | Self::RemoveNode { .. }
            | Self::DeclareDead { .. }
            | Self::Drain { .. }
            | Self::RegisterNode { .. }
            | Self::Grant { .. }
            | Self::Place(_)
            | Self::PlaceMany { .. }
            | Self::Adopt { .. }
            | Self::Release { .. }
            | Self::Unplace { .. } => FeatureLevel(0),
        }
    }
}

impl State {
    /// Refuses a command that some registered node cannot read.
    ///
    /// Whoever leads asks before it puts the command into the log. What is refused may be allowed by entries that are not applied
    /// yet; what is allowed stays so.
    pub fn check_readable(&self, command: &Command) -> Result<(), Rejection> {
        let needed = command.needs();
        if needed <= self.features || planted!(ProposedTooNew) {
            return Ok(());
        }
        let oldest = self.nodes.iter().min_by_key(|(_, node)| node.spec.features).map(|(id, _)| *id);
        Err(Rejection::TooNew { needed, cluster: self.features, oldest })
    }

    /// Returns a change of how a function scales that names everything, as nodes of every level read it.
    ///
    /// Refused as the change itself would be.
    pub fn spell_out(&self, function: &FunctionName, change: ScalingChange) -> Result<ScalingChange, Rejection> {
        let known = self.functions.get(function).ok_or_else(|| Rejection::NoFunction(function.clone()))?;
        let after = change.of(&known.scaling).map_err(|error| Rejection::BadScaling(error.to_string()))?;
        Ok(after.into())
    }

    /// Returns whether a build of this level can read what may be in the log.
    pub fn is_read_by(&self, level: FeatureLevel) -> bool {
        level >= self.features
    }

    /// Raises the level to what every registered node reads, whether it lives or not: a dead one comes back to this log.
    pub(super) fn raise_features(&mut self) {
        let least = self.nodes.values().map(|node| node.spec.features).min();
        self.features = self.features.max(least.unwrap_or_default());
    }
}
