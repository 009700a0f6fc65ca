//! Hands out the tickets of one process's proposals.

use std::collections::BTreeSet;

use super::Ticket;
use crate::model::{Epoch, NodeId};

/// The proposals of one process that wait for their answers; numbered from its registration on.
#[derive(Clone, Debug, Default)]
pub struct Tickets {
    /// Who this node is, and the epoch that its registration gave it; none before.
    of: Option<(NodeId, Epoch)>,
    next: u64,
    waiting: BTreeSet<u64>,
}

impl Tickets {
    /// Begins to number anew, if the epoch is a newer one: the state takes proposals of the last registration only.
    pub fn begin(&mut self, node: NodeId, epoch: Epoch) {
        if self.of.is_none_or(|(_, before)| before < epoch) {
            *self = Self { of: Some((node, epoch)), ..Self::default() };
        }
    }

    /// Returns a ticket for one more proposal, which waits until it is [over](Self::over); none before the registration.
    pub fn issue(&mut self) -> Option<Ticket> {
        let (node, epoch) = self.of?;
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number);
        Some(self.again(Ticket { node, epoch, number, oldest: number }))
    }

    /// Returns what a proposal carries when it is sent at this moment.
    pub fn again(&self, ticket: Ticket) -> Ticket {
        let oldest = self.waiting.first().copied().unwrap_or(ticket.number);
        Ticket { oldest: oldest.min(ticket.number), ..ticket }
    }

    /// A proposal waits for its answer no more.
    pub fn over(&mut self, ticket: Ticket) {
        if self.of == Some((ticket.node, ticket.epoch)) {
            self.waiting.remove(&ticket.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_waits_is_told_with_each() {
        let mut tickets = Tickets::default();
        assert_eq!(tickets.issue(), None, "nobody would know whose it is");
        tickets.begin(NodeId(3), Epoch(2));
        let ticket = |number, oldest| Ticket { node: NodeId(3), epoch: Epoch(2), number, oldest };
        let (first, second) = (ticket(0, 0), ticket(1, 0));
        assert_eq!((tickets.issue(), tickets.issue()), (Some(first), Some(second)));
        tickets.over(first);
        assert_eq!(tickets.again(second), ticket(1, 1));

        // One that was numbered before a registration leaves the numbers after it alone.
        tickets.begin(NodeId(3), Epoch(5));
        tickets.begin(NodeId(3), Epoch(4));
        let third = Ticket { epoch: Epoch(5), ..ticket(0, 0) };
        assert_eq!(tickets.issue(), Some(third));
        tickets.over(second);
        assert_eq!(tickets.again(third), third);
    }
}
