//! What the supervisor promises, as sentences.

use std::time::Duration;

use super::*;
use crate::model::{Bytes, RevisionNumber};

const NODE: NodeId = NodeId(1);

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn revision() -> RevisionId {
    RevisionId { function: "resize".parse().expect("the name is valid"), number: RevisionNumber(1) }
}

fn memory(mebi: u64) -> Resources {
    Resources { memory: Bytes::mebi(mebi), ..Resources::default() }
}

fn desired_with(grant_mebi: u64) -> Desired {
    let scaling = Scaling::new(0, 10, Duration::from_secs(60)).expect("the limits are valid");
    Desired {
        epoch: Epoch(1),
        is_dead: false,
        grant: memory(grant_mebi),
        placements: BTreeMap::new(),
        revisions: BTreeMap::from([(
            revision(),
            DesiredRevision { resources: memory(100), scaling, role: Role::Live },
        )]),
    }
}

fn supervisor(grant_mebi: u64) -> Supervisor {
    let mut supervisor = Supervisor::new(NODE);
    supervisor.on_input(at(0), Input::Recovered { instances: Vec::new() });
    supervisor.on_input(at(0), Input::Desired(desired_with(grant_mebi)));
    supervisor
}

fn wanted(starting: u32) -> Input {
    Input::Wanted { revision: revision(), starting }
}

fn granted(sequence: u32) -> InstanceId {
    InstanceId::granted(NODE, Epoch(1), sequence)
}

fn start(sequence: u32) -> Effect {
    Effect::Start { instance: granted(sequence), revision: revision(), purpose: Purpose::Demand }
}

#[test]
fn what_is_wanted_starts_at_once_inside_the_grant() {
    let mut supervisor = supervisor(250);
    assert_eq!(supervisor.on_input(at(1), wanted(3)), [start(1), start(2)], "a third does not fit");
}

#[test]
fn what_does_not_fit_at_all_is_declined() {
    let effects = supervisor(50).on_input(at(1), wanted(1));
    assert!(matches!(&effects[..], [Effect::Decline { reason: DeclineReason::NoCapacity(_), .. }]), "{effects:?}");
}

#[test]
fn what_is_wanted_waits_for_the_first_grant_but_not_for_ever() {
    let mut supervisor = Supervisor::new(NODE);
    supervisor.on_input(at(0), Input::Recovered { instances: Vec::new() });
    supervisor.on_input(at(1), Input::Desired(desired_with(0)));
    assert_eq!(supervisor.on_input(at(2), wanted(1)), []);
    let mut granted = supervisor.clone();
    assert_eq!(granted.on_input(at(3), Input::Desired(desired_with(1000))), [start(1)]);
    let until = supervisor.wake_at().expect("it does not wait for ever");
    let effects = supervisor.on_input(until, Input::Woke);
    assert!(matches!(&effects[..], [Effect::Decline { reason: DeclineReason::NoCapacity(_), .. }]), "{effects:?}");
}

#[test]
fn a_ready_instance_is_reported_and_adopted_in_a_batch() {
    let mut supervisor = supervisor(1000);
    supervisor.on_input(at(1), wanted(2));
    let effects = supervisor.on_input(at(2), Input::Started { instance: granted(1) });
    assert!(matches!(&effects[..], [Effect::Serve { .. }, Effect::Report(_)]), "{effects:?}");
    supervisor.on_input(at(3), Input::Started { instance: granted(2) });
    let due = supervisor.wake_at().expect("an adoption is due");
    let instances = vec![(granted(1), revision()), (granted(2), revision())];
    let adopt = Effect::Propose(Command::Adopt { node: NODE, epoch: Epoch(1), instances });
    assert_eq!(supervisor.on_input(due, Input::Woke), [adopt]);
}

#[test]
fn a_failing_start_is_declined_and_waits_before_it_is_tried_again() {
    let mut supervisor = supervisor(1000);
    supervisor.on_input(at(1), wanted(1));
    let failure = InstanceFailure::Init("no module".to_owned());
    let effects = supervisor.on_input(at(2), Input::StartFailed { instance: granted(1), failure: failure.clone() });
    let declined = Effect::Decline { revision: revision(), reason: DeclineReason::Failing(failure) };
    assert!(effects.contains(&declined), "{effects:?}");
    assert_eq!(supervisor.on_input(at(3), wanted(1)), [declined], "at once, without a start");
    assert_eq!(supervisor.on_input(at(500), wanted(1)), [start(2)], "the wait is over");
}

