//! What the controller promises, as sentences.

mod grants;
mod liveness;

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::model::{
    Bytes, Concurrency, Constraints, Digest, FeatureLevel, FunctionSpec, InstanceFailure, MilliCpu, Network, NodeSpec,
    Purpose, Resources, RevisionNumber, RevisionSpec, Runtime, Scaling,
};
use crate::state::RevisionStatus;

const NODE: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// What every node has.
const ALL: Resources =
    Resources { cpu: MilliCpu(10_000), memory: Bytes::mebi(1000), disk: Bytes::mebi(1000), pids: 1000 };

/// A state and its leader, with an ideal log between them.
struct Cluster {
    state: State,
    controller: Controller,
    now: Timestamp,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster =
            Self { state: State::default(), controller: Controller::new(NODE), now: Timestamp::from_millis(1) };
        cluster.register(NODE);
        cluster
    }

    fn register(&mut self, node: NodeId) {
        let features = FeatureLevel::NEWEST;
        let spec = NodeSpec { name: node.to_string(), capacity: ALL, labels: BTreeMap::new(), features };
        self.command(Command::RegisterNode { node, spec });
    }

    fn hear(&mut self, node: NodeId, epoch: u32) {
        self.beat(node, epoch, Vec::new());
    }

    /// Lets time pass as its driver does: the controller looks whenever it said so.
    fn pass(&mut self, wait: Duration) {
        let until = self.now + wait;
        while let Some(at) = self.controller.wake_at().filter(|at| *at <= until) {
            self.wake_after(at.since(self.now));
        }
        self.now = until;
    }

    fn on(&self, node: NodeId) -> usize {
        self.state.placements.values().filter(|placement| placement.node == node).count()
    }

    /// Applies a command and everything that the controller proposes because of it.
    fn command(&mut self, command: Command) {
        let reply = self.state.apply(self.now, command);
        assert!(reply.is_ok(), "{reply:?}");
        let effects = self.controller.on_input(self.now, Input::Applied(&self.state));
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let Effect::Propose(command) = effect else { continue };
            let answer = self.state.apply(self.now, command.clone());
            let effects = self.controller.on_input(self.now, Input::Answered(&self.state, command, answer));
            self.carry_out(effects);
        }
    }

    fn report(&mut self, event: ReportEvent) {
        let epoch = self.state.nodes[&NODE].epoch.0;
        self.beat(NODE, epoch, vec![event]);
    }

    fn beat(&mut self, node: NodeId, epoch: u32, events: Vec<ReportEvent>) {
        let beat = Beat { node, epoch: Epoch(epoch), events };
        let effects = self.controller.on_input(self.now, Input::Heard(&self.state, beat));
        self.carry_out(effects);
    }

    fn wake_after(&mut self, wait: Duration) {
        self.now = self.now + wait;
        let effects = self.controller.on_input(self.now, Input::Woke(&self.state));
        self.carry_out(effects);
    }

    fn deploy(&mut self, image: u8, min: u32) {
        let revision = RevisionSpec {
            runtime: Runtime::Provided,
            image: Digest::from_bytes([image; 32]),
            command: Vec::new(),
            handler: None,
            environment: BTreeMap::new(),
            resources: Resources { cpu: MilliCpu(10), memory: Bytes::mebi(10), disk: Bytes::mebi(10), pids: 10 },
            timeout: Duration::from_secs(1),
            concurrency: Concurrency::ONE,
            network: Network::None,
            user: Some(1000),
            placement: Constraints::default(),
        };
        let scaling = Scaling::new(min, 10, Duration::from_secs(60)).expect("the limits are valid");
        let spec = FunctionSpec { name: "f".parse().expect("a name"), revision, scaling, triggers: Vec::new() };
        let app = "app".parse().expect("a name");
        self.command(Command::DeployApp { app, functions: vec![spec], check_index: None });
    }

    /// Reports every placed instance of a revision ready.
    fn all_ready(&mut self, number: u32) {
        let revision = id(number);
        for instance in self.placed(number) {
            let node = self.state.placements[&instance].node;
            let epoch = self.state.nodes[&node].epoch.0;
            self.beat(node, epoch, vec![ReportEvent::Ready { instance, revision: revision.clone() }]);
        }
    }

    fn placed(&self, number: u32) -> Vec<InstanceId> {
        let placements = self.state.placements.iter();
        placements.filter(|(_, placement)| placement.revision == id(number)).map(|(instance, _)| *instance).collect()
    }

    fn live(&self) -> Option<u32> {
        self.state.functions.values().next().and_then(|function| function.live).map(|number| number.0)
    }
}

