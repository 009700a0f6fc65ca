//! Calls that another node serves, as `node`'s gateway passes them on: at most one hop, and to the next peer only while no
//! instance can have seen the call.

use std::collections::VecDeque;
use std::time::Duration;

use control_plane::model::{FunctionName, NodeId, RevisionId, Timestamp};
use control_plane::route::Live;

use crate::call::{self, Outcome};
use crate::journal::Who;
use crate::member::{News, Outgoing};
use crate::node::{Event, Footing, Node};

/// How many peers are asked for one call.
const PEERS_MAX: u8 = 3;

/// How long a node believes that it has no room for a revision, and asks peers straight away.
const DECLINE_KEPT: Duration = Duration::from_secs(1);

/// How long a peer that could not be reached is left out.
const SHUNNED_FOR: Duration = Duration::from_secs(1);

/// How much longer than at the peer a call may take here before it is given up.
const GRACE: Duration = Duration::from_secs(1);

/// What one node asks of another.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) peer: NodeId,
    /// The call, as the node that asks counts.
    pub(crate) call: u128,
    pub(crate) function: FunctionName,
    pub(crate) revision: RevisionId,
    pub(crate) errand: call::Errand,
}

/// What becomes of a call at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Done,
    Failed(String),
    /// No instance has seen it.
    Turned,
    /// It never reached the peer.
    Unseen,
    /// The peer went away, and an instance may have seen it.
    Lost,
}

/// The peers that may serve a call.
#[derive(Debug)]
pub(crate) struct Away {
    order: VecDeque<NodeId>,
    asked: u8,
    /// Who has it.
    pub(crate) peer: Option<NodeId>,
}

impl Node {
    /// Returns who is to serve a call that this node need not even try to serve.
    pub(crate) fn straight_away(&mut self, revision: &RevisionId) -> Option<VecDeque<NodeId>> {
        let takes = self.traffic.lines.get(revision).is_some_and(|line| line.dispatch.taking() > 0);
        let member = self.as_member().filter(|member| !takes && member.elsewhere.has_peers())?;
        let is_declined = member.declined.get(revision).is_some_and(|until| self.now < *until);
        if is_declined || member.elsewhere.is_only_elsewhere(revision) { self.peers_for(revision) } else { None }
    }

    /// Returns who may serve a call of a revision of which this node has just found that it has no room.
    pub(crate) fn peers_after_decline(&mut self, revision: &RevisionId) -> Option<VecDeque<NodeId>> {
        let until = self.now + DECLINE_KEPT;
        let Footing::Member(member) = &mut self.footing else { return None };
        member.declined.insert(revision.clone(), until);
        self.peers_for(revision)
    }

    fn peers_for(&mut self, revision: &RevisionId) -> Option<VecDeque<NodeId>> {
        let now = self.now;
        let Footing::Member(member) = &mut self.footing else { return None };
        member.turn += 1;
        let is_shunned = |peer: NodeId| member.shunned.get(&peer).is_some_and(|until: &Timestamp| now < *until);
        let order = member.elsewhere.order(revision, member.turn - 1, is_shunned, |_| false);
        (!order.is_empty()).then(|| order.into())
    }

    /// Gives a call to the first of some peers that takes it.
    pub(crate) fn go_away(&mut self, call: u128, order: VecDeque<NodeId>) {
        let Some(entry) = self.traffic.calls.get_mut(&call) else { return };
        entry.away = Some(Away { order, asked: 0, peer: None });
        let timeout = self.state.revision(&entry.revision).map(|revision| revision.spec.timeout).unwrap_or_default();
        let wait = self.swarm.queue_wait + timeout + GRACE;
        self.after(wait, Event::News(self.life, News::Overdue(call)));
        self.ask_next(call);
    }

    fn ask_next(&mut self, call: u128) {
        let Some(entry) = self.traffic.calls.get_mut(&call) else { return };
        let Some(away) = &mut entry.away else { return };
        let next = if away.asked < PEERS_MAX { away.order.pop_front() } else { None };
        (away.peer, away.asked) = (next, away.asked + 1);
        let Some(peer) = next else {
            return self.end(call, Outcome::Refused, "503, neither this node nor its peers have room");
        };
        let (function, revision, errand) = (entry.function.clone(), entry.revision.clone(), entry.errand);
        self.tell(Who::Call(call), || format!("goes to {peer}"));
        self.count("asked of a peer");
        self.send(Outgoing::Ask(Ask { peer, call, function, revision, errand }));
    }

    /// A peer passes on a call: it is served here or refused.
    pub(crate) fn call_asked(&mut self, from: NodeId, ask: Ask) {
        let routes = self.traffic.routes.as_ref().filter(|_| self.is_up);
        let Some(target) = routes.and_then(|routes| routes.function(ask.function.as_str())) else {
            // Without routes nobody listens for peers yet.
            let told = if routes.is_some() { Told::Turned } else { Told::Unseen };
            return self.send(Outgoing::Tell { to: from, call: ask.call, told });
        };
        let revision = match (target.revision(ask.revision.number), &target.live) {
            (Some(served), _) | (None, Live::Revision(served)) => served.id.clone(),
            (None, Live::Starting | Live::Failed(_)) => {
                return self.send(Outgoing::Tell { to: from, call: ask.call, told: Told::Turned });
            }
        };
        self.count("hops");
        self.traffic.hops += 1;
        let call = self.enter(ask.function, revision.clone(), ask.errand, Some((from, ask.call)));
        self.give(call, &revision);
    }

    /// A call that a peer was given came to something.
    pub(crate) fn call_told(&mut self, call: u128, peer: NodeId, told: Told) {
        let entry = self.traffic.calls.get(&call);
        if entry.and_then(|entry| entry.away.as_ref()).is_none_or(|away| away.peer != Some(peer)) {
            return;
        }
        match told {
            Told::Done => self.end(call, Outcome::Done, "is answered"),
            Told::Failed(why) => self.end(call, Outcome::Failed, &why),
            Told::Turned => self.ask_next(call),
            Told::Unseen => {
                let until = self.now + SHUNNED_FOR;
                if let Footing::Member(member) = &mut self.footing {
                    member.shunned.insert(peer, until);
                }
                self.ask_next(call);
            }
            Told::Lost => {
                self.count("lost with a peer");
                self.end(call, Outcome::Failed, "502, the peer went away within the call");
            }
        }
    }

    pub(crate) fn call_overdue(&mut self, call: u128) {
        if self.traffic.calls.get(&call).is_some_and(|entry| entry.away.is_some()) {
            self.end(call, Outcome::Failed, "504, the peer took too long");
        }
    }

    /// A peer has gone: the calls that it passed on and that wait here have nobody who waits for them.
    pub(crate) fn hang_up_for(&mut self, peer: NodeId) {
        let calls = self.traffic.calls.iter();
        let waiting =
            calls.filter(|(_, entry)| entry.instance.is_none() && entry.from.is_some_and(|from| from.0 == peer));
        let waiting: Vec<u128> = waiting.map(|(call, _)| *call).collect();
        for call in waiting {
            self.call_cancelled(call);
        }
    }
}
