//! What nodes have left, as a structure of arrays, and of each block of them what it has at most and costs at least.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::score::{DIMENSIONS, Grain, Reciprocals, Weights, amounts, rank_cost};
use crate::model::{Bytes, MilliCpu, Node, NodeId, Resources, ZONE_LABEL};
use crate::state::State;

/// How many nodes share one remembered best: their scan costs as much as that of the bests of ten thousand nodes.
const BLOCK: usize = 64;

/// What stands together in the arrays because it fails together.
#[derive(Clone, Debug)]
pub(super) struct Zone<'a> {
    /// Its name; nodes without one are a zone of their own.
    pub(super) name: Option<&'a str>,
    /// Its places in the arrays.
    pub(super) places: Range<usize>,
    /// Its blocks.
    pub(super) blocks: Range<usize>,
}

/// What a block can have to offer at best: where even that is not enough, nobody needs to look at its nodes.
#[derive(Clone, Debug)]
struct Bound {
    /// The most that any of its nodes has left of each dimension.
    room: Resources,
    /// The shapes of its nodes, in [`Machines::least`].
    least: Range<usize>,
}

/// All nodes, zone by zone and by id within a zone.
#[derive(Clone, Debug)]
pub(super) struct Machines<'a> {
    pub(super) ids: Vec<NodeId>,
    /// How many there are besides, which take nothing: they are drained or dead.
    pub(super) left_out: usize,
    pub(super) labels: Vec<&'a BTreeMap<String, String>>,
    cpu: Vec<MilliCpu>,
    memory: Vec<Bytes>,
    disk: Vec<Bytes>,
    pids: Vec<u32>,
    /// What each costs as it is, by the weights of the batch under way, and for its place in the order of nodes.
    costs: Vec<u32>,
    rank_costs: Vec<u32>,
    /// Which of the shapes each has.
    shapes: Vec<u32>,
    /// One over each capacity that nodes have: there are few of them, and what an instance takes off a node's cost is the
    /// same for all nodes of one.
    reciprocals: Vec<Reciprocals>,
    /// The reciprocals by the weights of the batch under way.
    weighted: Vec<Reciprocals>,
    grain: Grain,
    pub(super) zones: Vec<Zone<'a>>,
    /// Runs of at most [`BLOCK`] places within one zone.
    pub(super) blocks: Vec<Range<usize>>,
    /// What each block has to offer in the batch under way, its nodes that can take nothing of that left out.
    bounds: Vec<Bound>,
    /// For each shape that a block has, what a node of it costs at least.
    least: Vec<(u32, u32)>,
    /// The least of each dimension that anything in the batch under way needs.
    smallest: Resources,
    /// Places by node, for looking them up.
    places: Vec<(NodeId, usize)>,
    capacity: [u128; DIMENSIONS],
    used: [u128; DIMENSIONS],
}

fn add(sum: &mut [u128; DIMENSIONS], resources: &Resources) {
    for (sum, amount) in sum.iter_mut().zip(amounts(resources)) {
        *sum += u128::from(amount);
    }
}

