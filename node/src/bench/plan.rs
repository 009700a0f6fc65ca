//! `hearth bench plan`: placements a second of the planner, beside a look at every node for each.
//!
//! Planning is one thread that never waits, so the seconds are those of its processor: others on the machine do not count.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use control_plane::model::{
    Bytes, Concurrency, Constraints, Digest, FeatureLevel, FunctionName, FunctionSpec, MilliCpu, Network, NodeId,
    NodeSpec, Purpose, Resources, RevisionId, RevisionNumber, RevisionSpec, Runtime, Scaling, Spread, Timestamp,
    ZONE_LABEL,
};
use control_plane::placement::{Ask, Planner};
use control_plane::state::{Command, PLACE_MAX, Place, Reply, State};

use super::process_time::thread_time;
use super::report::{Report, Role, Row, Section, Side};
use super::sample::Samples;
use super::{Bench, BenchError};

/// How often each thing is measured unless told otherwise.
const ROUNDS: usize = 30;

/// How many nodes there are, and how many placements a second are to come of it.
const CLUSTERS: [(u32, Option<f64>); 3] = [(1_000, Some(300_000.0)), (5_000, None), (10_000, Some(60_000.0))];

/// How many zones: racks, as in the benchmark that Nomad's scheduler comes with.
const ZONES: u32 = 50;

/// How many placements are planned together.
const BATCHES: [usize; 2] = [300, 1_200];

/// Sizes of instances, in thousandths of a core and mebibytes.
const SIZES: [(u32, u64); 6] = [(100, 128), (250, 256), (500, 512), (500, 1024), (1000, 512), (1000, 2048)];

/// Functions that are on the nodes already.
const SETTLED: u32 = 12;

/// How full the nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// None to six instances on each.
    Light,
    /// Three of four have less left than the largest size needs, and some of them less than the smallest.
    Heavy,
}

impl Fill {
    const ALL: [Self; 2] = [Self::Light, Self::Heavy];

    fn title(self) -> &'static str {
        match self {
            Self::Light => "have up to six instances each",
            Self::Heavy => "are full but for one in four",
        }
    }

    /// Returns how many instances a node has.
    fn instances(self, node: u32) -> u32 {
        let few = node * 5 % 7;
        if self == Self::Light || node.is_multiple_of(4) {
            return few;
        }
        let mut left = machine(node).capacity;
        let mut count = 0;
        // What is left of the fullest is between nothing and all but two instances.
        while size(node + count).fits(&left) {
            left = left.minus(&size(node + count));
            count += 1;
        }
        count - few.min(2)
    }
}

const AT: Timestamp = Timestamp::from_millis(1);

/// A batch that is planned again and again, each time over the same cluster.
struct Batch {
    asks: Vec<Ask>,
    rates: Samples,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Report, BenchError> {
    let rounds = bench.rounds.unwrap_or(ROUNDS);
    let mut sections = Vec::new();
    for (nodes, goal) in CLUSTERS {
        for fill in Fill::ALL {
            bench.say(&format!("{nodes} nodes: filling them"));
            let state = cluster(nodes, fill)?;
            for spread in Spread::ALL {
                for count in BATCHES {
                    let title = format!("{nodes} nodes that {}, batches of {count}, spread {spread}", fill.title());
                    bench.say(&title);
                    sections.push(section(bench, &state, title, spread, count, rounds, goal)?);
                }
            }
        }
    }
    Ok(bench.report("plan", rounds, sections))
}

fn section(
    bench: &Bench<'_>,
    state: &State,
    title: String,
    spread: Spread,
    count: usize,
    rounds: usize,
    goal: Option<f64>,
) -> Result<Section, BenchError> {
    let planner = Planner::of(state);
    let sizes: Vec<Resources> = (0_u32..).take(count).map(size).collect();
    let mut each = Batch::new((0_u32..).take(count).map(|number| name(spread, number)))?;
    let mut odd = Batch::new((0_u32..).take(count).map(|number| odd_name(spread, number)))?;
    let mut one = Batch::new((0..count).map(|_| name(spread, 0)))?;
    let (mut anew, mut scan) = (Samples::default(), Samples::default());
    for round in 0..=rounds {
        bench.go_on()?;
        // The first round warms up.
        let counts = round > 0;
        each.turn(&planner, counts)?;
        let began = thread_time()?;
        for size in &sizes {
            black_box(planner.count_fitting(black_box(size)));
        }
        let looked = thread_time()?.saturating_sub(began);
        odd.turn(&planner, counts)?;
        one.turn(&planner, counts)?;
        let began = thread_time()?;
        black_box(Planner::of(black_box(state)).plan(&one.asks));
        let planned = thread_time()?.saturating_sub(began);
        if counts {
            scan.push(rate(count, looked));
            anew.push(rate(count, planned));
        }
    }
    let title = format!("placements a second of processor time, {title}");
    let rows = vec![
        Row::new("each of another function", Role::Ours, &each.rates),
        Row::new("each of another function and of a size of its own", Role::Ours, &odd.rates),
        Row::new("a bare look at every node for each", Role::Peer, &scan),
        Row::new("all of one function", Role::Ours, &one.rates),
        Row::new("all of one function, the state read first", Role::Ours, &anew)
            .note(format!("{} placements in it", state.placements.len())),
    ];
    let mut section = Section::new(title, "1/s", rows);
    for name in ["each of another function", "all of one function"] {
        if let Some(goal) = goal {
            let value = section.median(name);
            section = section.goal(name, value, Side::AtLeast, goal);
        }
    }
    Ok(section)
}

impl Batch {
    fn new(names: impl Iterator<Item = Result<FunctionName, BenchError>>) -> Result<Self, BenchError> {
        let ask = |function: FunctionName| Ask {
            revision: RevisionId { function, number: RevisionNumber(1) },
            purpose: Purpose::Minimum,
        };
        let asks = names.map(|name| name.map(ask)).collect::<Result<_, _>>()?;
        Ok(Self { asks, rates: Samples::default() })
    }

