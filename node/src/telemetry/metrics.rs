//! Every metric of the node.
//!
//! Names are `hearth_<noun>_<unit>[_total]`, in seconds and bytes. Labels have few values: functions beyond the first
//! [`FUNCTIONS_LABELLED_MAX`] are counted together under `function="other functions"`.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use control_plane::model::FunctionName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use proto::json::InstancePhase;

use super::cluster::ClusterMetrics;

/// How many functions have a label of their own.
pub const FUNCTIONS_LABELLED_MAX: usize = 1_000;

/// What the label of every further function says; no function has this name, because it holds a space.
const FUNCTION_OTHER: &str = "other functions";

/// Bounds of the buckets of latencies, in seconds: from a fast warm call to the longest timeout that is usual.
const LATENCY_BOUNDS: [f64; 16] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// The phases of a cold start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartPhase {
    /// From the wish for an instance to the decision where it goes.
    Place,
    /// From there until its process runs.
    Sandbox,
    /// From there until it is ready.
    Init,
}

impl StartPhase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Sandbox => "sandbox",
            Self::Init => "init",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FunctionLabel {
    function: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InvocationLabel {
    function: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StartLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// Which pool of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BlankLabel {
    /// `blank`, or `egress` for those that have a way out.
    pub kind: String,
}

/// The metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    labelled: Mutex<BTreeSet<FunctionName>>,
    invocations: Family<InvocationLabel, Counter>,
    invocation_latency: Family<FunctionLabel, Histogram, fn() -> Histogram>,
    cold_starts: Family<FunctionLabel, Counter>,
    cold_start_latency: Family<StartLabel, Histogram, fn() -> Histogram>,
    queue_length: Family<FunctionLabel, Gauge>,
    instances: Family<PhaseLabel, Gauge>,
    /// Sandboxes that wait to be used.
    pub pool_blanks: Family<BlankLabel, Gauge>,
    /// The log, who leads, who is there, what is placed.
    pub cluster: ClusterMetrics,
    /// From proposing a command to its application.
    pub raft_commit_latency: Histogram,
    /// What the write-ahead log holds.
    pub wal_size: Gauge,
    /// What the store of images holds.
    pub image_size: Gauge,
    /// What came of images from peers.
    pub image_fetched: Counter,
    /// What peers got of images.
    pub image_served: Counter,
    /// What functions wrote and is kept.
    pub function_log_size: Gauge,
    /// Lines of functions that were written down.
    pub function_log_lines: Counter,
    /// Lines of functions that were lost, because they came too fast or the disk was full.
    pub function_log_lines_lost: Counter,
    /// Requests to the operator's API.
    pub api_requests: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn latency() -> Histogram {
    Histogram::new(LATENCY_BOUNDS)
}

impl Metrics {
    /// Starts every count at zero.
    pub fn new() -> Self {
        let latencies: fn() -> Histogram = latency;
        let mut this = Self {
            registry: Registry::with_prefix("hearth"),
            labelled: Mutex::default(),
            invocations: Family::default(),
            invocation_latency: Family::new_with_constructor(latencies),
            cold_starts: Family::default(),
            cold_start_latency: Family::new_with_constructor(latencies),
            queue_length: Family::default(),
            instances: Family::default(),
            pool_blanks: Family::default(),
            cluster: ClusterMetrics::default(),
            raft_commit_latency: latency(),
            wal_size: Gauge::default(),
            image_size: Gauge::default(),
            image_fetched: Counter::default(),
            image_served: Counter::default(),
            function_log_size: Gauge::default(),
            function_log_lines: Counter::default(),
            function_log_lines_lost: Counter::default(),
            api_requests: Counter::default(),
        };
        this.register();
        this
    }

    fn register(&mut self) {
        let Self { registry: r, .. } = self;
        r.register("invocations", "Invocations by how they ended", self.invocations.clone());
        r.register_with_unit(
            "invocation_latency",
            "From the head of a request to the end of its answer",
            Unit::Seconds,
            self.invocation_latency.clone(),
        );
        r.register("cold_starts", "Invocations that waited for an instance to start", self.cold_starts.clone());
        r.register_with_unit(
            "cold_start_latency",
            "The phases of starting an instance",
            Unit::Seconds,
            self.cold_start_latency.clone(),
        );
        r.register("queue_length_invocations", "Invocations that wait for an instance", self.queue_length.clone());
        r.register("instances", "Instances on this node", self.instances.clone());
        r.register("pool_sandboxes", "Sandboxes that wait to be used", self.pool_blanks.clone());
        self.cluster.register(r);
        r.register_with_unit(
            "raft_commit_latency",
            "From proposing a command to its application",
            Unit::Seconds,
            self.raft_commit_latency.clone(),
        );
        r.register_with_unit("wal_size", "What the write-ahead log holds", Unit::Bytes, self.wal_size.clone());
        r.register_with_unit("image_size", "What the store of images holds", Unit::Bytes, self.image_size.clone());
        r.register_with_unit(
            "image_fetched",
            "What came of images from peers",
            Unit::Bytes,
            self.image_fetched.clone(),
        );
        r.register_with_unit("image_served", "What peers got of images", Unit::Bytes, self.image_served.clone());
        r.register_with_unit(
            "function_log_size",
            "What functions wrote and is kept",
            Unit::Bytes,
            self.function_log_size.clone(),
        );
        r.register("function_log_lines", "Lines of functions written down", self.function_log_lines.clone());
        r.register("function_log_lines_lost", "Lines of functions lost", self.function_log_lines_lost.clone());
        r.register("api_requests", "Requests to the operator's API", self.api_requests.clone());
        r.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register_collector(Box::new(ProcessMemory));
    }

    /// Counts an invocation that is over; `outcome` is one of a few fixed words, `start` tells what it waited for if it waited
    /// for an instance to start.
    pub fn invocation_done(
        &self,
        function: &FunctionName,
        outcome: &'static str,
        latency: Duration,
        start: Option<&[(StartPhase, Duration)]>,
    ) {
        let function = self.label(function);
        self.invocations.get_or_create(&InvocationLabel { function: function.clone(), outcome }).inc();
        let label = FunctionLabel { function };
        self.invocation_latency.get_or_create(&label).observe(latency.as_secs_f64());
        if let Some(start) = start {
            self.cold_starts.get_or_create(&label).inc();
            for (phase, took) in start {
                self.cold_start_latency
                    .get_or_create(&StartLabel { phase: phase.as_str() })
                    .observe(took.as_secs_f64());
            }
        }
    }

    /// Says how many invocations of a function wait.
    pub fn queue_length(&self, function: &FunctionName, length: usize) {
        let label = FunctionLabel { function: self.label(function) };
        self.queue_length.get_or_create(&label).set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Says how many instances this node has in a phase.
    pub fn instances(&self, phase: InstancePhase, count: usize) {
        let phase = match phase {
            InstancePhase::Starting => "starting",
            InstancePhase::Ready => "ready",
            InstancePhase::Draining => "draining",
            InstancePhase::Stopping => "stopping",
        };
        self.instances.get_or_create(&PhaseLabel { phase }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Returns everything as Prometheus scrapes it, in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }

    fn label(&self, function: &FunctionName) -> String {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        if !labelled.contains(function) {
            if labelled.len() == FUNCTIONS_LABELLED_MAX {
                return FUNCTION_OTHER.to_owned();
            }
            labelled.insert(function.clone());
        }
        function.to_string()
    }
}

/// Measures the memory of the process at every scrape.
#[derive(Debug)]
struct ProcessMemory;

impl Collector for ProcessMemory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(bytes) = resident_bytes() else { return Ok(()) };
        let gauge = ConstGauge::new(bytes);
        let encoder = encoder.encode_descriptor(
            "process_resident_memory",
            "Memory of the daemon that is in RAM.",
            Some(&Unit::Bytes),
            gauge.metric_type(),
        )?;
        gauge.encode(encoder)
    }
}

/// Returns the resident memory of this process as the kernel tells it.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibi: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibi * 1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use control_plane::model::{Epoch, FeatureLevel, Node, NodeId, NodeSpec, Resources};
    use control_plane::state::State;

    use super::*;
    use crate::raft::Members;

    #[test]
    fn what_is_counted_is_scraped() {
        let metrics = Metrics::new();
        let function = "resize".parse().unwrap();
        metrics.invocation_done(&function, "answered", Duration::from_millis(3), None);
        let start = [(StartPhase::Sandbox, Duration::from_millis(2))];
        metrics.invocation_done(&function, "answered", Duration::from_millis(9), Some(&start));
        metrics.instances(InstancePhase::Ready, 2);
        let mut state = State::default();
        let spec = NodeSpec {
            name: "a".to_owned(),
            capacity: Resources::default(),
            labels: BTreeMap::new(),
            features: FeatureLevel::NEWEST,
        };
        let mut node = Node::new(spec, Epoch(2));
        (node.is_draining, node.is_dead) = (true, true);
        state.nodes.insert(NodeId(1), node);
        metrics.cluster.set_state(&state);
        let members = Members { voters: BTreeMap::from([(NodeId(1), String::new())]), ..Members::default() };
        let log = crate::raft::Metrics { term: 3, applied: 9, ..crate::raft::Metrics::default() };
        metrics.cluster.set_log(&log, &members, true);
        let text = metrics.render();
        for line in [
            "hearth_invocations_total{function=\"resize\",outcome=\"answered\"} 2",
            "hearth_invocation_latency_seconds_count{function=\"resize\"} 2",
            "hearth_invocation_latency_seconds_bucket{le=\"0.005\",function=\"resize\"} 1",
            "hearth_cold_starts_total{function=\"resize\"} 1",
            "hearth_cold_start_latency_seconds_count{phase=\"sandbox\"} 1",
            "hearth_instances{phase=\"ready\"} 2",
            "hearth_nodes{status=\"dead\"} 1",
            "hearth_nodes{status=\"draining\"} 0",
            "hearth_raft_voters 1",
            "hearth_raft_is_leader 1",
            "hearth_raft_term 3",
            "hearth_raft_applied_index 9",
            "hearth_build_info{version=\"0.1.0\"} 1",
            "# UNIT hearth_process_resident_memory_bytes bytes",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_page_about_metrics_lists_them_all_and_no_others() {
        let page = include_str!("../../../docs/reference/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `hearth_"));
        let told: BTreeSet<(String, String)> = rows
            .filter_map(|row| {
                let (name, rest) = row.split_once('`')?;
                Some((format!("hearth_{name}"), rest.split('|').nth(1)?.trim().to_owned()))
            })
            .collect();
        let metrics = Metrics::new();
        // Families without a sample are not written.
        let function = "resize".parse().unwrap();
        let start = [(StartPhase::Sandbox, Duration::from_millis(2))];
        metrics.invocation_done(&function, "answered", Duration::from_millis(9), Some(&start));
        metrics.queue_length(&function, 1);
        metrics.instances(InstancePhase::Ready, 2);
        metrics.pool_blanks.get_or_create(&BlankLabel { kind: "blank".to_owned() }).set(1);
        metrics.cluster.set_state(&State::default());
        let text = crate::telemetry::exposition::plain(&metrics.render());
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let known: BTreeSet<(String, String)> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        assert_eq!(told, known);
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let metrics = Metrics::new();
        for number in 0..FUNCTIONS_LABELLED_MAX + 10 {
            let function = format!("f{number}").parse().unwrap();
            metrics.queue_length(&function, 1);
        }
        let lines = metrics.render().matches("hearth_queue_length_invocations{").count();
        assert_eq!(lines, FUNCTIONS_LABELLED_MAX + 1);
    }
}
