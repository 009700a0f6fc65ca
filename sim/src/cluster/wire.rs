//! What nodes tell each other beside Raft: beats, and calls that are passed on.

use std::time::Duration;

use control_plane::controller::Beat;
use control_plane::model::NodeId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::inbox::{Inbox, Tiding, id};
use super::propose;
use super::world::World;
use crate::hop::{Ask, Told};
use crate::log::Proposer;
use crate::member::{News, Outgoing};
use crate::node::Node;
use crate::raft::runtime::{self, Group};
use crate::raft::{Cluster, Host};

/// How often connections between nodes are asked whether the other one is there; silent twice, they are over.
pub(super) const PING_EVERY: Duration = Duration::from_millis(2_500);

/// How often a connection may be found silent.
const SILENT_MAX: u8 = 2;

/// How long a connection may take to be made.
const DIAL_MAX: Duration = Duration::from_secs(1);

/// A call that a peer has.
#[derive(Debug)]
pub(super) struct Hop {
    peer: NodeId,
    silent: u8,
}

fn number(node: NodeId) -> u64 {
    u64::from(node.0)
}

/// Returns who leads, as far as a node's replica knows.
fn leader_known_to(replicas: &Cluster, node: u64) -> Option<u64> {
    replicas.core(node)?.metrics().borrow_watched().current_leader
}

/// Does something at a node once it is reached; `refused` happens here instead where its process does not run.
fn reach(
    replicas: &Cluster,
    from: NodeId,
    to: NodeId,
    there: impl FnOnce() + Send + 'static,
    refused: impl FnOnce() + 'static,
) {
    let (from, to, known) = (number(from), number(to), replicas.clone());
    replicas.network().carry(from, to, move || match known.network().host(to) {
        Host::Off => {}
        Host::Down | Host::Up(_, None) => known.network().carry(to, from, refused),
        // In its own time: a process that stands still answers nobody.
        Host::Up(group, Some(_)) => spawn(group, there),
    });
}

fn spawn(group: Group, there: impl FnOnce() + Send + 'static) {
    runtime::spawn_in(group, async move { there() });
}

impl World {
    /// Carries out what a node wants done.
    pub(super) fn carry_out(&mut self, node: NodeId, outgoing: Vec<Outgoing>) {
        for outgoing in outgoing {
            match outgoing {
                Outgoing::Propose(command, proposer) => {
                    let Host::Up(group, Some(_)) = self.replicas.network().host(number(node)) else { continue };
                    let (inbox, life, replicas) = (self.inbox.clone(), self.life(node), self.replicas.clone());
                    let member = self.nodes.get(&node).and_then(Node::as_member);
                    let session = member.map(|member| member.session.clone()).unwrap_or_default();
                    runtime::spawn_in(group, async move {
                        let (number, proposed) = (number(node), command.clone());
                        let outcome = match proposer {
                            Proposer::Controller => {
                                Box::pin(propose::propose_as_leader(replicas, number, proposed)).await
                            }
                            Proposer::Supervisor | Proposer::Operator | Proposer::Daemon => {
                                Box::pin(propose::propose(replicas, number, session, proposed)).await
                            }
                        };
                        inbox.tell(node, Some(life), News::Answered(command, proposer, outcome));
                    });
                }
                Outgoing::Beat(number, beat) => self.send_beat(node, number, beat),
                Outgoing::Ask(ask) => self.send_ask(node, ask),
                Outgoing::Tell { to, call, told } => {
                    let inbox = self.inbox.clone();
                    let news = News::Told { call, peer: node, told };
                    self.replicas.network().carry(number(node), number(to), move || inbox.tell(to, None, news));
                }
                Outgoing::Started(instance) => self.note_started(node, instance),
                Outgoing::Proved(revision, image) => self.note_proved(revision, image),
            }
        }
    }

    fn send_beat(&mut self, from: NodeId, beat_number: u64, beat: Beat) {
        let Some(to) = self.whom_to_tell(from) else { return };
        let (replicas, inbox, life) = (self.replicas.clone(), self.inbox.clone(), self.life(from));
        let there = move || {
            let core = replicas.core(number(to));
            let leads = core.is_some_and(|core| core.metrics().borrow_watched().state == ServerState::Leader);
            let hint = leader_known_to(&replicas, number(to)).map(id).filter(|leader| *leader != to);
            if leads {
                inbox.tell(to, None, News::Heard(beat));
            }
            let news = News::BeatOver { number: beat_number, by: leads.then_some(to), hint };
            replicas.network().carry(number(to), number(from), move || inbox.tell(from, Some(life), news));
        };
        reach(&self.replicas, from, to, there, || {});
    }

