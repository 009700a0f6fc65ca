//! What the node tells about itself and about the functions it runs: its own log, metrics, recent events, and what
//! functions wrote.

mod cluster;
mod events;
pub mod exposition;
mod lines;
pub mod logs;
mod metrics;
mod trace;

pub use cluster::ClusterMetrics;
pub use events::{EVENTS_KEPT, EVENTS_OF_KIND_KEPT, EventLog};
pub use metrics::{BlankLabel, FUNCTIONS_LABELLED_MAX, Metrics, StartPhase};
pub use trace::{Format, TraceError, flush_tracing, start_tracing};
