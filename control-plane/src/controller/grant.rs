//! Keeps every node able to start instances without asking.

use std::time::Duration;

use super::{Controller, Effect};
use crate::model::{Bytes, Epoch, MilliCpu, NodeId, Resources, Timestamp};
use crate::planted::planted;
use crate::state::{Command, State};

/// How long a grant may stay below what it could be: releases of that time share one entry of the log.
const TOP_UP_WITHIN: Duration = Duration::from_millis(250);

impl Controller {
    /// Grants each node what its placements leave free, and a draining one nothing: at once when less than half of that is granted, else before long.
    pub(super) fn top_up_grants(&mut self, now: Timestamp, state: &State, effects: &mut Vec<Effect>) {
        let held = state.held_each();
        for (id, node) in &state.nodes {
            let is_eligible = node.is_eligible();
            let held = if planted!(GrantOverCapacity) { None } else { held.get(id).copied() }.unwrap_or_default();
            let target = if is_eligible { node.spec.capacity.minus(&held) } else { Resources::default() };
            if node.grant == target {
                self.top_up_at.remove(id);
                continue;
            }
            let due = *self.top_up_at.entry(*id).or_insert(now + TOP_UP_WITHIN);
            if due <= now || !is_eligible || !half(&target).fits(&node.grant) {
                self.top_up(now, *id, node.epoch, target, effects);
            }
        }
    }

    fn top_up(&mut self, now: Timestamp, node: NodeId, epoch: Epoch, resources: Resources, effects: &mut Vec<Effect>) {
        self.propose(now, Command::Grant { node, epoch, resources }, effects);
        self.top_up_at.insert(node, now + TOP_UP_WITHIN);
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