#[test]
fn a_node_that_was_given_up_proposes_nothing_and_wakes_for_nothing() {
    let mut supervisor = supervisor(1000);
    supervisor.on_input(at(1), wanted(1));
    supervisor.on_input(at(2), Input::Started { instance: granted(1) });
    let due = supervisor.wake_at().expect("an adoption is due");
    assert_eq!(supervisor.on_input(at(3), Input::Desired(Desired { is_dead: true, ..desired_with(0) })), []);
    assert_eq!(supervisor.on_input(due, Input::Woke), []);
    assert_eq!(supervisor.wake_at(), None, "until it has registered again");
}

#[test]
fn a_node_that_was_removed_drains_all_it_has_and_starts_nothing() {
    let mut supervisor = supervisor(1000);
    supervisor.on_input(at(1), wanted(1));
    supervisor.on_input(at(2), Input::Started { instance: granted(1) });
    let drain = Effect::Drain { instance: granted(1), revision: revision() };
    assert_eq!(supervisor.on_input(at(3), Input::Removed), [drain]);
    let effects = supervisor.on_input(at(4), wanted(1));
    assert!(matches!(&effects[..], [Effect::Decline { .. }]), "{effects:?}");
    let mut at_last = Vec::new();
    for _ in 0..10 {
        let Some(due) = supervisor.wake_at() else { break };
        at_last.extend(supervisor.on_input(due, Input::Woke));
    }
    assert_eq!(at_last, [Effect::Stop { instance: granted(1) }], "nobody is asked to adopt it");
    assert_eq!(supervisor.wake_at(), None);
}

#[test]
fn what_the_state_does_not_place_any_more_drains_and_stops() {
    let mut supervisor = supervisor(1000);
    let placed = InstanceId::placed(1);
    let mut with = desired_with(900);
    with.placements.insert(placed, (revision(), Purpose::Minimum));
    let effects = supervisor.on_input(at(1), Input::Desired(with));
    assert_eq!(effects, [Effect::Start { instance: placed, revision: revision(), purpose: Purpose::Minimum }]);
    supervisor.on_input(at(2), Input::Started { instance: placed });
    let effects = supervisor.on_input(at(3), Input::Desired(desired_with(1000)));
    assert_eq!(effects, [Effect::Drain { instance: placed, revision: revision() }]);
    assert_eq!(supervisor.on_input(at(4), Input::Retired { instance: placed }), [Effect::Stop { instance: placed }]);
    assert_eq!(supervisor.on_input(at(5), Input::Ended { instance: placed, ending: Ending::Stopped }), []);
    assert_eq!(supervisor.instances(), 0);
}

#[test]
fn what_an_earlier_epoch_started_and_is_gone_is_released_as_lost() {
    let mut supervisor = Supervisor::new(NODE);
    supervisor.on_input(at(0), Input::Recovered { instances: Vec::new() });
    let mut with = desired_with(900);
    with.epoch = Epoch(2);
    with.placements.insert(granted(7), (revision(), Purpose::Demand));
    supervisor.on_input(at(1), Input::Desired(with));
    let due = supervisor.wake_at().expect("a release is due");
    let instances = vec![(granted(7), Ending::Lost)];
    let release = Effect::Propose(Command::Release { node: NODE, epoch: Epoch(2), instances });
    assert_eq!(supervisor.on_input(due, Input::Woke), [release]);
}

#[test]
fn a_log_that_stands_still_is_no_reason_to_give_an_instance_up() {
    let mut supervisor = supervisor(1000);
    supervisor.on_input(at(1), wanted(1));
    supervisor.on_input(at(2), Input::Started { instance: granted(1) });
    for seconds in 1..60 {
        let effects = supervisor.on_input(at(seconds * 1000), Input::Woke);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Drain { .. })), "after {seconds} s: {effects:?}");
    }
}

#[test]
fn an_adoption_that_a_moving_log_refuses_is_given_up() {
    let mut supervisor = supervisor(1000);
    supervisor.on_input(at(1), wanted(1));
    supervisor.on_input(at(2), Input::Started { instance: granted(1) });
    let drained = (1..60).find(|seconds| {
        let effects = supervisor.on_input(at(seconds * 1000), Input::Desired(desired_with(1000)));
        effects.iter().any(|effect| matches!(effect, Effect::Drain { .. }))
    });
    assert!(drained.is_some_and(|seconds| seconds < 20), "{drained:?}");
}