impl<'a> Machines<'a> {
    /// Reads those that may take instances off a state.
    pub(super) fn of(state: &'a State) -> Self {
        let eligible = || state.nodes.iter().filter(|(_, node)| node.is_eligible());
        let count = eligible().count();
        let mut zones: BTreeMap<Option<&str>, Vec<(NodeId, usize, &Node)>> = BTreeMap::new();
        for (rank, (id, node)) in eligible().enumerate() {
            let zone = node.labels().get(ZONE_LABEL).map(String::as_str);
            zones.entry(zone).or_default().push((*id, rank, node));
        }
        let order = zones.into_iter().flat_map(|(zone, nodes)| nodes.into_iter().map(move |node| (zone, node)));
        let mut largest = [0; DIMENSIONS];
        for (_, node) in eligible() {
            let capacity = amounts(&node.spec.capacity);
            largest = std::array::from_fn(|dimension| largest[dimension].max(capacity[dimension]));
        }
        let mut machines = Self {
            ids: Vec::with_capacity(count),
            left_out: state.nodes.len() - count,
            labels: Vec::with_capacity(count),
            cpu: Vec::with_capacity(count),
            memory: Vec::with_capacity(count),
            disk: Vec::with_capacity(count),
            pids: Vec::with_capacity(count),
            costs: Vec::with_capacity(count),
            rank_costs: Vec::with_capacity(count),
            shapes: Vec::with_capacity(count),
            reciprocals: Vec::new(),
            weighted: Vec::new(),
            grain: Grain::for_largest(largest),
            zones: Vec::new(),
            blocks: Vec::new(),
            bounds: Vec::new(),
            least: Vec::new(),
            smallest: Resources::default(),
            places: Vec::with_capacity(count),
            capacity: [0; DIMENSIONS],
            used: [0; DIMENSIONS],
        };
        let mut shapes: BTreeMap<[u64; DIMENSIONS], u32> = BTreeMap::new();
        for (place, (zone, (id, rank, node))) in order.enumerate() {
            let (capacity, held) = (&node.spec.capacity, state.placements.held(id));
            let free = capacity.minus(&held);
            machines.ids.push(id);
            machines.labels.push(node.labels());
            machines.cpu.push(free.cpu);
            machines.memory.push(free.memory);
            machines.disk.push(free.disk);
            machines.pids.push(free.pids);
            let shape = *shapes.entry(amounts(capacity)).or_insert_with(|| {
                machines.reciprocals.push(machines.grain.reciprocals(capacity));
                u32::try_from(machines.reciprocals.len() - 1).unwrap_or(u32::MAX)
            });
            machines.shapes.push(shape);
            machines.rank_costs.push(rank_cost(rank, count));
            machines.places.push((id, place));
            add(&mut machines.capacity, capacity);
            add(&mut machines.used, &held);
            machines.extend_zone(zone, place);
        }
        machines.places.sort_unstable();
        for block in &machines.blocks {
            let shapes: BTreeSet<u32> = machines.shapes[block.clone()].iter().copied().collect();
            let first = machines.least.len();
            machines.least.extend(shapes.into_iter().map(|shape| (shape, u32::MAX)));
            machines.bounds.push(Bound { room: Resources::default(), least: first..machines.least.len() });
        }
        machines
    }

    fn extend_zone(&mut self, name: Option<&'a str>, place: usize) {
        let (blocks, places) = (self.blocks.len(), place..place + 1);
        match self.zones.last_mut().filter(|zone| zone.name == name) {
            Some(zone) => zone.places.end += 1,
            None => self.zones.push(Zone { name, places: places.clone(), blocks: blocks..blocks }),
        }
        let Some(zone) = self.zones.last_mut() else { return };
        match self.blocks.last_mut().filter(|block| !zone.blocks.is_empty() && block.len() < BLOCK) {
            Some(block) => block.end += 1,
            None => {
                self.blocks.push(places);
                zone.blocks.end += 1;
            }
        }
    }

    /// Returns a node's place in the arrays.
    pub(super) fn place_of(&self, node: NodeId) -> Option<usize> {
        let found = self.places.binary_search_by_key(&node, |(id, _)| *id).ok()?;
        Some(self.places[found].1)
    }

    /// Returns the zone that a place belongs to.
    pub(super) fn zone_of(&self, place: usize) -> usize {
        self.zones.partition_point(|zone| zone.places.end <= place)
    }

    /// Returns the block that a place of a zone belongs to.
    pub(super) fn block_of(&self, zone: usize, place: usize) -> usize {
        let zone = &self.zones[zone];
        zone.blocks.start + (place - zone.places.start) / BLOCK
    }

    /// Returns what the node at a place has left.
    #[inline]
    pub(super) fn room(&self, place: usize) -> Resources {
        Resources { cpu: self.cpu[place], memory: self.memory[place], disk: self.disk[place], pids: self.pids[place] }
    }

    /// Takes something off what the node at a place of a block has left.
    pub(super) fn take(&mut self, place: usize, block: usize, needed: &Resources) {
        let room = self.room(place).minus(needed);
        self.cpu[place] = room.cpu;
        self.memory[place] = room.memory;
        self.disk[place] = room.disk;
        self.pids[place] = room.pids;
        self.costs[place] = self.cost_now(place);
        self.bound_anew(block);
        add(&mut self.used, needed);
    }

