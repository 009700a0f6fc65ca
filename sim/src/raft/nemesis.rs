//! What makes things go wrong: one fault after the other, of the kinds that the seed has drawn.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::cluster::{Cluster, Core, Crash};
use super::disk::Failure;
use super::mark::Mark;
use super::network::{Host, Refusal};
use super::runtime;
use super::swarm::Micros;
use crate::rng::Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed, and comes back.
    Kill,
    /// A process is killed again and again, each time soon after it has come back.
    RestartLoop,
    /// The power of some nodes, or all, fails at one instant.
    PowerLoss,
    /// A process stands still.
    Pause,
    /// The leader's process stands still.
    PauseLeader,
    /// Some ways are cut in one direction.
    CutOneWay,
    /// The leader reaches nobody.
    IsolateLeader,
    /// The nodes fall into two parts.
    Split,
    /// The nodes fall into two parts that only one node connects.
    Bridge,
    /// The ways to one node are cut and mended again and again.
    Flap,
    /// A firewall refuses in the name of a node that lives, mostly the leader.
    Refuse,
    /// Some ways take long.
    Slow,
    /// Much is lost.
    Storm,
    /// A disk takes no writes for a while.
    DiskStall,
    /// A sync fails.
    DiskError,
    /// A disk has no room.
    DiskFull,
    /// The clock of a node jumps.
    ClockJump,
    /// The leader hands over.
    Transfer,
    /// A node stands for election out of turn.
    Elect,
    /// A node writes a snapshot out of turn.
    Snapshot,
}

impl Fault {
    pub(crate) const ALL: [Self; 20] = [
        Self::Kill,
        Self::RestartLoop,
        Self::PowerLoss,
        Self::Pause,
        Self::PauseLeader,
        Self::CutOneWay,
        Self::IsolateLeader,
        Self::Split,
        Self::Bridge,
        Self::Flap,
        Self::Refuse,
        Self::Slow,
        Self::Storm,
        Self::DiskStall,
        Self::DiskError,
        Self::DiskFull,
        Self::ClockJump,
        Self::Transfer,
        Self::Elect,
        Self::Snapshot,
    ];
}

/// How long a process or a disk stands still.
const STILL: Micros = Micros(1_000, 2_000_000);

#[derive(Clone)]
struct Nemesis {
    cluster: Cluster,
    rng: Rc<RefCell<Rng>>,
    until: Duration,
}

/// Lets faults happen until `until`; what they broke may stay broken longer.
pub(crate) fn start(cluster: &Cluster, seed: u64, until: Duration) {
    let rng = Rc::new(RefCell::new(Rng::stream(seed, "nemesis")));
    Nemesis { cluster: cluster.clone(), rng, until }.next();
}

impl Nemesis {
    fn draw(&self, range: Micros) -> Duration {
        range.draw(&mut self.rng.borrow_mut())
    }

    fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    fn pick(&self, nodes: &[u64]) -> u64 {
        *self.rng.borrow_mut().pick(nodes)
    }

    /// Returns each of some nodes with one chance in two.
    fn some(&self, nodes: &[u64]) -> Vec<u64> {
        nodes.iter().copied().filter(|_| self.rng.borrow_mut().chance(500)).collect()
    }

    fn next(self) {
        let swarm = self.cluster.swarm();
        if swarm.faults.is_empty() {
            return;
        }
        let pause = self.draw(swarm.fault_pace);
        runtime::after(pause, move || {
            if Duration::from_nanos(runtime::now()) < self.until {
                let fault = *self.rng.borrow_mut().pick(&self.cluster.swarm().faults);
                self.happen(fault);
                self.next();
            }
        });
    }

