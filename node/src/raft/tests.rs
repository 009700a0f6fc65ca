//! Voters on real sockets and real disks: what was acknowledged stays, whoever leads.

use std::sync::atomic::{AtomicU64, Ordering};

use control_plane::model::{Bytes, Digest, Epoch, FeatureLevel, MilliCpu, NodeSpec, Resources, Timestamp};
use control_plane::state::{Command, Rejection, Reply};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::peering::take_plain;

/// How long anything may take here; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

fn register(node: u32) -> Command {
    let capacity = Resources { cpu: MilliCpu(1000), memory: Bytes(1 << 30), disk: Bytes(1 << 30), pids: 100 };
    let spec =
        NodeSpec { name: format!("node-{node}"), capacity, labels: BTreeMap::new(), features: FeatureLevel::NEWEST };
    Command::RegisterNode { node: NodeId(node), spec }
}

fn epoch(raft: &Raft, node: u32) -> u32 {
    raft.read(|state| state.nodes.get(&NodeId(node)).map_or(0, |node| node.epoch.0))
}

/// Writes a snapshot and drops the log that it covers.
async fn compact(raft: &Raft) {
    let core = &raft.0.core;
    let last = raft.metrics().applied;
    core.trigger().snapshot().await.expect("it runs");
    let wait = core.wait(Some(PATIENCE));
    wait.metrics(|now| now.snapshot.is_some_and(|id| id.index >= last), "a snapshot").await.expect("it is written");
    core.trigger().purge_log(last).await.expect("it runs");
    wait.metrics(|now| now.purged.is_some_and(|id| id.index >= last), "a purge").await.expect("the log is purged");
}

/// One voter, its folder, and where it listens.
struct Voter {
    raft: Raft,
    folder: TempDir,
    address: String,
    /// Ends what answers peers.
    stop: CancellationToken,
}

async fn open(node: u32, folder: &TempDir, listener: TcpListener, is_joining: bool) -> (Raft, CancellationToken) {
    let address = listener.local_addr().expect("it is bound").to_string();
    let peers = Peers { dialer: Dialer::Plain, address, is_joining };
    let config = Config { dir: folder.path().to_path_buf(), node: NodeId(node), timing: Timing::default() };
    let raft = Raft::open(config, Some(peers), Clock::system()).await.expect("the state opens");
    let stop = CancellationToken::new();
    let serving = serve(take_plain(listener), raft.routes(), |_| true, stop.clone());
    tokio::spawn(async move { serving.await.expect("it serves until it is stopped") });
    (raft, stop)
}

impl Voter {
    async fn start(node: u32, is_joining: bool) -> Self {
        let folder = tempfile::tempdir().expect("a directory can be made");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (raft, stop) = open(node, &folder, listener, is_joining).await;
        Self { raft, folder, address, stop }
    }

    /// Stops and starts on the same folder and at the same address.
    async fn restart(&mut self, node: u32) {
        self.stop.cancel();
        self.raft.shutdown().await;
        let bound = async {
            loop {
                match TcpListener::bind(&self.address).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let listener = timeout(PATIENCE, bound).await.expect("the port becomes free");
        (self.raft, self.stop) = open(node, &self.folder, listener, true).await;
    }

    /// Stops and starts on the same folder and at another address.
    async fn relocate(&mut self, node: u32) {
        // It listens before it stops, so that the port is another one.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        self.stop.cancel();
        self.raft.shutdown().await;
        self.address = listener.local_addr().expect("it is bound").to_string();
        (self.raft, self.stop) = open(node, &self.folder, listener, true).await;
    }

    /// Waits until this voter has applied the epoch of a node.
    async fn until_epoch(&self, node: u32, expected: u32) {
        let mut changes = self.raft.changes();
        let applied = changes.wait_for(|_| epoch(&self.raft, node) >= expected);
        timeout(PATIENCE, applied).await.expect("it is applied").expect("it runs");
        assert_eq!(epoch(&self.raft, node), expected);
    }
}

/// Founds a cluster and takes two more voters in.
async fn three() -> [Voter; 3] {
    let founder = Voter::start(1, false).await;
    let others = [Voter::start(2, true).await, Voter::start(3, true).await];
    for (number, other) in (2..).zip(&others) {
        founder.raft.admit(NodeId(number), &other.address).await.expect("it is taken in");
    }
    let [second, third] = others;
    [founder, second, third]
}

/// Returns who votes, once this voter knows anybody who does.
async fn voters(voter: &Voter) -> BTreeMap<NodeId, String> {
    let wait = voter.raft.0.core.wait(Some(PATIENCE));
    let known = wait.metrics(|now| now.membership_config.voter_ids().next().is_some(), "a membership");
    known.await.expect("it knows one");
    voter.raft.members().voters
}

/// Waits until one of the voters leads, and returns it.
async fn leader<'a>(voters: &[&'a Voter]) -> &'a Voter {
    let leads = voters.iter().map(|voter| {
        Box::pin(async move {
            let mut leads = voter.raft.leadership();
            leads.wait_for(|leads| *leads).await.expect("it runs");
            *voter
        })
    });
    timeout(PATIENCE, futures_util::future::select_all(leads)).await.expect("one of them leads").0
}

