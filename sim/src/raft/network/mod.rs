//! A network on virtual time: it delays, loses, repeats and reorders messages, and breaks or silences streams.
//!
//! ```text
//! Way::call   ── request ─▶ Replica::answer ── reply ─▶        each may be late, lost or there twice
//! Way::append ══ requests ═▶ Replica::answer_appends ══ replies ═▶   in order; what is lost silences the rest
//! ```
//! A node whose process has ended refuses; one without power, and a way that is cut, say nothing.

mod call;
mod carry;
mod death;
mod pipe;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_plane::raft::{AppendReplies, Appends, Lane, Peer, Replica, Transport, TransportError};
use openraft_rt::AsyncRuntime;
use proto::v1;

pub(crate) use self::death::Refusal;

use self::death::Standing;
use super::check::Oracle;
use super::disk::Platter;
use super::mark::Mark;
use super::runtime::{self, Group, Virtual};
use super::swarm::Swarm;
use crate::rng::Rng;

/// A voter as the network knows it.
#[derive(Clone)]
pub(crate) enum Host {
    /// It has no power.
    Off,
    /// Its process does not run.
    Down,
    /// Its process runs, and answers once it has started.
    Up(Group, Option<Replica<Virtual, Platter>>),
}

pub(crate) struct Wires {
    rng: Rng,
    swarm: Swarm,
    pub(crate) hosts: BTreeMap<u64, Host>,
    /// From whom to whom nothing comes through.
    pub(crate) cuts: BTreeSet<(u64, u64)>,
    /// What ways take longer than others for good.
    pub(crate) distances: BTreeMap<(u64, u64), Duration>,
    /// What ways take longer than others for a while.
    pub(crate) slow: BTreeMap<(u64, u64), Duration>,
    /// What is refused in the name of a process that lives, from whom to whom.
    pub(crate) refused: BTreeMap<(u64, u64), Refusal>,
    /// The connections that tell of a process's end.
    standing: Vec<Standing>,
    /// How often more than usual, in thousandths, something is lost.
    pub(crate) storm_permille: u32,
    /// How many streams of entries were refused.
    pub(crate) refusals: u32,
}

/// The network; clones share it.
#[derive(Clone)]
pub(crate) struct Network {
    wires: Arc<Mutex<Wires>>,
    oracle: Oracle,
}

impl Network {
    pub(crate) fn new(seed: u64, swarm: Swarm, oracle: Oracle) -> Self {
        let rng = Rng::stream(seed, "network");
        let (hosts, cuts, slow) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let (refused, standing) = (BTreeMap::new(), Vec::new());
        let distances = BTreeMap::new();
        let wires =
            Wires { rng, swarm, hosts, cuts, distances, slow, refused, standing, storm_permille: 0, refusals: 0 };
        Self { wires: Arc::new(Mutex::new(wires)), oracle }
    }

    pub(crate) fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what a voter reaches the others through.
    pub(crate) fn transport(&self, from: u64) -> Outlet {
        Outlet { from, network: self.clone() }
    }

    pub(crate) fn host(&self, node: u64) -> Host {
        self.wires().hosts.get(&node).cloned().unwrap_or(Host::Off)
    }

    /// Sets what a voter is, and drops what it was outside of the lock.
    pub(crate) fn set(&self, node: u64, host: Host) {
        let before = self.wires().hosts.insert(node, host);
        drop(before);
    }

    /// Lets nothing go wrong any more.
    pub(crate) fn calm(&self) {
        let mut wires = self.wires();
        wires.cuts.clear();
        wires.slow.clear();
        wires.refused.clear();
        wires.storm_permille = 0;
        let (calm, swarm) = (Swarm::calm(1), &mut wires.swarm);
        swarm.delay_long_permille = calm.delay_long_permille;
        swarm.lost_permille = calm.lost_permille;
        swarm.twice_permille = calm.twice_permille;
        swarm.broken_permille = calm.broken_permille;
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.wires().is_cut(from, to)
    }

