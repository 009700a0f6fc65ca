//! Finds the best node for one kind of instance after another: exactly the one that a look at every node would find, but blocks
//! that cannot have it by what they have to offer at best are not looked at (branch and bound). The bests of blocks and zones are
//! remembered, because placing an instance changes one node.

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
    /// For what size the rest holds; none where not every node will do.
    size: Option<Resources>,
    /// What an instance takes off the cost of a node, by the node's shape.
    reliefs: Vec<u32>,
    /// What each node has of this kind; zeros unless loads count.
    node_loads: Vec<u32>,
    /// Which places have any of it, with their zones.
    loaded: Vec<(usize, usize)>,
    /// Which blocks have such a place.
    has_load: Vec<bool>,
    /// What each zone has of this kind.
    pub(super) zone_loads: Vec<u32>,
    /// The least key of each block: the middle fields of a [`Score`] in one integer, the node's load, then its cost. Of a block
    /// that was not looked at it is no more than that.
    block_bests: Vec<u64>,
    is_looked_at: Vec<bool>,
    /// The least of the keys of each zone's blocks.
    zone_bests: Vec<u64>,
    /// Whether a node of the zone has the required labels.
    pub(super) zone_allowed: Vec<bool>,
}

/// Returns whether the bit of a place is set.
pub(super) fn is_set(bits: &[u64], place: usize) -> bool {
    bits[place / 64] >> (place % 64) & 1 == 1
}

impl Scan {
    /// Forgets everything: the machines are weighed anew.
    pub(super) fn forget(&mut self) {
        self.size = None;
    }

    /// Begins with one kind of instance, of which places have `loads` already.
    ///
    /// What is known of the blocks for an instance of the same size that may go anywhere too is kept: a batch has more kinds than
    /// sizes.
    pub(super) fn begin(
        &mut self,
        machines: &Machines<'_>,
        wanted: &Wanted<'_>,
        loads: impl Iterator<Item = (usize, u32)>,
    ) {
        self.zone_loads.clear();
        self.zone_loads.resize(machines.zones.len(), 0);
        let goes_on = wanted.allowed.is_none() && self.size == Some(wanted.resources);
        if !goes_on {
            self.size = Some(wanted.resources).filter(|_| wanted.allowed.is_none());
            machines.reliefs(&wanted.resources, &mut self.reliefs);
        }
        for (zone, place) in std::mem::take(&mut self.loaded) {
            self.node_loads[place] = 0;
            let block = machines.block_of(zone, place);
            if std::mem::take(&mut self.has_load[block]) && goes_on {
                self.open(machines, wanted, zone, block);
            }
        }
        if !goes_on {
            self.begin_anew(machines, wanted);
        }
        if wanted.is_spread {
            for (place, count) in loads {
                let zone = machines.zone_of(place);
                self.load(machines, place, zone, count);
                // What was seen of it without loads is no more than what it has with them.
                self.is_looked_at[machines.block_of(zone, place)] = false;
            }
        }
    }

    /// Knows of no block more than what it has to offer at best.
    fn begin_anew(&mut self, machines: &Machines<'_>, wanted: &Wanted<'_>) {
        self.node_loads.resize(machines.ids.len(), 0);
        self.has_load.resize(machines.blocks.len(), false);
        self.block_bests.resize(machines.blocks.len(), NOWHERE);
        self.is_looked_at.resize(machines.blocks.len(), true);
        self.zone_bests.resize(machines.zones.len(), NOWHERE);
        self.zone_allowed.clear();
        for (number, zone) in machines.zones.iter().enumerate() {
            let is_allowed = |allowed: &[u64]| zone.places.clone().any(|place| is_set(allowed, place));
            self.zone_allowed.push(wanted.allowed.is_none_or(is_allowed));
            for block in zone.blocks.clone() {
                self.bound(machines, wanted, block);
            }
            self.zone_bests[number] = least(&self.block_bests[zone.blocks.clone()]);
        }
    }

    /// Forgets what was seen in a block: it has changed.
    fn open(&mut self, machines: &Machines<'_>, wanted: &Wanted<'_>, zone: usize, block: usize) {
        self.bound(machines, wanted, block);
        self.zone_bests[zone] = least(&self.block_bests[machines.zones[zone].blocks.clone()]);
    }

