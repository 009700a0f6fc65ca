//! Why no node can take an instance, in words: a reason for each class of nodes, and what would change it.

use std::collections::BTreeMap;
use std::fmt;

use super::machines::Machines;
use super::scan::{Scan, Wanted};
use crate::model::{Constraints, NodeId, Resources};

/// What keeps an instance off a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// The node lacks a label that is required, or has it with another value.
    Label {
        /// Its name.
        key: String,
        /// The value it must have.
        value: String,
    },
    /// Its zone has more of the function than another, which must get the next one.
    Zone {
        /// The zone; none is that of the nodes without one.
        zone: Option<String>,
    },
    /// Too little is left, in these dimensions.
    Room(Short),
}

/// In which dimensions a node has too little left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Short {
    /// Processor time.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
    /// Disk.
    pub disk: bool,
    /// Tasks.
    pub pids: bool,
}

/// Nodes that cannot take an instance for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// How many there are.
    pub nodes: usize,
    /// The one that lacks least, and what it lacks: nothing where room is not the obstacle.
    pub nearest: (NodeId, Resources),
}

/// Why no node can take an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoFit {
    /// What was needed.
    pub needed: Resources,
    /// All nodes that take instances, by what keeps this one off them.
    pub classes: BTreeMap<Obstacle, Class>,
    /// How many nodes take none, because they are drained or dead.
    pub left_out: usize,
}

impl NoFit {
    /// Says for every node what keeps the instance off it.
    pub(super) fn explain(
        machines: &Machines<'_>,
        wanted: &Wanted<'_>,
        constraints: &Constraints,
        scan: &Scan,
    ) -> Self {
        let needed = wanted.resources;
        let load_max = if wanted.is_even { scan.least_load() } else { u32::MAX };
        let mut classes: BTreeMap<Obstacle, Class> = BTreeMap::new();
        for (zone, load) in machines.zones.iter().zip(&scan.zone_loads) {
            for place in zone.places.clone() {
                let lacks = needed.minus(&machines.room(place));
                let (obstacle, lacks) = if let Some((key, value)) = constraints.missing(machines.labels[place]) {
                    (Obstacle::Label { key: key.to_owned(), value: value.to_owned() }, Resources::default())
                } else if *load > load_max {
                    (Obstacle::Zone { zone: zone.name.map(str::to_owned) }, Resources::default())
                } else {
                    (Obstacle::Room(Short::of(&lacks)), lacks)
                };
                let node = machines.ids[place];
                let class = classes.entry(obstacle).or_insert(Class { nodes: 0, nearest: (node, lacks) });
                class.nodes += 1;
                if far(&needed, &lacks, node) < far(&needed, &class.nearest.1, class.nearest.0) {
                    class.nearest = (node, lacks);
                }
            }
        }
        Self { needed, classes, left_out: machines.left_out }
    }
}

/// Orders nodes by the largest part of what is needed that they lack.
fn far(needed: &Resources, lacks: &Resources, node: NodeId) -> (u128, NodeId) {
    let part = |lacks: u64, needed: u64| u128::from(lacks) * 1_000_000 / u128::from(needed.max(1));
    let parts = [
        part(lacks.cpu.0.into(), needed.cpu.0.into()),
        part(lacks.memory.0, needed.memory.0),
        part(lacks.disk.0, needed.disk.0),
        part(lacks.pids.into(), needed.pids.into()),
    ];
    (parts.into_iter().fold(0, u128::max), node)
}

impl Short {
    fn of(lacks: &Resources) -> Self {
        Self { cpu: lacks.cpu.0 > 0, memory: lacks.memory.0 > 0, disk: lacks.disk.0 > 0, pids: lacks.pids > 0 }
    }
}

/// Writes the dimensions that are short with how much: `memory 128Mi and pids 3`.
struct Lack<'a>(&'a Resources);

impl fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = Short::of(self.0);
        let parts = [
            short.cpu.then(|| format!("cpu {}", self.0.cpu)),
            short.memory.then(|| format!("memory {}", self.0.memory)),
            short.disk.then(|| format!("disk {}", self.0.disk)),
            short.pids.then(|| format!("pids {}", self.0.pids)),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(" and "))
    }
}

impl fmt::Display for NoFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.classes.is_empty(), self.left_out) {
            (true, 0) => return f.write_str("no node has registered"),
            (true, 1) => return f.write_str("the only node is drained or dead"),
            (true, count) => return write!(f, "all {count} nodes are drained or dead"),
            (false, _) => {}
        }
        write!(f, "an instance needs {}", self.needed)?;
        for (obstacle, class) in &self.classes {
            match class.nodes {
                1 => write!(f, "; {} ", class.nearest.0)?,
                count => write!(f, "; {count} nodes ")?,
            }
            let is_one = class.nodes == 1;
            let (node, lacks) = &class.nearest;
            match obstacle {
                Obstacle::Label { key, value } => {
                    let verb = if is_one { "lacks" } else { "lack" };
                    write!(f, "{verb} the label {key}={value}: it would fit if one of them had it")?;
                }
                Obstacle::Zone { zone } => {
                    let verb = if is_one { "is" } else { "are" };
                    match zone {
                        Some(zone) => write!(f, "{verb} in zone {zone}, ")?,
                        None => write!(f, "{verb} in no zone, ")?,
                    }
                    f.write_str("which has one more already: it would fit if the other zones had room")?;
                }
                Obstacle::Room(_) => {
                    let verb = if is_one { "has" } else { "have" };
                    write!(f, "{verb} too little left: it would fit if {node} had {} more", Lack(lacks))?;
                }
            }
        }
        match self.left_out {
            0 => Ok(()),
            1 => f.write_str("; 1 node is drained or dead"),
            count => write!(f, "; {count} nodes are drained or dead"),
        }
    }
}
