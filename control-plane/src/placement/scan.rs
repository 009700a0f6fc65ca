//! Finds the best node for one kind of instance after another: an exact scan over all nodes, of which the bests of blocks and
//! zones are remembered, because placing an instance changes one node.

use super::machines::Machines;
use super::score::Score;
use crate::model::Resources;

/// The key of a place where the instance cannot go.
const NOWHERE: u64 = u64::MAX;

/// What a scan looks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'b> {
    /// What an instance holds of its node.
    pub(super) resources: Resources,
    /// Which places have the required labels, a bit for each; none means that all do.
    pub(super) allowed: Option<&'b [u64]>,
    /// Whether loads count at all.
    pub(super) is_spread: bool,
    /// Whether no zone may have more than one above the least.
    pub(super) is_even: bool,
}

/// The scan for one kind of instance; its buffers serve for the next one too.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    /// What an instance takes off the cost of a node, by the node's shape.
    reliefs: Vec<u32>,
    /// What each node has of this kind; zeros unless loads count.
    node_loads: Vec<u32>,
    /// Which places have any of it.
    loaded: Vec<usize>,
    /// Which blocks have such a place.
    has_load: Vec<bool>,
    /// What each zone has of this kind.
    pub(super) zone_loads: Vec<u32>,
    /// The least key of each block: the middle fields of a [`Score`] in one integer, the node's load, then its cost.
    block_bests: Vec<u64>,
    /// The least key of each zone.
    zone_bests: Vec<u64>,
    /// Whether a node of the zone has the required labels.
    pub(super) zone_allowed: Vec<bool>,
}

/// Returns whether the bit of a place is set.
pub(super) fn is_set(bits: &[u64], place: usize) -> bool {
    bits[place / 64] >> (place % 64) & 1 == 1
}

impl Scan {
    /// Looks at every node, of which `loads` have instances of this kind already.
    pub(super) fn begin(
        &mut self,
        machines: &Machines<'_>,
        wanted: &Wanted<'_>,
        loads: impl Iterator<Item = (usize, u32)>,
    ) {
        self.zone_loads.clear();
        self.zone_loads.resize(machines.zones.len(), 0);
        for place in self.loaded.drain(..) {
            self.node_loads[place] = 0;
        }
        self.node_loads.resize(machines.ids.len(), 0);
        self.has_load.clear();
        self.has_load.resize(machines.blocks.len(), false);
        if wanted.is_spread {
            for (place, count) in loads {
                self.load(machines, place, machines.zone_of(place), count);
            }
        }
        self.zone_allowed.clear();
        self.zone_allowed.extend(
            machines.zones.iter().map(|zone| {
                wanted.allowed.is_none_or(|allowed| zone.places.clone().any(|place| is_set(allowed, place)))
            }),
        );
        machines.reliefs(&wanted.resources, &mut self.reliefs);
        self.block_bests.clear();
        for block in 0..machines.blocks.len() {
            let best = self.least_key(machines, wanted, block);
            self.block_bests.push(best);
        }
        self.zone_bests.clear();
        self.zone_bests.extend(machines.zones.iter().map(|zone| least(&self.block_bests[zone.blocks.clone()])));
    }

    /// Notes that a place has so many more of this kind.
    fn load(&mut self, machines: &Machines<'_>, place: usize, zone: usize, count: u32) {
        if self.node_loads[place] == 0 {
            self.loaded.push(place);
        }
        self.node_loads[place] += count;
        self.zone_loads[zone] += count;
        self.has_load[machines.block_of(zone, place)] = true;
    }