    /// Takes what a block has to offer at best for its best; loads only make it worse.
    fn bound(&mut self, machines: &Machines<'_>, wanted: &Wanted<'_>, block: usize) {
        let bound = machines.bound(block, &wanted.resources, &self.reliefs);
        self.block_bests[block] = bound.map_or(NOWHERE, u64::from);
        self.is_looked_at[block] = bound.is_none();
    }

    /// Looks at the nodes of a zone block by block, until its best is that of a block that was looked at.
    fn look(&mut self, machines: &Machines<'_>, wanted: &Wanted<'_>, zone: usize) {
        let blocks = machines.zones[zone].blocks.clone();
        loop {
            let best = least(&self.block_bests[blocks.clone()]);
            self.zone_bests[zone] = best;
            let is_open = |block: &usize| self.block_bests[*block] == best && !self.is_looked_at[*block];
            let Some(block) = blocks.clone().find(is_open) else { return };
            self.block_bests[block] = self.least_key(machines, wanted, block);
            self.is_looked_at[block] = true;
        }
    }

    /// Notes that a place has so many more of this kind.
    fn load(&mut self, machines: &Machines<'_>, place: usize, zone: usize, count: u32) {
        if self.node_loads[place] == 0 {
            self.loaded.push((zone, place));
        }
        self.node_loads[place] += count;
        self.zone_loads[zone] += count;
        self.has_load[machines.block_of(zone, place)] = true;
    }

    /// Returns the least key of a block.
    ///
    /// The same as the least of [`Self::keys`], without asking at every node what is the same for all.
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
    pub(super) fn best(&mut self, machines: &Machines<'_>, wanted: &Wanted<'_>) -> Option<(usize, usize)> {
        let zone_max = if wanted.is_even { self.least_load() } else { u32::MAX };
        loop {
            let zones = self.zone_loads.iter().zip(&self.zone_bests).map(|(load, key)| {
                if *load > zone_max || *key == NOWHERE { u128::MAX } else { u128::from(*load) << 64 | u128::from(*key) }
            });
            let least = zones.fold(u128::MAX, u128::min);
            if least == u128::MAX {
                return None;
            }
            let mut best: Option<(Score, usize, usize)> = None;
            for zone in 0..machines.zones.len() {
                let is_least =
                    |scan: &Self| u128::from(scan.zone_loads[zone]) << 64 | u128::from(scan.zone_bests[zone]) == least;
                if !is_least(self) {
                    continue;
                }
                self.look(machines, wanted, zone);
                // Only what was looked at is sure: it may have turned out worse.
                if !is_least(self) {
                    continue;
                }
                let (load, key) = (self.zone_loads[zone], self.zone_bests[zone]);
                let Some(place) = self.find(machines, wanted, zone, key) else { continue };
                let score = Score::new(load, key, machines.ids[place]);
                if best.is_none_or(|(other, ..)| score < other) {
                    best = Some((score, place, zone));
                }
            }
            if let Some((_, place, zone)) = best {
                return Some((place, zone));
            }
        }
    }

    /// Returns the first place of a zone that has this key: of equals, the one whose id is the least.
    fn find(&self, machines: &Machines<'_>, wanted: &Wanted<'_>, zone: usize, key: u64) -> Option<usize> {
        let block = machines.zones[zone].blocks.clone().find(|block| self.block_bests[*block] == key)?;
        let places = machines.blocks[block].clone();
        let within = if wanted.allowed.is_none() && !self.has_load[block] {
            let mut costs = machines.costs_with(places, &wanted.resources, &self.reliefs);
            costs.position(|cost| cost.is_some_and(|cost| u64::from(cost) == key))
        } else {
            self.keys(machines, wanted, block).position(|other| other == key)
        }?;
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
        self.open(machines, wanted, zone, machines.block_of(zone, place));
    }
}

/// Returns the least of several keys.
fn least(keys: &[u64]) -> u64 {
    keys.iter().copied().min().unwrap_or(NOWHERE)
}