/// On one thread, as on a machine of one processor: nothing may hold it up.
#[tokio::test]
async fn what_was_acknowledged_is_applied_again_after_a_restart() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let config = Config { dir: folder.path().to_path_buf(), node: NodeId(1), timing: Timing::default() };
    for start in 1..=3 {
        let raft = Raft::open(config.clone(), None, Clock::system()).await.expect("the state opens");
        assert_eq!(epoch(&raft, 1), start - 1, "what the process before was told is there");
        let reply = raft.propose(register(1)).await.expect("the proposal is taken");
        assert!(matches!(reply, Reply::Registered { epoch } if epoch.0 == start));
        raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_is_told_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a directory can be made");
    let config = Config { dir: folder.path().to_path_buf(), node: NodeId(1), timing: Timing::default() };
    let raft = Raft::open(config, None, Clock::system()).await.expect("the state opens");
    let before = raft.read(State::clone);
    let app = "nothing".parse().expect("a name");
    let refused = raft.propose(Command::DeleteApp { app }).await;
    assert!(matches!(refused, Err(ProposeError::Rejected(Rejection::NoApp(_)))), "{refused:?}");
    assert_eq!(raft.read(State::clone), before);
    raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_voters_apply_the_same_and_outlive_their_leader() {
    let [first, second, third] = three().await;
    first.raft.propose(register(7)).await.expect("the proposal is taken");
    for voter in [&second, &third] {
        voter.until_epoch(7, 1).await;
    }

    first.raft.shutdown().await;
    let next = leader(&[&second, &third]).await;
    next.raft.propose(register(7)).await.expect("the proposal is taken");
    for voter in [&second, &third] {
        voter.until_epoch(7, 2).await;
    }
    assert_eq!(second.raft.read(State::clone), third.raft.read(State::clone));
    for voter in [&second, &third] {
        voter.raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_voter_takes_proposals_and_reads_what_was_acknowledged() {
    let [first, second, third] = three().await;
    for round in 1..=20 {
        let reply = second.raft.propose(register(7)).await.expect("the leader takes it");
        assert!(matches!(reply, Reply::Registered { epoch } if epoch.0 == round), "{reply:?}");
        assert_eq!(epoch(&second.raft, 7), round, "whoever proposed sees it");
        third.raft.catch_up().await.expect("there is a quorum");
        assert_eq!(epoch(&third.raft, 7), round, "what was acknowledged anywhere is seen");
    }
    let app = "nothing".parse().expect("a name");
    let refused = second.raft.propose(Command::DeleteApp { app }).await;
    assert!(matches!(refused, Err(ProposeError::Rejected(Rejection::NoApp(_)))), "{refused:?}");

    // Whoever leads then, a proposal through another voter is held until there is a leader again.
    first.raft.hand_over(NodeId(2)).await.expect("it does not lead any more");
    third.raft.propose(register(7)).await.expect("the new leader takes it");
    first.raft.shutdown().await;
    second.raft.shutdown().await;
    let alone = third.raft.catch_up().await;
    assert!(matches!(alone, Err(ReadError::Unavailable)), "one of three is no quorum: {alone:?}");
    third.raft.shutdown().await;
}

/// Whoever proposes through a node that stays is told what became of everything, though the leader goes in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn proposals_whose_answers_get_lost_are_applied_once() {
    const PROPOSERS: u64 = 16;
    const EACH: u64 = 20;
    let [first, second, third] = three().await;
    second.raft.propose(register(7)).await.expect("the proposal is taken");
    second.raft.begin_session(NodeId(7), Epoch(1));
    let before = second.raft.read(|state| state.index);
    let done = Arc::new(AtomicU64::new(0));
    let proposers: Vec<_> = (0..PROPOSERS)
        .map(|_| {
            let (raft, done) = (second.raft.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                for _ in 0..EACH {
                    // Each time that it is applied counts.
                    let secret = Digest::from_bytes([1; 32]);
                    let invite = Command::Invite { secret, expires_at: Timestamp::from_millis(u64::MAX), uses: None };
                    raft.propose(invite).await.expect("it is known what became of it");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    while done.load(Ordering::Relaxed) < PROPOSERS * EACH / 4 {
        tokio::task::yield_now().await;
    }
    first.raft.shutdown().await;
    for proposer in proposers {
        proposer.await.expect("it did not panic");
    }
    assert_eq!(second.raft.read(|state| state.index), before + PROPOSERS * EACH);
    let kept = second.raft.read(|state| state.sessions[&NodeId(7)].answers.len() as u64);
    assert!(kept <= 2 * PROPOSERS, "{kept} answers are kept, and nobody waits any more");
    for voter in [&second, &third] {
        voter.raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_was_away_catches_up_and_its_cluster_knows_it_again() {
    let [first, mut second, third] = three().await;
    third.raft.shutdown().await;
    first.raft.propose(register(7)).await.expect("two of three are a quorum");
    second.restart(2).await;
    second.until_epoch(7, 1).await;
    assert_eq!(voters(&second).await, voters(&first).await);
    first.raft.propose(register(7)).await.expect("two of three are a quorum");
    second.until_epoch(7, 2).await;
    for voter in [&first, &second] {
        voter.raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_moved_is_found_by_a_leader_that_goes_on_leading() {
    let [first, mut second, third] = three().await;
    second.relocate(2).await;
    first.raft.set_address(NodeId(2), &second.address).await.expect("two of three are a quorum");
    third.raft.shutdown().await;
    first.raft.propose(register(7)).await.expect("two of three are a quorum");
    second.until_epoch(7, 1).await;
    assert_eq!(voters(&second).await[&NodeId(2)], second.address);
    for voter in [&first, &second] {
        voter.raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_voter_of_two_acknowledges_nothing() {
    let first = Voter::start(1, false).await;
    let second = Voter::start(2, true).await;
    first.raft.admit(NodeId(2), &second.address).await.expect("it is taken in");
    second.raft.shutdown().await;
    let refused = first.raft.propose(register(7)).await;
    assert!(matches!(refused, Err(ProposeError::Timeout | ProposeError::Unavailable(_))), "{refused:?}");
    assert_eq!(epoch(&first.raft, 7), 0);
    first.raft.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_asked_to_go() {
    let [first, second, third] = three().await;
    let wrong = first.raft.hand_over(NodeId(9)).await;
    assert!(matches!(wrong, Err(MembersError::Refused(_))), "{wrong:?}");
    first.raft.hand_over(NodeId(2)).await.expect("it does not lead any more");
    let next = leader(&[&second]).await;
    next.raft.propose(register(7)).await.expect("the proposal is taken");
    let refused = third.raft.hand_over(NodeId(1)).await;
    assert!(matches!(refused, Err(MembersError::NotLeader { .. })), "{refused:?}");
    for voter in [&first, &second, &third] {
        voter.raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_late_gets_a_snapshot() {
    let first = Voter::start(1, false).await;
    for _ in 0..20 {
        first.raft.propose(register(7)).await.expect("the proposal is taken");
    }
    compact(&first.raft).await;
    let late = Voter::start(2, true).await;
    first.raft.admit(NodeId(2), &late.address).await.expect("it is taken in");
    late.until_epoch(7, 20).await;
    assert!(late.raft.metrics().snapshot >= 20, "it came by a snapshot: {:?}", late.raft.metrics());
    first.raft.propose(register(7)).await.expect("the proposal is taken");
    late.until_epoch(7, 21).await;
    for voter in [&first, &late] {
        voter.raft.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_let_go_does_not_vote() {
    let [first, second, third] = three().await;
    first.raft.dismiss(NodeId(3)).await.expect("it is let go");
    assert_eq!(first.raft.members().voters.keys().copied().collect::<Vec<_>>(), [NodeId(1), NodeId(2)]);
    first.raft.dismiss(NodeId(3)).await.expect("a second time changes nothing");
    first.raft.propose(register(7)).await.expect("both voters are there");
    second.until_epoch(7, 1).await;
    second.raft.shutdown().await;
    let refused = first.raft.propose(register(7)).await;
    assert!(refused.is_err(), "only one of two voters is left: {refused:?}");
    for voter in [&first, &third] {
        voter.raft.shutdown().await;
    }
}
