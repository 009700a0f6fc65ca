//! Keeps every node able to start instances without asking.

use std::time::Duration;

use super::{Controller, Effect};
use crate::model::{Bytes, FeatureLevel, MilliCpu, Resources, Timestamp};
use crate::planted::planted;
use crate::state::{Command, GRANT_MAX, Grant, State};

/// How long a grant may stay below what it could be: releases of that time share one entry of the log.
const TOP_UP_WITHIN: Duration = Duration::from_millis(250);

impl Controller {
    /// Grants each node what its placements leave free, and a draining one nothing: at once when less than half of that is granted, else before long.
    pub(super) fn top_up_grants(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        if self.under_way.has_grants(now) {
            return;
        }
        let mut grants = Vec::new();
        for (id, node) in &state.nodes {
            let is_eligible = node.is_eligible();
            let held = if planted!(GrantOverCapacity) { Resources::default() } else { state.placements.held(*id) };
            let target = if is_eligible { node.spec.capacity.minus(&held) } else { Resources::default() };
            if node.grant == target {
                self.top_up_at.remove(id);
                continue;
            }
            let due = *self.top_up_at.entry(*id).or_insert(now + TOP_UP_WITHIN);
            if due <= now || !is_eligible || !half(&target).fits(&node.grant) {
                grants.push(Grant { node: *id, epoch: node.epoch, resources: target });
            }
        }
        // Whoever was granted something last comes last: what does not fit into one entry comes with the answer to it.
        grants.sort_by_key(|grant| self.top_up_at.get(&grant.node).copied());
        // Nodes of older versions read one in an entry.
        grants.truncate(if state.features < FeatureLevel::GRANT_MANY { 1 } else { GRANT_MAX });
        for grant in &grants {
            self.top_up_at.insert(grant.node, now + TOP_UP_WITHIN);
        }
        if !grants.is_empty() {
            self.propose(now, Command::Grant { grants }, effects);
        }
    }
}

fn half(resources: &Resources) -> Resources {
    Resources {
        cpu: MilliCpu(resources.cpu.0 / 2),
        memory: Bytes(resources.memory.0 / 2),
        disk: Bytes(resources.disk.0 / 2),
        pids: resources.pids / 2,
    }
}