fn id(number: u32) -> RevisionId {
    RevisionId { function: "f".parse().expect("a name"), number: RevisionNumber(number) }
}

#[test]
fn a_candidate_becomes_live_once_an_instance_of_it_is_ready() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    assert_eq!((cluster.live(), cluster.placed(1).len()), (None, 1));
    cluster.all_ready(1);
    assert_eq!(cluster.live(), Some(1));
}

#[test]
fn a_candidate_whose_code_fails_never_becomes_live() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    cluster.deploy(2, 0);
    let failure = InstanceFailure::Init("no module".to_owned());
    for instance in cluster.placed(2) {
        cluster.report(ReportEvent::StartFailed { instance, revision: id(2), failure: failure.clone() });
    }
    assert_eq!(cluster.live(), Some(1));
    let status = cluster.state.revision(&id(2)).map(|revision| revision.status.clone());
    assert!(matches!(status, Some(RevisionStatus::Failed(reason)) if reason.contains("no module")));
    assert!(cluster.placed(2).is_empty(), "its placements are taken back");
}

#[test]
fn the_revision_before_gives_way_only_after_the_switch() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    cluster.deploy(2, 0);
    assert_eq!(cluster.placed(1).len(), 1, "the old one still serves");
    cluster.all_ready(2);
    assert_eq!((cluster.live(), cluster.placed(1).len()), (Some(2), 0));
}

#[test]
fn the_minimum_is_placed_and_taken_back() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 3);
    cluster.all_ready(1);
    let minimum = |cluster: &Cluster| {
        cluster.state.placements.values().filter(|placement| placement.purpose == Purpose::Minimum).count()
    };
    assert_eq!(minimum(&cluster), 3);
    let scaling = Scaling::new(1, 10, Duration::from_secs(60)).expect("the limits are valid");
    cluster.command(Command::Scale { function: "f".parse().expect("a name"), change: scaling.into() });
    assert_eq!(minimum(&cluster), 1);
}

#[test]
fn a_candidate_that_never_becomes_ready_is_given_up() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.wake_after(Duration::from_secs(121));
    let status = cluster.state.revision(&id(1)).map(|revision| revision.status.clone());
    assert!(matches!(status, Some(RevisionStatus::Failed(_))), "{status:?}");
}

#[test]
fn a_promotion_that_comes_too_late_does_not_forget_the_newer_candidate() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    cluster.deploy(2, 0);
    cluster.deploy(3, 0);
    let late = cluster.state.apply(cluster.now, Command::Promote { revision: id(2) });
    assert_eq!(late, Err(Rejection::NotProved(id(2))));
    cluster.all_ready(3);
    assert_eq!(cluster.live(), Some(3));
}

#[test]
fn a_node_adopts_only_what_it_started_itself() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    let (instance, epoch) = (InstanceId::placed(7), cluster.state.nodes[&NODE].epoch);
    let foreign = Command::Adopt { node: NODE, epoch, instances: vec![(instance, id(1))] };
    let refused = Err(Rejection::ForeignInstance { node: NODE, instance });
    assert_eq!(cluster.state.apply(cluster.now, foreign), refused);
}

#[test]
fn a_name_that_is_taken_again_goes_on_counting() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    let left_over = cluster.placed(1);
    // Both are applied before any agent looks, so the instance of the deleted function still runs.
    let deleted = cluster.state.apply(cluster.now, Command::DeleteFunction { function: id(1).function });
    assert!(deleted.is_ok());
    cluster.deploy(2, 0);
    assert_eq!(cluster.state.functions[&id(1).function].candidate, Some(RevisionNumber(2)));
    for instance in left_over {
        assert!(!cluster.state.placements.contains_key(&instance), "{instance} runs what nobody wants");
    }
}

#[test]
fn a_draining_node_loses_its_minimum_once_that_is_ready_elsewhere() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 2);
    cluster.all_ready(1);
    let before = cluster.on(NODE);
    assert!(before >= 2);
    cluster.register(OTHER);
    cluster.command(Command::Drain { node: NODE, is_draining: true });
    assert_eq!((cluster.on(NODE), cluster.on(OTHER)), (2, 2), "the replacements start first");
    assert_eq!(cluster.state.nodes[&NODE].grant, Resources::default());
    cluster.all_ready(1);
    assert_eq!((cluster.on(NODE), cluster.on(OTHER)), (0, 2));
    cluster.command(Command::Drain { node: NODE, is_draining: false });
    assert_ne!(cluster.state.nodes[&NODE].grant, Resources::default(), "it may start things again");
}