    fn happen(&self, fault: Fault) {
        let voters = self.cluster.nodes();
        let leader = self.cluster.leader();
        self.cluster.oracle().count("faults");
        match fault {
            Fault::Kill => {
                let node = if self.below(3) == 0 { leader } else { None }.unwrap_or_else(|| self.pick(&voters));
                self.down(&[node], Crash::Process);
            }
            Fault::RestartLoop => self.clone().strike(self.pick(&voters), 2 + self.below(8), 500),
            Fault::PowerLoss => self.lose_power(&voters),
            Fault::Pause => self.cluster.pause(self.pick(&voters), self.draw(STILL)),
            Fault::PauseLeader => {
                if let Some(leader) = leader {
                    self.cluster.oracle().mark(Mark::LeaderPaused);
                    self.cluster.pause(leader, self.draw(STILL));
                }
            }
            Fault::CutOneWay => {
                let from = self.some(&voters);
                let cuts = self.pairs(&from, &self.some(&voters));
                self.cut(cuts);
            }
            Fault::IsolateLeader => {
                if let Some(leader) = leader {
                    self.cluster.oracle().mark(Mark::LeaderIsolated);
                    self.cut(self.both_ways(&[leader], &voters));
                }
            }
            Fault::Split => self.cut(self.split(&voters)),
            Fault::Bridge => {
                let bridge = self.pick(&voters);
                let others: Vec<u64> = voters.iter().copied().filter(|node| *node != bridge).collect();
                self.cut(self.split(&others));
            }
            Fault::Flap => {
                let cuts = self.both_ways(&[self.pick(&voters)], &voters);
                self.flap(cuts, 2 + self.below(8));
            }
            Fault::Refuse => {
                let to = if self.below(4) > 0 { leader } else { None }.unwrap_or_else(|| self.pick(&voters));
                let ways = self.pairs(&self.some(&voters), &[to]);
                let refusal = if self.below(2) == 0 { Refusal::Connections } else { Refusal::All };
                self.cluster.oracle().tell(|| format!("refused: {refusal:?} {ways:?}"));
                self.cluster.network().refuse(ways, refusal, self.draw(self.cluster.swarm().broken));
            }
            Fault::Slow => self.slow(&voters),
            Fault::Storm => {
                let permille = u32::try_from(self.below(400)).unwrap_or(0);
                self.cluster.network().wires().storm_permille = permille;
                let network = self.cluster.network().clone();
                runtime::after(self.draw(self.cluster.swarm().broken), move || network.wires().storm_permille = 0);
            }
            Fault::DiskStall => {
                // What is being synced waits to the end of it, also after faults have stopped: it must be over by then.
                let left = self.until.saturating_sub(Duration::from_nanos(runtime::now()));
                self.cluster.disk(self.pick(&voters)).stall(self.draw(STILL).min(left));
            }
            Fault::DiskError => self.cluster.disk(self.pick(&voters)).fail(Failure::Sync),
            Fault::DiskFull => self.cluster.disk(self.pick(&voters)).fail(Failure::Full),
            Fault::ClockJump => {
                // An hour back or forth around the true time.
                let offset = i64::try_from(self.below(7_200_000)).unwrap_or(0) - 3_600_000;
                self.cluster.set_clock(self.pick(&voters), offset);
            }
            Fault::Transfer => {
                // Who votes alone has nobody to hand over to, and would wait for ever for itself.
                if let Some((leader, voting)) = leader.map(|leader| (leader, self.cluster.voting(leader)))
                    && voting.len() > 1
                {
                    let to = self.pick(&voting);
                    self.cluster.oracle().mark(Mark::LeaderTransferred);
                    self.trigger(leader, move |core| async move { core.trigger().transfer_leader(to).await.is_ok() });
                }
            }
            Fault::Elect => {
                let asks_first = self.below(2) == 0;
                self.cluster.oracle().mark(Mark::ElectionForced);
                let elect = move |core: Core| async move { core.trigger().elect(asks_first).await.is_ok() };
                let asked = leader.map_or_else(|| voters.clone(), |leader| self.cluster.voting(leader));
                self.trigger(self.pick(&asked), elect);
            }
            Fault::Snapshot => {
                self.trigger(self.pick(&voters), |core| async move { core.trigger().snapshot().await.is_ok() });
            }
        }
    }

    /// Asks something of a node's openraft, from within its process.
    fn trigger<F>(&self, node: u64, ask: impl FnOnce(Core) -> F)
    where
        F: Future<Output = bool> + Send + 'static,
    {
        if let Host::Up(group, Some(replica)) = self.cluster.network().host(node) {
            self.cluster.oracle().tell(|| format!("{node} is asked for something out of turn"));
            // A node that is stopping refuses, which is as good.
            runtime::spawn_in(group, ask(replica.core().clone()));
        }
    }

