//! Where instances go: one planner for a whole batch, over everything the cluster has.
//!
//! ```text
//!   State ──▶ Planner::of ──▶ plan(asks) ──▶ a node or a NoFit for each ──▶ Command::PlaceMany ──▶ State::apply
//! ```
//!
//! *Filter*: the node has the required labels, the instance fits in every dimension, and where a minimum of two or more is
//! spread over zones, its zone has no more of it than any other. *Score*: see [`score`], an ordered struct whose field order
//! is the policy. *Batch*: asks that want the largest share of the scarce dimension come first, since small ones fit into
//! what large ones leave. All of it is integers, so that the simulator and every node come to the same.
//!
//! The scan is exact: no node is passed over that could be the best. What nodes have left is held as a structure of arrays
//! ([`machines`]) in blocks; a block is read where it may have the best, further asks of the same kind read one ([`scan`]).
//!
//! A plan is a proposal: the state checks room and labels again as it applies it, with the very functions used here,
//! [`Resources::fits`] and [`Constraints::missing`]. The spread it takes as planned.
//!
//! Grants do not count as taken: placing shrinks a node's grant by what it needs of it.

mod machines;
mod reason;
mod scan;
mod score;

use std::collections::BTreeMap;

pub use self::reason::{Class, NoFit, Obstacle, Short};

use self::machines::Machines;
use self::scan::{Scan, Wanted};
use self::score::amounts;
use crate::model::{Constraints, NodeId, Purpose, Resources, RevisionId, Spread};
use crate::state::State;

/// One instance that needs a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// What it runs.
    pub revision: RevisionId,
    /// Why.
    pub purpose: Purpose,
}

/// Asks for instances of one revision for the same purpose; they are alike for the planner.
#[derive(Debug)]
struct Kind<'a, 'k> {
    revision: &'k RevisionId,
    purpose: Purpose,
    resources: Resources,
    constraints: &'a Constraints,
    /// Whether zones must stay even.
    is_even: bool,
    /// Which of the asks they are.
    asks: Vec<usize>,
}

/// Decides where instances go, as if what it decided had happened at once.
#[derive(Clone, Debug)]
pub struct Planner<'a> {
    state: &'a State,
    machines: Machines<'a>,
    scan: Scan,
    /// Which places have all of some labels, a bit for each place.
    compiled: BTreeMap<&'a BTreeMap<String, String>, Vec<u64>>,
    /// What was placed of spread revisions since the state was read.
    planned: BTreeMap<(RevisionId, Purpose), BTreeMap<usize, u32>>,
}

impl<'a> Planner<'a> {
    /// Reads what every node has left off a state.
    pub fn of(state: &'a State) -> Self {
        let (compiled, planned) = (BTreeMap::new(), BTreeMap::new());
        Self { state, machines: Machines::of(state), scan: Scan::default(), compiled, planned }
    }

    /// Plans a batch: a node for each ask, in the order of the asks, or why there is none.
    ///
    /// What was planned before counts as placed. An ask for a revision that the state does not know fits nowhere.
    pub fn plan(&mut self, asks: &[Ask]) -> Vec<Result<NodeId, NoFit>> {
        let unknown = || NoFit { needed: Resources::default(), classes: BTreeMap::new(), left_out: 0 };
        let mut answers: Vec<Result<NodeId, NoFit>> = Vec::new();
        answers.resize_with(asks.len(), || Err(unknown()));
        let mut kinds = self.kinds(asks);
        let mut asked = [0; score::DIMENSIONS];
        for kind in &kinds {
            for (sum, amount) in asked.iter_mut().zip(amounts(&kind.resources)) {
                *sum += u128::from(amount) * kind.asks.len() as u128;
            }
        }
        let sizes = kinds.iter().map(|kind| kind.resources);
        let smallest = sizes.reduce(|least, size| least.smaller(&size)).unwrap_or_default();
        let weights = self.machines.weigh(asked, smallest);
        kinds.sort_by_key(|kind| {
            let amounts = amounts(&kind.resources);
            // Those of one size come one after the other.
            std::cmp::Reverse((amounts[weights.scarcest], amounts))
        });
        let loads = self.loads(&kinds);
        let mut scan = std::mem::take(&mut self.scan);
        scan.forget();
        for (kind, loads) in kinds.iter().zip(loads) {
            self.compile(kind.constraints);
            let wanted = Wanted {
                resources: kind.resources,
                allowed: self.compiled.get(kind.constraints.require()).map(Vec::as_slice),
                is_spread: kind.constraints.spread() == Spread::Zone,
                is_even: kind.is_even,
            };
            scan.begin(&self.machines, &wanted, loads.into_iter());
            let mut no_fit = None;
            for ask in &kind.asks {
                // Once nothing fits, nothing does: all that could change it is an instance of this very kind.
                let best = if no_fit.is_none() { scan.best(&self.machines, &wanted) } else { None };
                let Some((place, zone)) = best else {
                    let explain = || NoFit::explain(&self.machines, &wanted, kind.constraints, &scan);
                    answers[*ask] = Err(no_fit.get_or_insert_with(explain).clone());
                    continue;
                };
                self.machines.take(place, self.machines.block_of(zone, place), &kind.resources);
                scan.placed(&self.machines, &wanted, place, zone);
                if wanted.is_spread {
                    let planned = self.planned.entry((kind.revision.clone(), kind.purpose)).or_default();
                    *planned.entry(place).or_default() += 1;
                }
                answers[*ask] = Ok(self.machines.ids[place]);
            }
        }
        self.scan = scan;
        answers
    }

