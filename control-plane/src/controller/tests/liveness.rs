//! Whom the controller suspects and gives up.

use super::*;

#[test]
fn a_silent_node_is_given_up_and_its_minimum_is_placed_elsewhere() {
    let mut cluster = Cluster::new();
    cluster.register(OTHER);
    cluster.command(Command::Drain { node: NODE, is_draining: true });
    cluster.deploy(1, 4);
    cluster.all_ready(1);
    cluster.command(Command::Drain { node: NODE, is_draining: false });
    assert_eq!((cluster.on(OTHER), cluster.on(NODE)), (5, 0), "four and the one that proved it");
    for _ in 0..20 {
        cluster.pass(Duration::from_millis(500));
        cluster.hear(OTHER, 1);
    }
    assert!(!cluster.state.nodes[&OTHER].is_dead, "it was heard of all the time");

    cluster.pass(DEAD_AFTER - Duration::from_millis(1));
    assert!(!cluster.state.nodes[&OTHER].is_dead);
    cluster.pass(Duration::from_millis(1));
    assert!(cluster.state.nodes[&OTHER].is_dead);
    assert_eq!((cluster.on(OTHER), cluster.on(NODE)), (0, 4));
    assert_eq!(cluster.state.nodes[&OTHER].grant, Resources::default());
    assert!(!cluster.state.nodes[&NODE].is_dead, "whoever leads is alive");
}

#[test]
fn a_node_that_misses_a_beat_is_suspected_until_it_is_heard_of() {
    let mut cluster = Cluster::new();
    cluster.register(OTHER);
    cluster.pass(SUSPECT_AFTER - Duration::from_millis(1));
    assert!(cluster.controller.suspected().is_empty());
    cluster.pass(Duration::from_millis(1));
    assert!(cluster.controller.suspected().contains(&OTHER));
    assert!(!cluster.state.nodes[&OTHER].is_dead, "nothing of it is placed anew");
    cluster.hear(OTHER, 1);
    assert!(cluster.controller.suspected().is_empty());
    cluster.pass(DEAD_AFTER);
    assert!(cluster.controller.suspected().is_empty(), "what is dead is more than suspected");
}

#[test]
fn a_node_that_comes_back_has_its_time_anew() {
    let mut cluster = Cluster::new();
    cluster.register(OTHER);
    cluster.pass(DEAD_AFTER);
    assert!(cluster.state.nodes[&OTHER].is_dead);
    assert_eq!(cluster.state.nodes[&OTHER].epoch, Epoch(2), "what it said in its first epoch is refused from here on");
    cluster.register(OTHER);
    assert!(!cluster.state.nodes[&OTHER].is_dead);
    cluster.pass(DEAD_AFTER - Duration::from_millis(1));
    cluster.hear(OTHER, 1);
    cluster.pass(Duration::from_millis(1));
    assert!(cluster.state.nodes[&OTHER].is_dead, "what came late from before says nothing");
}

#[test]
fn a_leader_that_was_asleep_gives_nobody_up() {
    let mut cluster = Cluster::new();
    cluster.register(OTHER);
    cluster.wake_after(Duration::from_secs(30));
    assert!(!cluster.state.nodes[&OTHER].is_dead);
    cluster.pass(DEAD_AFTER);
    assert!(cluster.state.nodes[&OTHER].is_dead);
}

#[test]
fn a_node_that_is_overdue_does_not_end_the_looking_after_the_others() {
    let mut controller = Controller::new(NODE);
    let mut cluster = Cluster::new();
    cluster.register(OTHER);
    let begun = cluster.now;
    controller.on_input(begun, Input::Applied(&cluster.state));
    // Nobody answers the proposal that declares it dead.
    let mut now = begun;
    for _ in 0..40 {
        let at = controller.wake_at().expect("it looks");
        assert!(at > now && at.since(now) <= Duration::from_millis(500), "from {now} to {at}");
        now = at;
        controller.on_input(now, Input::Woke(&cluster.state));
    }
}

#[test]
fn a_beat_at_the_very_moment_at_which_something_is_due_does_not_put_it_off() {
    let mut cluster = Cluster::new();
    let third = NodeId(3);
    cluster.register(OTHER);
    cluster.register(third);
    let beat = Duration::from_millis(500);
    for _ in 0..DEAD_AFTER.as_millis() / beat.as_millis() {
        // The driver takes the beat first, although its timer has run out as well.
        cluster.now = cluster.now + beat;
        cluster.hear(third, 1);
        cluster.pass(Duration::ZERO);
    }
    assert!(cluster.state.nodes[&OTHER].is_dead);
    assert!(!cluster.state.nodes[&third].is_dead);
}