    /// Plans it once; one that does not fit as a whole would be quick for nothing.
    fn turn(&mut self, planner: &Planner<'_>, counts: bool) -> Result<(), BenchError> {
        let mut planner = planner.clone();
        let began = thread_time()?;
        let nodes = black_box(planner.plan(black_box(&self.asks)));
        let elapsed = thread_time()?.saturating_sub(began);
        if let Some(no_fit) = nodes.iter().find_map(|node| node.as_ref().err()) {
            return Err(failed(no_fit));
        }
        if counts {
            self.rates.push(rate(self.asks.len(), elapsed));
        }
        Ok(())
    }
}

fn rate(count: usize, elapsed: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / elapsed.max(Duration::from_nanos(1)).as_secs_f64()
}

fn failed(reason: impl ToString) -> BenchError {
    BenchError::Program { program: "the planner".to_owned(), reason: reason.to_string() }
}

fn size(number: u32) -> Resources {
    let (cpu, memory) = SIZES[number as usize % SIZES.len()];
    Resources { cpu: MilliCpu(cpu), memory: Bytes::mebi(memory), disk: Bytes::mebi(512), pids: 64 }
}

fn name(spread: Spread, number: u32) -> Result<FunctionName, BenchError> {
    format!("{spread}-{number}").parse().map_err(failed)
}

/// Returns the name of a function whose size no other has.
fn odd_name(spread: Spread, number: u32) -> Result<FunctionName, BenchError> {
    format!("odd-{spread}-{number}").parse().map_err(failed)
}

/// Returns a function of one of some sizes.
pub(super) fn function(name: FunctionName, number: u32, spread: Spread) -> Result<FunctionSpec, BenchError> {
    let revision = RevisionSpec {
        runtime: Runtime::Provided,
        image: Digest::from_bytes([1; 32]),
        command: Vec::new(),
        handler: None,
        environment: BTreeMap::new(),
        resources: size(number),
        timeout: Duration::from_secs(1),
        concurrency: Concurrency::ONE,
        network: Network::None,
        user: None,
        placement: Constraints::new(spread, BTreeMap::new()).map_err(failed)?,
    };
    // With a minimum of two the spread is a rule, not a wish.
    let scaling = Scaling::new(2, 10_000, Duration::from_secs(60)).map_err(failed)?;
    Ok(FunctionSpec { name, revision, scaling, triggers: Vec::new() })
}

/// Returns what a node of one of two sizes, in one of fifty zones, says about itself.
pub(super) fn machine(number: u32) -> NodeSpec {
    let cores = if number.is_multiple_of(3) { 32_000 } else { 16_000 };
    let capacity = Resources {
        cpu: MilliCpu(cores),
        memory: Bytes::mebi(u64::from(cores) * 4),
        disk: Bytes::mebi(1 << 20),
        pids: 100_000,
    };
    let labels = BTreeMap::from([(ZONE_LABEL.to_owned(), format!("rack-{}", number % ZONES))]);
    NodeSpec { name: format!("node-{number}"), capacity, labels, features: FeatureLevel::NEWEST }
}

/// Returns a cluster of nodes of two sizes in fifty zones that have something to do already.
fn cluster(nodes: u32, fill: Fill) -> Result<State, BenchError> {
    let mut state = State::default();
    for number in 1..=nodes {
        let spec = machine(number);
        state.apply(AT, Command::RegisterNode { node: NodeId(number), spec }).map_err(failed)?;
    }
    let most = u32::try_from(BATCHES.into_iter().max().unwrap_or(0)).unwrap_or(u32::MAX);
    let mut functions = Vec::new();
    for number in 0..most {
        for spread in Spread::ALL {
            functions.push(function(name(spread, number)?, number, spread)?);
            let mut odd = function(odd_name(spread, number)?, number, spread)?;
            odd.revision.resources.memory.0 -= u64::from(number) << 12;
            functions.push(odd);
        }
    }
    let settled = |number: u32| format!("settled-{}", number % SETTLED).parse().map_err(failed);
    for number in 0..SETTLED {
        functions.push(function(settled(number)?, number, Spread::None)?);
    }
    let app = "bench".parse().map_err(failed)?;
    state.apply(AT, Command::DeployApp { app, functions, check_index: None }).map_err(failed)?;
    let mut places = Vec::new();
    for node in 1..=nodes {
        for number in 0..fill.instances(node) {
            let revision = RevisionId { function: settled(node + number)?, number: RevisionNumber(1) };
            places.push(Place { revision, node: NodeId(node), purpose: Purpose::Minimum });
        }
    }
    for places in places.chunks(PLACE_MAX) {
        match state.apply(AT, Command::PlaceMany { places: places.to_vec() }).map_err(failed)? {
            Reply::PlacedMany { placed } if placed.iter().all(Result::is_ok) => {}
            other => return Err(failed(format!("{other:?}"))),
        }
    }
    Ok(state)
}
