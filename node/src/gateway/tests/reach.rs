//! Whom a call is given while peers fall silent and come back.

use super::*;

/// Starts node 1, which is full, and nodes 2 and 3, which have an instance each.
async fn three() -> (Node, [Node; 2], Arc<Loopback>) {
    let (loopback, state) = (Arc::<Loopback>::default(), state(&[(1, 0, 0), (2, 0, 1), (3, 0, 1)]));
    let one = Node::start(1, Agent::Full, &state, &loopback).await;
    let two = Node::start(2, Agent::Full, &state, &loopback).await;
    let three = Node::start(3, Agent::Full, &state, &loopback).await;
    two.seat("web", 1, web("two").await.0);
    three.seat("web", 3, web("three").await.0);
    (one, [two, three], loopback)
}

/// Calls as often as there are turns, and returns who answered.
async fn answered_by(front: SocketAddr) -> HashSet<String> {
    let mut names = HashSet::new();
    for _ in 0..4 {
        let answer = body(ask(front, get("/function/web/")).await).await;
        names.extend(answer.split(' ').next().map(str::to_owned));
    }
    names
}

#[tokio::test]
async fn calls_avoid_whom_somebody_suspects_unless_there_is_nobody_else() {
    let (one, _others, loopback) = three().await;
    assert_eq!(answered_by(one.front).await.len(), 2, "peers take turns");
    loopback.suspected.lock().unwrap().insert(NodeId(2));
    assert_eq!(answered_by(one.front).await, HashSet::from(["three".to_owned()]));
    loopback.suspected.lock().unwrap().insert(NodeId(3));
    assert_eq!(answered_by(one.front).await.len(), 2, "a suspicion may be wrong");
}

#[tokio::test]
async fn whom_somebody_suspects_is_asked_after_a_peer_that_cannot_be_reached() {
    let (one, _others, loopback) = three().await;
    loopback.suspected.lock().unwrap().insert(NodeId(2));
    loopback.addresses.lock().unwrap().remove(&NodeId(3));
    assert_eq!(answered_by(one.front).await, HashSet::from(["two".to_owned()]));
}

#[tokio::test]
async fn a_peer_that_could_not_be_reached_is_looked_for_and_no_call_waits_for_it() {
    let (one, _others, loopback) = three().await;
    let address = loopback.addresses.lock().unwrap().remove(&NodeId(2)).unwrap();
    assert_eq!(answered_by(one.front).await, HashSet::from(["three".to_owned()]));
    let dialed = loopback.dialed.load(Ordering::Relaxed);
    until(|| loopback.dialed.load(Ordering::Relaxed) > dialed).await;
    loopback.set(2, address);
    let found = async { while answered_by(one.front).await.len() < 2 {} };
    timeout(PATIENCE, found).await.expect("it is found again");
}
