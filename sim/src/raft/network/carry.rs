//! What nodes tell each other beside Raft, over connections that send again what was lost.

use std::time::Duration;

use super::{Host, Network, Refusal, Wires};
use crate::raft::runtime;

/// How long the kernel waits before it sends again what was lost.
const AGAIN: Duration = Duration::from_millis(200);

/// How often it does so before the connection is over.
const TRIES_MAX: u32 = 50;

impl Network {
    /// Carries something to a node: it arrives once, unless the way stays cut or a machine goes.
    pub(crate) fn carry(&self, from: u64, to: u64, arrive: impl FnOnce() + 'static) {
        let delay = {
            let mut wires = self.wires();
            let lost = if wires.loses() { AGAIN } else { Duration::ZERO };
            wires.delay(from, to) + lost
        };
        self.carry_in(delay, from, to, TRIES_MAX, arrive);
    }

    fn carry_in(&self, delay: Duration, from: u64, to: u64, tries: u32, arrive: impl FnOnce() + 'static) {
        let network = self.clone();
        runtime::after(delay, move || {
            if !network.is_blocked(from, to) {
                runtime::note(from << 8 | to);
                arrive();
            } else if tries > 0 && !matches!(network.host(from), Host::Off) {
                network.carry_in(AGAIN, from, to, tries - 1, arrive);
            }
        });
    }

    /// Returns whether nothing at all comes through from one node to another.
    pub(crate) fn is_blocked(&self, from: u64, to: u64) -> bool {
        self.wires().is_blocked(from, to)
    }

    /// Returns how many of the other nodes a node does not reach, or is not reached by.
    pub(crate) fn out_of_reach(&self, node: u64) -> usize {
        let wires = self.wires();
        let is_blocked = |other: u64| wires.is_blocked(node, other) || wires.is_blocked(other, node);
        // Nothing is blocked by more than missing power, most of the time.
        let is_calm = wires.cuts.is_empty() && wires.refused.is_empty();
        let others = wires.hosts.iter().filter(|(other, _)| **other != node);
        let out = |(other, host): &(&u64, &Host)| matches!(host, Host::Off) || !is_calm && is_blocked(**other);
        others.filter(out).count()
    }
}

impl Wires {
    fn is_blocked(&self, from: u64, to: u64) -> bool {
        self.is_cut(from, to) || self.refused.get(&(from, to)) == Some(&Refusal::All)
    }
}