    /// Returns the least key of a block.
    ///
    /// The same as the least of [`Self::keys`], without asking at every node what is the same for all: most of a plan's
    /// time is spent here.
    fn least_key(&self, machines: &Machines<'_>, wanted: &Wanted<'_>, block: usize) -> u64 {
        if wanted.allowed.is_some() {
            return self.keys(machines, wanted, block).min().unwrap_or(NOWHERE);
        }
        let places = machines.blocks[block].clone();
        let costs = machines.costs_with(places.clone(), &wanted.resources, &self.reliefs);
        if self.has_load[block] {
            let loads = &self.node_loads[places];
            let keys = costs.zip(loads).map(|(cost, load)| {
                let key = u64::from(*load) << 32 | u64::from(cost.unwrap_or(u32::MAX));
                if cost.is_some() { key } else { NOWHERE }
            });
            return keys.fold(NOWHERE, u64::min);
        }
        // No cost comes near the greatest integer: a whole node costs a quarter of it.
        let least = costs.fold(u32::MAX, |least, cost| least.min(cost.unwrap_or(u32::MAX)));
        if least == u32::MAX { NOWHERE } else { least.into() }
    }

    /// Returns the key of every place of a block.
    #[inline]
    fn keys<'s>(
        &'s self,
        machines: &'s Machines<'_>,
        wanted: &'s Wanted<'_>,
        block: usize,
    ) -> impl Iterator<Item = u64> + 's {
        let places = machines.blocks[block].clone();
        let costs = machines.costs_with(places.clone(), &wanted.resources, &self.reliefs);
        costs.zip(places).map(move |(cost, place)| {
            let load = self.node_loads[place];
            match cost.filter(|_| wanted.allowed.is_none_or(|allowed| is_set(allowed, place))) {
                Some(cost) => u64::from(load) << 32 | u64::from(cost),
                None => NOWHERE,
            }
        })
    }

    /// Returns the best place and its zone; none means that the instance can go nowhere.
    pub(super) fn best(&self, machines: &Machines<'_>, wanted: &Wanted<'_>) -> Option<(usize, usize)> {
        let zone_max = if wanted.is_even { self.least_load() } else { u32::MAX };
        let mut best: Option<(Score, usize, usize)> = None;
        for (zone, (key, load)) in self.zone_bests.iter().zip(&self.zone_loads).enumerate() {
            let is_worse = best.is_some_and(|(score, ..)| (score.zone_load, score.key()) < (*load, *key));
            if *key == NOWHERE || *load > zone_max || is_worse {
                continue;
            }
            let Some(place) = self.find(machines, wanted, zone, *key) else { continue };
            let score = Score::new(*load, *key, machines.ids[place]);
            if best.is_none_or(|(other, ..)| score < other) {
                best = Some((score, place, zone));
            }
        }
        best.map(|(_, place, zone)| (place, zone))
    }

    /// Returns the first place of a zone that has this key: of equals, the one whose id is the least.
    fn find(&self, machines: &Machines<'_>, wanted: &Wanted<'_>, zone: usize, key: u64) -> Option<usize> {
        let block = machines.zones[zone].blocks.clone().find(|block| self.block_bests[*block] == key)?;
        let within = self.keys(machines, wanted, block).position(|other| other == key)?;
        Some(machines.blocks[block].start + within)
    }

    /// Returns the least load of a zone that may be used.
    pub(super) fn least_load(&self) -> u32 {
        let loads = self.zone_loads.iter().zip(&self.zone_allowed);
        loads.filter(|(_, is_allowed)| **is_allowed).map(|(load, _)| *load).min().unwrap_or(0)
    }

    /// Notes that an instance of this kind was placed.
    pub(super) fn placed(&mut self, machines: &Machines<'_>, wanted: &Wanted<'_>, place: usize, zone: usize) {
        if wanted.is_spread {
            self.load(machines, place, zone, 1);
        }
        let block = machines.block_of(zone, place);
        self.block_bests[block] = self.least_key(machines, wanted, block);
        self.zone_bests[zone] = least(&self.block_bests[machines.zones[zone].blocks.clone()]);
    }
}

/// Returns the least of several keys.
fn least(keys: &[u64]) -> u64 {
    keys.iter().copied().min().unwrap_or(NOWHERE)
}