#[test]
fn a_ready_instance_of_a_candidate_is_reported_until_the_leader_has_decided() {
    let mut supervisor = Supervisor::new(NODE);
    supervisor.on_input(at(0), Input::Recovered { instances: Vec::new() });
    let mut proving = desired_with(900);
    proving.placements.insert(InstanceId::placed(1), (revision(), Purpose::Verify));
    for known in proving.revisions.values_mut() {
        known.role = Role::Candidate;
    }
    supervisor.on_input(at(1), Input::Desired(proving.clone()));
    let event = ReportEvent::Ready { instance: InstanceId::placed(1), revision: revision() };
    let report = Effect::Report(Report { node: NODE, event });
    let effects = supervisor.on_input(at(2), Input::Started { instance: InstanceId::placed(1) });
    assert!(effects.contains(&report), "{effects:?}");
    let again = supervisor.wake_at().expect("it is reported again");
    assert_eq!(supervisor.on_input(again, Input::Woke), [report]);
    for known in proving.revisions.values_mut() {
        known.role = Role::Live;
    }
    supervisor.on_input(again, Input::Desired(proving));
    assert_eq!(supervisor.wake_at(), None, "it is live: nothing is left to tell");
}

#[test]
fn what_the_leader_took_back_while_the_agent_was_away_is_not_adopted() {
    let mut supervisor = Supervisor::new(NODE);
    let placed = InstanceId::placed(1);
    let survivor = Survivor { instance: placed, revision: revision(), resources: memory(100) };
    supervisor.on_input(at(0), Input::Recovered { instances: vec![survivor] });
    assert_eq!(supervisor.on_input(at(1), Input::Desired(desired_with(1000))), [Effect::Stop { instance: placed }]);
}

#[test]
fn what_outlived_the_agent_holds_its_room_although_nobody_wants_its_revision() {
    let mut supervisor = Supervisor::new(NODE);
    let old = RevisionId { number: RevisionNumber(0), ..revision() };
    let survivor = Survivor { instance: granted(7), revision: old, resources: memory(150) };
    supervisor.on_input(at(0), Input::Recovered { instances: vec![survivor] });
    supervisor.on_input(at(1), Input::Desired(Desired { epoch: Epoch(2), ..desired_with(300) }));
    let started = supervisor.on_input(at(2), wanted(2));
    assert_eq!(started.len(), 1, "there is room for one beside it: {started:?}");
}

#[test]
fn an_instance_that_was_ready_too_late_serves_nobody() {
    let mut supervisor = supervisor(1000);
    let placed = InstanceId::placed(1);
    let mut with = desired_with(900);
    with.placements.insert(placed, (revision(), Purpose::Minimum));
    supervisor.on_input(at(1), Input::Desired(with));
    assert_eq!(supervisor.on_input(at(2), Input::Desired(desired_with(1000))), [Effect::Stop { instance: placed }]);
    assert_eq!(supervisor.on_input(at(3), Input::Started { instance: placed }), []);
}

#[test]
fn a_node_that_was_given_up_goes_on_and_is_adopted_again_once_it_has_registered() {
    let mut supervisor = supervisor(1000);
    let placed = InstanceId::placed(1);
    let mut agreed = desired_with(800);
    agreed.placements = BTreeMap::from([(placed, (revision(), Purpose::Minimum))]);
    supervisor.on_input(at(1), Input::Desired(agreed.clone()));
    supervisor.on_input(at(1), wanted(2));
    for instance in [granted(1), placed] {
        supervisor.on_input(at(2), Input::Started { instance });
    }
    agreed.placements.insert(granted(1), (revision(), Purpose::Demand));
    supervisor.on_input(at(3), Input::Desired(agreed));

    let dead = Desired { epoch: Epoch(2), is_dead: true, ..desired_with(0) };
    let effects = supervisor.on_input(at(5000), Input::Desired(dead.clone()));
    assert_eq!(
        effects,
        [Effect::Drain { instance: placed, revision: revision() }],
        "what was placed is placed anew elsewhere"
    );
    let effects = supervisor.on_input(at(9000), Input::Desired(dead));
    assert_eq!(effects, [], "nobody takes what a dead node says");

    let back = Desired { epoch: Epoch(3), ..desired_with(500) };
    supervisor.on_input(at(9001), Input::Desired(back));
    let due = supervisor.wake_at().expect("an adoption is due");
    let adopt = Command::Adopt { node: NODE, epoch: Epoch(3), instances: vec![(granted(1), revision())] };
    assert!(supervisor.on_input(due, Input::Woke).contains(&Effect::Propose(adopt)));
}
