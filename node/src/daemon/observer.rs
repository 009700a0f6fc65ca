//! Counts what happens, for `/metrics`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use control_plane::model::RevisionId;
use prometheus_client::metrics::counter::Counter as Count;
use proto::json::InstancePhase;
use tokio_util::sync::CancellationToken;

use crate::agent::{Instances, Phase};
use crate::config::Config;
use crate::gateway::{self, CallRecord, Observer, Traffic};
use crate::image::Store;
use crate::raft::Raft;
use crate::sandbox::{Network, Sandboxes};
use crate::telemetry::{BlankLabel, Metrics, StartPhase};

/// How often what is not counted call by call is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many such looks there are between two at the store of images, which has many files.
const IMAGE_LOOKS: u64 = 30;

/// Counts calls.
#[derive(Debug)]
pub(super) struct Counter {
    metrics: Arc<Metrics>,
}

impl Counter {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl Observer for Counter {
    fn on_done(&self, record: &CallRecord) {
        let Some(function) = record.function.as_ref().filter(|_| record.is_counted()) else { return };
        let start = record.phases.start.map(|start| {
            [(StartPhase::Place, start.place), (StartPhase::Sandbox, start.sandbox), (StartPhase::Init, start.init)]
        });
        let start = start.as_ref().map(|phases| &phases[..]);
        self.metrics.invocation_done(function, record.outcome.as_str(), record.duration, start);
    }
}

/// Returns the gateway's bounds as they are configured.
pub(super) fn limits(config: &Config) -> gateway::Limits {
    gateway::Limits {
        event_body_max: usize::try_from(config.gateway.body_max.0).unwrap_or(usize::MAX),
        connections_max: usize::try_from(config.gateway.connections_max).unwrap_or(usize::MAX),
        ..gateway::Limits::default()
    }
}

/// Brings a counter to what somebody else has counted.
fn count_up(counter: &Count, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
}

/// Looks at what the node has, again and again, until it stops.
pub(super) fn follow(
    metrics: Arc<Metrics>,
    raft: Raft,
    sandboxes: Sandboxes,
    instances: Instances,
    images: Store,
    traffic: Traffic,
    stop: CancellationToken,
) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    tokio::spawn(async move {
        for look in 0_u64.. {
            let figures = raft.metrics();
            metrics.cluster.set_log(&figures, &raft.members(), raft.is_leader());
            raft.read(|state| metrics.cluster.set_state(state));
            metrics.wal_size.set(number(figures.wal_bytes));
            for (network, kind) in [(Network::None, "blank"), (Network::Egress, "egress")] {
                let blanks = i64::try_from(sandboxes.blank_count(network)).unwrap_or(i64::MAX);
                metrics.pool_blanks.get_or_create(&BlankLabel { kind: kind.to_owned() }).set(blanks);
            }
            let exchanged = images.peer_traffic();
            count_up(&metrics.image_fetched, exchanged.fetched_bytes());
            count_up(&metrics.image_served, exchanged.served_bytes());
            if look.is_multiple_of(IMAGE_LOOKS) {
                let store = images.clone();
                let size = tokio::task::spawn_blocking(move || store.size_bytes()).await;
                metrics.image_size.set(number(size.map_err(io::Error::other).flatten().unwrap_or(0)));
            }
            let live: Vec<RevisionId> = raft.read(|state| {
                let functions = state.functions.iter();
                functions
                    .filter_map(|(name, function)| Some(RevisionId { function: name.clone(), number: function.live? }))
                    .collect()
            });
            for revision in live {
                metrics.queue_length(&revision.function, traffic.load(&revision).map_or(0, |load| load.queued));
            }
            let views = instances.list();
            for (phase, label) in [
                (Phase::Starting, InstancePhase::Starting),
                (Phase::Ready, InstancePhase::Ready),
                (Phase::Draining, InstancePhase::Draining),
                (Phase::Stopping, InstancePhase::Stopping),
            ] {
                metrics.instances(label, views.iter().filter(|view| view.phase == phase).count());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    });
}