#[test]
fn an_instance_that_becomes_ready_is_no_reason_to_look_at_everything() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    let scaling = Scaling::new(3, 10, Duration::from_secs(60)).expect("the limits are valid");
    let scale = Command::Scale { function: id(1).function, change: scaling.into() };
    cluster.state.apply(cluster.now, scale).expect("it scales");
    cluster.all_ready(1);
    assert_eq!(cluster.placed(1).len(), 1, "the look comes with the state");
    let effects = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
    cluster.carry_out(effects);
    assert_eq!(cluster.placed(1).len(), 4);
}

#[test]
fn a_whole_minimum_is_one_entry_of_the_log() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    let index = cluster.state.index;
    let scaling = Scaling::new(9, 10, Duration::from_secs(60)).expect("the limits are valid");
    cluster
        .state
        .apply(cluster.now, Command::Scale { function: id(1).function, change: scaling.into() })
        .expect("it scales");
    let effects = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
    let batches: Vec<usize> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::NotPlaced { .. } => None,
            Effect::Propose(command) => Some(command),
        })
        .filter_map(|command| match command {
            Command::PlaceMany { places } => Some(places.len()),
            _ => None,
        })
        .collect();
    assert_eq!((batches, cluster.state.index), (vec![9], index + 1));
    cluster.carry_out(effects);
    assert_eq!(cluster.placed(1).len(), 10, "nine, and the one that proved it");
}

#[test]
fn what_fits_nowhere_is_told_once_in_a_while() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    let scaling = Scaling::new(200, 1000, Duration::from_secs(60)).expect("the limits are valid");
    let scale = Command::Scale { function: id(1).function, change: scaling.into() };
    cluster.state.apply(cluster.now, scale).expect("it scales");
    let mut told = 0;
    for minute in 1..=3 {
        for _ in 0..20 {
            // Something else has changed, so that it is tried again.
            cluster.state.index += 1;
            let effects = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
            told += effects.iter().filter(|effect| matches!(effect, Effect::NotPlaced { .. })).count();
            cluster.carry_out(effects);
        }
        assert_eq!(told, minute, "with its reason, and not with every try");
        cluster.now = cluster.now + Duration::from_secs(60);
    }
}

#[test]
fn what_is_refused_of_a_batch_rests_and_is_asked_for_again() {
    let mut cluster = Cluster::new();
    cluster.deploy(1, 0);
    cluster.all_ready(1);
    let scaling = Scaling::new(2, 10, Duration::from_secs(60)).expect("the limits are valid");
    cluster
        .state
        .apply(cluster.now, Command::Scale { function: id(1).function, change: scaling.into() })
        .expect("it scales");
    let mut effects = cluster.controller.on_input(cluster.now, Input::Applied(&cluster.state));
    let Some(Effect::Propose(batch)) = effects.pop() else { panic!("a batch is proposed") };
    let rejection = Rejection::NoNode(NODE);
    let placed = vec![Err(rejection.clone()), Err(rejection)];
    let answer = Input::Answered(&cluster.state, batch.clone(), Ok(Reply::PlacedMany { placed }));
    assert_eq!(cluster.controller.on_input(cluster.now, answer), []);
    let later = cluster.controller.wake_at().expect("it is asked for again");
    let again = cluster.controller.on_input(later, Input::Woke(&cluster.state));
    assert_eq!(again, [Effect::Propose(batch)]);
}

#[test]
fn a_node_speaks_for_its_own_instances_and_in_its_own_epoch() {
    let mut cluster = Cluster::new();
    cluster.register(OTHER);
    cluster.deploy(1, 0);
    let [instance] = cluster.placed(1)[..] else { panic!("one proves it") };
    let owner = cluster.state.placements[&instance].node;
    let stranger = if owner == NODE { OTHER } else { NODE };
    let ready = ReportEvent::Ready { instance, revision: id(1) };
    let failure = InstanceFailure::Init("no module".to_owned());
    let failed = ReportEvent::StartFailed { instance, revision: id(1), failure };
    for (node, epoch) in [(stranger, 1), (owner, 0), (owner, 2)] {
        cluster.beat(node, epoch, vec![ready.clone(), failed.clone()]);
        let function = cluster.state.functions.values().next().expect("it is deployed");
        assert_eq!((function.live, function.candidate), (None, Some(RevisionNumber(1))), "{node} in epoch {epoch}");
    }
    cluster.beat(owner, 1, vec![ready]);
    assert_eq!(cluster.live(), Some(1));
}
