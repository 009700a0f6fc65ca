//! How good a node is for an instance, in integers: every replica and the simulator come to the same.

use crate::model::{NodeId, Resources};

/// How many dimensions [`Resources`] has.
pub(super) const DIMENSIONS: usize = 4;

/// A whole weight: weights are fractions with 16 bits.
const WEIGHT_ONE: u64 = 1 << 16;

/// How steeply a dimension that is used less than the scarcest one loses its say.
///
/// Measured on traces: with six, the scarcest dimension decides and the others break near-ties.
const STEEPNESS: u32 = 6;

/// Capacities are reduced to this many bits before they are divided by.
const CAPACITY_BITS: u32 = 24;

/// Reciprocals are fractions with this many bits.
const RECIPROCAL_BITS: u32 = 40;

/// A whole free dimension: costs are fractions with this many bits.
const COST_BITS: u32 = 28;

/// What is taken off a sum of shares to make it a cost.
const SUM_SHIFT: u32 = RECIPROCAL_BITS + WEIGHT_ONE.trailing_zeros() - COST_BITS;

/// What the last node pays for being last, as a part of a whole free dimension.
const RANK_PART: u64 = 10;

/// How good a node is; less is better, earlier fields count first, the id last so that there are no ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// What its zone has of the same kind; zero unless the function is spread.
    pub(super) zone_load: u32,
    /// What the node has of the same kind; zero unless the function is spread.
    pub(super) node_load: u32,
    /// What would stay free, scarce dimensions counting most, and a little for the place in the order of nodes:
    /// tight packing keeps whole nodes empty.
    pub(super) cost: u32,
    pub(super) node: NodeId,
}

impl Score {
    /// Makes a score out of a key.
    pub(super) fn new(zone_load: u32, key: u64, node: NodeId) -> Self {
        let half = |key: u64| u32::try_from(key & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { zone_load, node_load: half(key >> 32), cost: half(key), node }
    }
}

/// Amounts in the order of [`Resources`]' fields.
pub(super) fn amounts(resources: &Resources) -> [u64; DIMENSIONS] {
    [resources.cpu.0.into(), resources.memory.0, resources.disk.0, resources.pids.into()]
}

/// By how many bits each dimension is reduced, so that all capacities of the cluster are divided by alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grain([u32; DIMENSIONS]);

/// One over a node's capacity in each dimension; zero where it has none.
pub(super) type Reciprocals = [u64; DIMENSIONS];

impl Grain {
    /// Returns the grain for capacities of which these are the largest.
    pub(super) fn for_largest(largest: [u64; DIMENSIONS]) -> Self {
        Self(largest.map(|amount| (u64::BITS - amount.leading_zeros()).saturating_sub(CAPACITY_BITS)))
    }

    /// Returns one over each capacity.
    pub(super) fn reciprocals(self, capacity: &Resources) -> Reciprocals {
        let mut reciprocals = amounts(capacity);
        for (amount, shift) in reciprocals.iter_mut().zip(self.0) {
            *amount = (1_u64 << RECIPROCAL_BITS).checked_div(*amount >> shift).unwrap_or(0);
        }
        reciprocals
    }

    /// Returns what this much of a node's capacity costs, as a part of a whole dimension with 28 bits.
    ///
    /// What fits costs no more than what it fits into, so that one may be taken off the other.
    pub(super) fn cost(self, amount: &Resources, weighted: &Reciprocals) -> u32 {
        let amounts = amounts(amount);
        let share = |dimension: usize| (amounts[dimension] >> self.0[dimension]).saturating_mul(weighted[dimension]);
        let sum = (0..DIMENSIONS).fold(0_u64, |sum, dimension| sum.saturating_add(share(dimension)));
        u32::try_from(sum >> SUM_SHIFT).unwrap_or(u32::MAX)
    }
}

/// How much each dimension counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weights {
    weights: [u64; DIMENSIONS],
    /// The dimension of which most is used.
    pub(super) scarcest: usize,
}

impl Weights {
    /// Weighs dimensions by how much of the cluster's capacity is used: `(use / use of the scarcest)^6`.
    pub(super) fn of(used: [u128; DIMENSIONS], capacity: [u128; DIMENSIONS]) -> Self {
        let part = |dimension: usize| {
            let part = used[dimension].saturating_mul(1 << 32).checked_div(capacity[dimension]).unwrap_or(0);
            u64::try_from(part).unwrap_or(u64::MAX).min(1 << 32)
        };
        let parts: [u64; DIMENSIONS] = std::array::from_fn(part);
        // The first of equals: `max_by_key` would take the last.
        let scarcest = (0..DIMENSIONS).rev().max_by_key(|dimension| parts[*dimension]).unwrap_or(0);
        let weigh = |part: u64| {
            let ratio = (part * WEIGHT_ONE).checked_div(parts[scarcest]).unwrap_or(WEIGHT_ONE);
            (1..STEEPNESS).fold(ratio, |power, _| power * ratio / WEIGHT_ONE)
        };
        Self { weights: parts.map(weigh), scarcest }
    }

    /// Returns reciprocals that count by these weights.
    pub(super) fn weigh(&self, reciprocals: &Reciprocals) -> Reciprocals {
        std::array::from_fn(|dimension| reciprocals[dimension] * self.weights[dimension])
    }
}

/// Returns what the node at this place in the order of all nodes pays for its place.
pub(super) fn rank_cost(rank: usize, nodes: usize) -> u32 {
    let cost = (rank as u64) * ((1 << COST_BITS) / RANK_PART) / (nodes as u64).max(1);
    u32::try_from(cost).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Bytes, MilliCpu};

    #[test]
    fn the_scarcest_dimension_counts_whole_and_others_fall_off_steeply() {
        let weights = Weights::of([50, 100, 25, 0], [100; DIMENSIONS]);
        assert_eq!((weights.scarcest, weights.weights), (1, [1024, 65_536, 16, 0]));
        let none = Weights::of([0; DIMENSIONS], [0; DIMENSIONS]);
        assert_eq!((none.scarcest, none.weights), (0, [WEIGHT_ONE; DIMENSIONS]));
    }

    #[test]
    fn the_largest_and_the_least_amounts_cost_what_they_are() {
        for amount in [1, 1000, u32::MAX] {
            let free =
                Resources { cpu: MilliCpu(amount), memory: Bytes(u64::MAX), disk: Bytes(u64::from(amount)), pids: 0 };
            let grain = Grain::for_largest(amounts(&free));
            let weighted = Weights::of([1; DIMENSIONS], [1; DIMENSIONS]).weigh(&grain.reciprocals(&free));
            let cost = grain.cost(&free, &weighted);
            // Three whole free dimensions; the fourth has no capacity.
            let whole = 3_u32 << COST_BITS;
            assert!(cost <= whole && whole - cost < 1 << 8, "{amount}: {cost} is not near {whole}");
        }
    }
}
