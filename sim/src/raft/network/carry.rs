//! What nodes tell each other beside Raft, over connections that send again what was lost.

use std::time::Duration;

use super::{Host, Network, Refusal};
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
        self.is_cut(from, to) || self.refusal(from, to) == Some(Refusal::All)
    }
}