    /// Sends one message: calls `arrive` once it is there, which may be never, or twice.
    fn send(&self, from: u64, to: u64, arrive: impl Fn() + 'static) {
        let copies = {
            let mut wires = self.wires();
            if wires.is_cut(from, to) || wires.loses() {
                Vec::new()
            } else if wires.repeats() {
                self.oracle.mark(Mark::CallDuplicated);
                vec![wires.delay(from, to), wires.delay(from, to)]
            } else {
                vec![wires.delay(from, to)]
            }
        };
        let arrive = std::rc::Rc::new(arrive);
        for delay in copies {
            let (network, arrive) = (self.clone(), std::rc::Rc::clone(&arrive));
            runtime::after(delay, move || {
                if !network.is_cut(from, to) {
                    runtime::note(from << 8 | to);
                    arrive();
                }
            });
        }
    }
}

impl Wires {
    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to)) || [from, to].iter().any(|node| matches!(self.hosts.get(node), Some(Host::Off)))
    }

    /// Returns how long it takes to hear that a node refuses a connection: its kernel answers where no process listens.
    fn refuses(&mut self, from: u64, to: u64) -> Option<Duration> {
        let is_cut = self.is_cut(from, to) || self.is_cut(to, from);
        if is_cut || !matches!(self.hosts.get(&to), Some(Host::Down)) {
            return None;
        }
        self.refusals += 1;
        Some(self.delay(from, to) + self.delay(to, from))
    }

    fn loses(&mut self) -> bool {
        let permille = self.swarm.lost_permille + self.storm_permille;
        self.rng.chance(permille)
    }

    fn repeats(&mut self) -> bool {
        let permille = self.swarm.twice_permille;
        self.rng.chance(permille)
    }

    fn breaks(&mut self) -> bool {
        let permille = self.swarm.broken_permille;
        self.rng.chance(permille)
    }

    fn delay(&mut self, from: u64, to: u64) -> Duration {
        let permille = self.swarm.delay_long_permille;
        let range = if self.rng.chance(permille) { self.swarm.delay_long } else { self.swarm.delay };
        let more = [&self.distances, &self.slow].into_iter().filter_map(|more| more.get(&(from, to)));
        let delay = range.draw(&mut self.rng) + more.sum::<Duration>();
        let now = runtime::now();
        let arrives = now + u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX >> 1);
        Duration::from_nanos(arrives.next_multiple_of(self.swarm.coalesced * 1_000) - now)
    }
}

/// Where one voter's messages leave it.
#[derive(Clone)]
pub(crate) struct Outlet {
    from: u64,
    network: Network,
}

/// The way from one voter to another.
pub(crate) struct Way {
    from: u64,
    to: u64,
    network: Network,
}

impl Transport for Outlet {
    type Peer = Way;

    fn peer(&self, id: u64, _address: &str, _lane: Lane) -> Way {
        Way { from: self.from, to: id, network: self.network.clone() }
    }

    async fn died(&self, id: u64, _address: &str) {
        self.network.died(self.from, id).await;
    }
}

impl Peer for Way {
    async fn call(&self, request: v1::RaftRequest, limit: Duration) -> Result<v1::RaftReply, TransportError> {
        if let Some(v1::raft_request::Request::Append(append)) = &request.request {
            self.led(append);
        }
        self.ask(request, limit).await
    }

    async fn append(&self, appends: Appends) -> Result<AppendReplies, TransportError> {
        let refused = self.network.wires().refuses(self.from, self.to);
        if let Some(round) = refused {
            Virtual::sleep(round).await;
            return Err(TransportError::Unreachable("the connection is refused".to_owned()));
        }
        Ok(self.open(appends))
    }
}

impl Way {
    /// Tells the oracle who speaks as a leader.
    fn led(&self, append: &v1::AppendRequest) {
        if let Some(vote) = append.vote {
            self.network.oracle.led(self.from, vote);
        }
    }
}