    /// Counts the nodes that have room for an instance of this size: what a look at every node has to do at least.
    pub fn count_fitting(&self, needed: &Resources) -> usize {
        self.machines.count_fitting(*needed)
    }

    /// Puts alike asks together, in the order of revisions; unknown revisions are left out.
    fn kinds<'k>(&self, asks: &'k [Ask]) -> Vec<Kind<'a, 'k>> {
        let state = self.state;
        let mut kinds: BTreeMap<(&RevisionId, Purpose), Vec<usize>> = BTreeMap::new();
        for (ask, Ask { revision, purpose }) in asks.iter().enumerate() {
            kinds.entry((revision, *purpose)).or_default().push(ask);
        }
        let known = kinds.into_iter().filter_map(|((revision, purpose), asks)| {
            let function = state.functions.get(&revision.function)?;
            let spec = &function.revisions.get(&revision.number)?.spec;
            let is_minimum = purpose == Purpose::Minimum && function.scaling.min() >= 2;
            let is_even = spec.placement.spread() == Spread::Zone && is_minimum;
            let (resources, constraints) = (spec.resources, &spec.placement);
            Some(Kind { revision, purpose, resources, constraints, is_even, asks })
        });
        known.collect()
    }

    /// Counts, for each kind that is spread, what each place has of it.
    fn loads(&self, kinds: &[Kind<'_, '_>]) -> Vec<BTreeMap<usize, u32>> {
        let mut loads = vec![BTreeMap::new(); kinds.len()];
        let is_spread = |kind: &Kind<'_, '_>| kind.constraints.spread() == Spread::Zone;
        let spread: BTreeMap<(&RevisionId, Purpose), usize> = kinds
            .iter()
            .enumerate()
            .filter(|(_, kind)| is_spread(kind))
            .map(|(index, kind)| ((kind.revision, kind.purpose), index))
            .collect();
        if spread.is_empty() {
            return loads;
        }
        for ((revision, purpose), index) in &spread {
            for (_, node) in self.state.placements.of_purpose(revision, *purpose) {
                if let Some(place) = self.machines.place_of(node) {
                    *loads[*index].entry(place).or_default() += 1;
                }
            }
        }
        for ((revision, purpose), planned) in &self.planned {
            let Some(index) = spread.get(&(revision, *purpose)) else { continue };
            for (place, count) in planned {
                *loads[*index].entry(*place).or_default() += count;
            }
        }
        loads
    }

    /// Finds the places that have all of these labels, once.
    fn compile(&mut self, constraints: &'a Constraints) {
        let require = constraints.require();
        if require.is_empty() || self.compiled.contains_key(require) {
            return;
        }
        let mut bits = vec![0_u64; self.machines.ids.len().div_ceil(64)];
        for (place, labels) in self.machines.labels.iter().enumerate() {
            bits[place / 64] |= u64::from(constraints.missing(labels).is_none()) << (place % 64);
        }
        self.compiled.insert(require, bits);
    }
}

#[cfg(test)]
mod tests;