    /// Works out what a place costs as it is.
    fn cost_now(&self, place: usize) -> u32 {
        let weighted = &self.weighted[self.shapes[place] as usize];
        self.grain.cost(&self.room(place), weighted).saturating_add(self.rank_costs[place])
    }

    /// Works out what a block has to offer.
    fn bound_anew(&mut self, block: usize) {
        let shapes = self.bounds[block].least.clone();
        for (_, least) in &mut self.least[shapes.clone()] {
            *least = u32::MAX;
        }
        let mut most = Resources::default();
        for place in self.blocks[block].clone() {
            let room = self.room(place);
            if !self.smallest.fits(&room) {
                continue;
            }
            most = most.larger(&room);
            let shape = self.shapes[place];
            if let Some((_, least)) = self.least[shapes.clone()].iter_mut().find(|(known, _)| *known == shape) {
                *least = (*least).min(self.costs[place]);
            }
        }
        self.bounds[block].room = most;
    }

    /// Returns what a node of a block would cost at the very least with an instance of this size; none means that it fits on
    /// none of them.
    pub(super) fn bound(&self, block: usize, needed: &Resources, reliefs: &[u32]) -> Option<u32> {
        let bound = &self.bounds[block];
        if !needed.fits(&bound.room) {
            return None;
        }
        let least = self.least[bound.least.clone()].iter().filter(|(_, cost)| *cost != u32::MAX);
        // A node of which little is left costs less than the instance takes off it, but does not fit then.
        least.map(|(shape, cost)| cost.saturating_sub(reliefs[*shape as usize])).min()
    }

    /// Weighs dimensions by what would be used if all of `asked` were placed, and keeps that until it is done again, as it does
    /// that nothing is asked for that needs less than `smallest` of any.
    pub(super) fn weigh(&mut self, asked: [u128; DIMENSIONS], smallest: Resources) -> Weights {
        let used = std::array::from_fn(|dimension| self.used[dimension].saturating_add(asked[dimension]));
        let weights = Weights::of(used, self.capacity);
        self.weighted.clear();
        self.weighted.extend(self.reciprocals.iter().map(|reciprocals| weights.weigh(reciprocals)));
        let mut costs = std::mem::take(&mut self.costs);
        costs.clear();
        costs.extend((0..self.ids.len()).map(|place| self.cost_now(place)));
        self.costs = costs;
        self.smallest = smallest;
        for block in 0..self.blocks.len() {
            self.bound_anew(block);
        }
        weights
    }

    /// Writes down what an instance of this size takes off the cost of a node, by the node's shape.
    pub(super) fn reliefs(&self, needed: &Resources, reliefs: &mut Vec<u32>) {
        reliefs.clear();
        reliefs.extend(self.weighted.iter().map(|weighted| self.grain.cost(needed, weighted)));
    }

    /// Returns what each place of a run would cost with an instance of this size; none means that it does not fit there.
    #[inline]
    pub(super) fn costs_with<'s>(
        &'s self,
        run: Range<usize>,
        needed: &'s Resources,
        reliefs: &'s [u32],
    ) -> impl Iterator<Item = Option<u32>> + 's {
        let (cpu, memory) = (&self.cpu[run.clone()], &self.memory[run.clone()]);
        let (disk, pids) = (&self.disk[run.clone()], &self.pids[run.clone()]);
        let (costs, shapes) = (&self.costs[run.clone()], &self.shapes[run]);
        let rooms = cpu.iter().zip(memory).zip(disk).zip(pids);
        rooms.zip(costs).zip(shapes).map(move |(((((cpu, memory), disk), pids), cost), shape)| {
            let room = Resources { cpu: *cpu, memory: *memory, disk: *disk, pids: *pids };
            // Wrapping, because the difference has no meaning where the instance does not fit.
            let cost = cost.wrapping_sub(reliefs[*shape as usize]);
            needed.fits(&room).then_some(cost)
        })
    }

    /// Counts the nodes on which an instance of this size fits.
    pub(super) fn count_fitting(&self, needed: Resources) -> usize {
        let rooms = self.cpu.iter().zip(&self.memory).zip(&self.disk).zip(&self.pids);
        rooms
            .filter(|(((cpu, memory), disk), pids)| {
                needed.fits(&Resources { cpu: **cpu, memory: **memory, disk: **disk, pids: **pids })
            })
            .count()
    }
}