    /// Returns who leads as far as a node knows, else one after the other who may know.
    fn whom_to_tell(&mut self, node: NodeId) -> Option<NodeId> {
        let known = leader_known_to(&self.replicas, number(node)).map(id).filter(|leader| *leader != node);
        let hint = || self.nodes.get(&node)?.as_member()?.hint;
        if let Some(leader) = known.or_else(hint) {
            return Some(leader);
        }
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != node).collect();
        if others.is_empty() { None } else { Some(*self.rng.pick(&others)) }
    }

    fn send_ask(&mut self, from: NodeId, ask: Ask) {
        let (peer, call) = (ask.peer, ask.call);
        let (inbox, life) = (self.inbox.clone(), self.life(from));
        let unseen = {
            let inbox = inbox.clone();
            move || inbox.tell(from, Some(life), News::Told { call, peer, told: Told::Unseen })
        };
        self.hops.insert((from, call), Hop { peer, silent: 0 });
        if !self.connected.contains(&(from, peer)) {
            if self.is_silent(from, peer) {
                return runtime::after(DIAL_MAX, unseen);
            }
            self.connected.insert((from, peer));
        }
        let there = move || inbox.tell(peer, None, News::Asked { from, ask });
        reach(&self.replicas, from, peer, there, unseen);
    }

    /// Returns whether two nodes hear nothing of each other.
    fn is_silent(&self, one: NodeId, other: NodeId) -> bool {
        let network = self.replicas.network();
        let is_blocked = |from: NodeId, to: NodeId| network.is_blocked(number(from), number(to));
        is_blocked(one, other) || is_blocked(other, one) || self.is_paused(other)
    }

    /// Looks after the connections over which peers have calls.
    pub(super) fn ping(&mut self) {
        let mut hops = std::mem::take(&mut self.hops);
        hops.retain(|(from, call), hop| {
            hop.silent = if self.is_silent(*from, hop.peer) { hop.silent + 1 } else { 0 };
            let is_over = hop.silent >= SILENT_MAX;
            if is_over {
                self.connected.remove(&(*from, hop.peer));
                lose(&self.inbox, *from, *call, hop.peer);
            }
            !is_over
        });
        self.hops = hops;
        self.ping_later();
    }

    pub(super) fn ping_later(&self) {
        let inbox = self.inbox.clone();
        runtime::after(PING_EVERY, move || inbox.push(Tiding::Ping));
    }

    /// A process has ended: whoever gave it calls hears so from its kernel, if that has power.
    pub(super) fn end_connections(&mut self, node: NodeId, has_power: bool) {
        self.connected.retain(|(from, to)| *from != node && *to != node);
        self.hops.retain(|(from, _), _| *from != node);
        if !has_power {
            return;
        }
        for ((from, call), hop) in self.hops.iter().filter(|(_, hop)| hop.peer == node) {
            let (inbox, from, call, peer) = (self.inbox.clone(), *from, *call, hop.peer);
            let carried = move || lose(&inbox, from, call, peer);
            self.replicas.network().carry(number(node), number(from), carried);
        }
        for peer in self.nodes.keys().copied().filter(|peer| *peer != node) {
            let inbox = self.inbox.clone();
            let carried = move || inbox.tell(peer, None, News::PeerGone(node));
            self.replicas.network().carry(number(node), number(peer), carried);
        }
    }

    /// What a node hears of a call settles its hop.
    pub(super) fn settle_hop(&mut self, to: NodeId, news: &News) {
        if let News::Told { call, peer, .. } = news
            && self.hops.get(&(to, *call)).is_some_and(|hop| hop.peer == *peer)
        {
            self.hops.remove(&(to, *call));
        }
    }
}

fn lose(inbox: &Inbox, from: NodeId, call: u128, peer: NodeId) {
    inbox.tell(from, None, News::Told { call, peer, told: Told::Lost });
}
