//! What dispatch promises, as sentences.

use super::*;

fn limits(concurrency: u16, instances_max: u32, queue_max: usize) -> Limits {
    let concurrency = Concurrency::new(concurrency).expect("the tests use valid concurrencies");
    Limits { concurrency, instances_max, queue_max }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn instance(number: u32) -> InstanceId {
    InstanceId::placed(number)
}

fn arrived(number: u128) -> Input {
    Input::Arrived { invocation: InvocationId(number), deadline: at(1_000_000) }
}

fn ready(number: u32) -> Input {
    Input::Ready { instance: instance(number), keep: Some(Duration::from_secs(60)) }
}

fn run(invocation: u128, number: u32) -> Effect {
    Effect::Run { invocation: InvocationId(invocation), instance: instance(number) }
}

#[test]
fn a_call_without_an_instance_waits_for_one_that_is_started() {
    let mut dispatch = Dispatch::new(limits(1, 10, 10));
    assert_eq!(dispatch.on_input(at(0), arrived(1)), [Effect::Want { starting: 1 }]);
    assert_eq!(dispatch.on_input(at(1), ready(1)), [run(1, 1)]);
    assert_eq!(dispatch.wanted(), 0);
}

#[test]
fn the_most_recently_used_instance_is_taken() {
    let mut dispatch = Dispatch::new(limits(1, 10, 10));
    for number in 1..=3 {
        dispatch.on_input(at(0), ready(number));
    }
    dispatch.on_input(at(1), arrived(1));
    dispatch.on_input(at(1), arrived(2));
    dispatch.on_input(at(2), Input::Finished { invocation: InvocationId(1) });
    assert_eq!(dispatch.on_input(at(3), arrived(3)), [run(3, 3)], "instance 3 worked last");
}

#[test]
fn a_waiting_call_takes_the_first_slot_that_is_free() {
    let mut dispatch = Dispatch::new(limits(1, 10, 10));
    dispatch.on_input(at(0), ready(1));
    dispatch.on_input(at(0), arrived(1));
    assert_eq!(dispatch.on_input(at(0), arrived(2)), [Effect::Want { starting: 1 }]);
    let effects = dispatch.on_input(at(5), Input::Finished { invocation: InvocationId(1) });
    assert_eq!(effects, [run(2, 1), Effect::Want { starting: 0 }], "and the start is not wanted any more");
}

#[test]
fn a_full_queue_and_a_passed_deadline_refuse() {
    let mut dispatch = Dispatch::new(limits(1, 1, 1));
    dispatch.on_input(at(0), arrived(1));
    let refusal = |invocation, reason| Effect::Refuse { invocation: InvocationId(invocation), reason };
    assert_eq!(dispatch.on_input(at(0), arrived(2)), [refusal(2, Refusal::QueueFull)]);
    assert_eq!(dispatch.wake_at(), Some(at(1_000_000)));
    let effects = dispatch.on_input(at(1_000_000), Input::Woke);
    assert_eq!(effects, [refusal(1, Refusal::Deadline), Effect::Want { starting: 0 }]);
}

#[test]
fn an_idle_instance_goes_after_its_keep_alive_and_not_before() {
    let mut dispatch = Dispatch::new(limits(1, 10, 10));
    dispatch.on_input(at(0), ready(1));
    dispatch.on_input(at(50_000), arrived(1));
    assert_eq!(dispatch.on_input(at(60_000), Input::Woke), []);
    dispatch.on_input(at(70_000), Input::Finished { invocation: InvocationId(1) });
    assert_eq!(dispatch.wake_at(), Some(at(130_000)));
    assert_eq!(dispatch.on_input(at(129_999), Input::Woke), []);
    assert_eq!(dispatch.on_input(at(130_000), Input::Woke), [Effect::Retire { instance: instance(1) }]);
    assert_eq!(dispatch.wake_at(), None);
}

#[test]
fn a_draining_instance_finishes_what_it_has_and_gets_no_more() {
    let mut dispatch = Dispatch::new(limits(2, 10, 10));
    dispatch.on_input(at(0), ready(1));
    dispatch.on_input(at(0), arrived(1));
    assert_eq!(dispatch.on_input(at(1), Input::Drain { instance: instance(1) }), []);
    assert_eq!(dispatch.on_input(at(2), arrived(2)), [Effect::Want { starting: 1 }]);
    let effects = dispatch.on_input(at(3), Input::Finished { invocation: InvocationId(1) });
    assert_eq!(effects, [Effect::Retire { instance: instance(1) }]);
}

#[test]
fn a_burst_grows_by_twice_what_is_there_per_window() {
    let mut dispatch = Dispatch::new(limits(1, 1000, 1000));
    for number in 0..500 {
        dispatch.on_input(at(0), arrived(number));
    }
    // Sixteen at once, and within the same window twice as many again.
    assert_eq!(dispatch.wanted(), 48);
    assert_eq!(dispatch.wake_at(), Some(at(100)));
    dispatch.on_input(at(100), Input::Woke);
    assert_eq!(dispatch.wanted(), 144);
    dispatch.on_input(at(200), Input::Woke);
    assert_eq!(dispatch.wanted(), 432);
    dispatch.on_input(at(300), Input::Woke);
    assert_eq!(dispatch.wanted(), 500);
}

#[test]
fn never_more_instances_are_wanted_than_allowed() {
    let mut dispatch = Dispatch::new(limits(1, 3, 100));
    dispatch.on_input(at(0), ready(1));
    for number in 0..50 {
        dispatch.on_input(at(0), arrived(number));
    }
    assert_eq!(dispatch.wanted(), 2);
}

#[test]
fn a_declined_start_refuses_only_those_that_nothing_will_serve() {
    let reason = DeclineReason::NoCapacity("memory".to_owned());
    let mut dispatch = Dispatch::new(limits(1, 10, 10));
    dispatch.on_input(at(0), ready(1));
    dispatch.on_input(at(0), arrived(1));
    dispatch.on_input(at(0), arrived(2));
    assert_eq!(dispatch.on_input(at(1), Input::Declined { reason: reason.clone() }), []);
    assert_eq!(dispatch.wake_at(), Some(at(101)), "who still waits asks again");
    assert_eq!(dispatch.on_input(at(101), Input::Woke), [Effect::Want { starting: 1 }]);
    dispatch.on_input(at(102), Input::Gone { instance: instance(1) });
    let effects = dispatch.on_input(at(103), Input::Declined { reason: reason.clone() });
    assert_eq!(effects, [Effect::Refuse { invocation: InvocationId(2), reason: Refusal::Declined(reason) }]);
}

#[test]
fn calls_that_are_served_sooner_than_a_start_would_take_start_nothing() {
    let mut dispatch = Dispatch::new(limits(1, 100, 1000));
    dispatch.on_input(at(0), ready(1));
    // Calls take 5 ms, and a start is thought to take 50.
    dispatch.on_input(at(0), arrived(1));
    dispatch.on_input(at(5), Input::Finished { invocation: InvocationId(1) });
    for number in 2..=12 {
        dispatch.on_input(at(10), arrived(number));
    }
    assert_eq!((dispatch.queued(), dispatch.wanted()), (10, 0));
    dispatch.on_input(at(10), arrived(13));
    assert_eq!(dispatch.wanted(), 1, "the eleventh would wait for longer");
    for number in 14..=22 {
        dispatch.on_input(at(10), arrived(number));
    }
    assert_eq!(dispatch.wanted(), 1, "one start serves as many again");
    dispatch.on_input(at(10), arrived(23));
    assert_eq!(dispatch.wanted(), 2);
}

#[test]
fn nobody_waits_for_an_instance_that_is_busy_for_longer_than_a_start_takes() {
    let mut dispatch = Dispatch::new(limits(1, 100, 1000));
    dispatch.on_input(at(0), ready(1));
    dispatch.on_input(at(0), arrived(1));
    dispatch.on_input(at(1), Input::Finished { invocation: InvocationId(1) });
    // The next one is not short as the first was.
    dispatch.on_input(at(10), arrived(2));
    for number in 3..13 {
        dispatch.on_input(at(20), arrived(number));
    }
    assert_eq!((dispatch.wanted(), dispatch.wake_at()), (0, Some(at(60))));
    assert_eq!(dispatch.on_input(at(60), Input::Woke), [Effect::Want { starting: 10 }], "nor are they taken for short");
}