    fn down(&self, nodes: &[u64], crash: Crash) {
        self.cluster.crash(nodes, crash);
        for node in nodes.iter().copied() {
            let cluster = self.cluster.clone();
            runtime::after(self.draw(self.cluster.swarm().down), move || cluster.boot(node));
        }
    }

    /// Kills a node, starts it, and soon does so again.
    fn restart(&self, node: u64, turns: u64) {
        if turns == 0 || Duration::from_nanos(runtime::now()) >= self.until {
            return;
        }
        self.cluster.crash(&[node], Crash::Process);
        let down = self.draw(Micros(100, 20_000));
        let nemesis = self.clone();
        runtime::after(down, move || {
            nemesis.cluster.boot(node);
            nemesis.strike(node, turns - 1, 500);
        });
    }

    /// Waits until the node's disk is writing, in every other turn more records than one, and then kills it.
    fn strike(self, node: u64, turns: u64, looks: u64) {
        let records = self.cluster.disk(node).writes();
        if looks == 0 || records > usize::from(turns.is_multiple_of(2)) {
            return self.restart(node, turns);
        }
        let pause = self.draw(Micros(50, 500));
        runtime::after(pause, move || self.strike(node, turns, looks - 1));
    }

    fn lose_power(&self, voters: &[u64]) {
        let nodes = match self.below(4) {
            0 => voters.to_vec(),
            1 => vec![self.pick(voters)],
            _ => self.some(voters),
        };
        if nodes.len() == voters.len() {
            self.cluster.oracle().mark(Mark::AllWithoutPower);
        }
        if nodes.len() * 2 > voters.len() {
            self.cluster.oracle().mark(Mark::MajorityWithoutPower);
        }
        self.down(&nodes, Crash::Power);
    }

    /// Returns the ways from some nodes to others.
    fn pairs(&self, from: &[u64], to: &[u64]) -> Vec<(u64, u64)> {
        let all = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        all.filter(|(from, to)| from != to).collect()
    }

    fn both_ways(&self, here: &[u64], there: &[u64]) -> Vec<(u64, u64)> {
        [self.pairs(here, there), self.pairs(there, here)].concat()
    }

    /// Returns the ways between two parts of some nodes.
    fn split(&self, nodes: &[u64]) -> Vec<(u64, u64)> {
        let here = self.some(nodes);
        let there: Vec<u64> = nodes.iter().copied().filter(|node| !here.contains(node)).collect();
        self.both_ways(&here, &there)
    }

    /// Cuts ways, and mends them later.
    fn cut(&self, ways: Vec<(u64, u64)>) {
        self.cluster.oracle().tell(|| format!("cut: {ways:?}"));
        self.cluster.network().wires().cuts.extend(ways.iter().copied());
        let cluster = self.cluster.clone();
        runtime::after(self.draw(self.cluster.swarm().broken), move || {
            cluster.oracle().tell(|| format!("mended: {ways:?}"));
            let mut wires = cluster.network().wires();
            ways.iter().for_each(|way| {
                wires.cuts.remove(way);
            });
        });
    }

    /// Cuts and mends ways in turns.
    fn flap(&self, ways: Vec<(u64, u64)>, turns: u64) {
        if turns == 0 || Duration::from_nanos(runtime::now()) >= self.until {
            return;
        }
        let [broken, whole] = [(); 2].map(|()| self.draw(Micros(5_000, 400_000)));
        self.cluster.network().wires().cuts.extend(ways.iter().copied());
        let nemesis = self.clone();
        runtime::after(broken, move || {
            {
                let mut wires = nemesis.cluster.network().wires();
                ways.iter().for_each(|way| {
                    wires.cuts.remove(way);
                });
            }
            let again = nemesis.clone();
            runtime::after(whole, move || again.flap(ways, turns - 1));
        });
    }

    fn slow(&self, voters: &[u64]) {
        let ways = self.pairs(&self.some(voters), &self.some(voters));
        let more = self.draw(Micros(1_000, 300_000));
        self.cluster.network().wires().slow.extend(ways.iter().map(|way| (*way, more)));
        let network = self.cluster.network().clone();
        runtime::after(self.draw(self.cluster.swarm().broken), move || network.wires().slow.clear());
    }
}
