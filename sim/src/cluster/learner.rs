//! What the learners of an idle cluster are spared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control_plane::model::{Bytes, FeatureLevel, MilliCpu, Resources};
use openraft::async_runtime::WatchReceiver;

use super::{Machine, World};
use crate::raft::{self, Oracle, runtime};
use crate::swarm::Swarm;

/// How long a cluster is left alone until it is idle, and then watched.
const ALONE: Duration = Duration::from_secs(5);

/// How often it is looked at: more often than there are heartbeats.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[test]
fn a_learner_gets_one_heartbeat_in_ten_and_a_voter_every_one() {
    runtime::begin(1);
    let replicas = raft::Swarm { founders: 1, ..raft::Swarm::calm(6) };
    let mut world = World::new(1, replicas, Swarm::calm(), Oracle::default(), false);
    let capacity = Resources { cpu: MilliCpu(1_000), memory: Bytes::mebi(512), disk: Bytes(1 << 40), pids: 1 << 20 };
    let machines: Vec<Machine> =
        (0..6).map(|_| Machine { capacity, zone: String::new(), features: FeatureLevel::NEWEST }).collect();
    assert!(world.form(&machines), "nothing goes wrong");
    world.run_until(world.now() + ALONE);
    let leader = world.replicas().agreed_leader().expect("nothing has gone wrong");
    let voting = world.replicas().voting(leader);
    let core = world.replicas().core(leader).expect("it runs");
    let mut acknowledged: BTreeMap<u64, BTreeSet<_>> = BTreeMap::new();
    for _ in 0..ALONE.as_millis() / LOOK_EVERY.as_millis() {
        world.run_until(world.now() + LOOK_EVERY);
        let watched = core.metrics();
        let metrics = watched.borrow_watched();
        for (node, at) in metrics.heartbeat.iter().flatten().filter(|(node, _)| **node != leader) {
            acknowledged.entry(*node).or_default().extend(*at);
        }
    }
    drop(core);
    world.switch_off();
    runtime::end();
    assert_eq!(acknowledged.len(), 5, "every other node is one of them");
    for (node, times) in acknowledged {
        let expected = if voting.contains(&node) { 80..=110 } else { 8..=12 };
        assert!(expected.contains(&times.len()), "node-{node} has acknowledged {} heartbeats", times.len());
    }
}
