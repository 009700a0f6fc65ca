//! A node as one of several: what it wants of the log and of the others, and what it hears from them.
//!
//! Nothing here happens at once: what a member wants is listed in [`Member::outgoing`], and whoever drives the cluster carries it
//! there. What it hears comes as [`News`], an event like any other.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use control_plane::controller::{self, Beat};
use control_plane::model::{Digest, Epoch, FeatureLevel, InstanceId, NodeId, RevisionId, Timestamp};
use control_plane::route::Elsewhere;
use control_plane::state::{Command, Rejection, Reply, State};
use control_plane::supervisor::ReportEvent;

use crate::hop::{Ask, Told};
use crate::journal::Who;
use crate::log::Proposer;
use crate::node::{Event, Footing, Node};
use crate::sandbox::Stage;
use crate::session::Session;

/// How often a node says that it is there, as `node` does.
const BEAT_EVERY: Duration = Duration::from_millis(500);

/// How long whoever leads has to answer.
pub(crate) const BEAT_MAX: Duration = Duration::from_millis(700);

/// How long a node waits before it tries to register again.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);

/// A node's part in its cluster; one process of it knows this, and no other.
#[derive(Debug, Default)]
pub(crate) struct Member {
    /// What it has proposed since it registered.
    pub(crate) session: Session,
    /// Its replica leads, as far as it knows.
    pub(crate) leads: bool,
    /// What is to be done outside, in order.
    pub(crate) outgoing: Vec<Outgoing>,
    /// The epoch in which this process has registered.
    epoch: Epoch,
    is_registering: bool,
    /// What no leader has taken yet.
    untold: VecDeque<ReportEvent>,
    /// The beat that is under way, and how much of what is untold it carries.
    beating: Option<(u64, usize)>,
    beats: u64,
    /// Who took the last beat.
    taken_by: Option<NodeId>,
    /// Who leads, as far as somebody has said.
    pub(crate) hint: Option<NodeId>,
    /// What it has applied.
    pub(crate) seen: Seen,
    /// What it knows of where else calls are served, as of when it last followed the state.
    pub(crate) elsewhere: Elsewhere,
    /// Until when it believes that it has no room for a revision.
    pub(crate) declined: BTreeMap<RevisionId, Timestamp>,
    /// Until when peers that were out of reach are left out.
    pub(crate) shunned: BTreeMap<NodeId, Timestamp>,
    /// Counts the calls that went elsewhere.
    pub(crate) turn: u64,
}

/// What a member wants done.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    /// A command is to get into the log.
    Propose(Command, Proposer),
    /// Whoever leads is to hear this; the number is that of the beat.
    Beat(u64, Beat),
    /// A peer is to serve a call.
    Ask(Ask),
    /// A peer is to hear what became of the call that it passed on.
    Tell { to: NodeId, call: u128, told: Told },
    /// An instance was started here.
    Started(InstanceId),
    /// An instance of a revision with this image was ready.
    Proved(RevisionId, Digest),
}

/// An applied state and what follows from it alone, shared by all who have applied as much.
///
/// Told by its index, or a line of it would be as long as the state.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Arc<State>,
    elsewhere: OnceLock<Elsewhere>,
}

impl Seen {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self(Arc::new(Shared { state, elsewhere: OnceLock::new() }))
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.0.state)
    }

    /// Returns what a node knows of the others.
    pub(crate) fn elsewhere(&self, here: NodeId) -> Elsewhere {
        self.0.elsewhere.get_or_init(|| Elsewhere::new(&self.0.state, here)).seen_from(here)
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state {}", self.0.state.index)
    }
}

/// What a member hears.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// More of the log is applied here.
    Applied(Seen),
    /// Its replica leads from here on, or no more.
    Leads(bool),
    /// A proposal was answered, or nobody knows what became of it.
    Answered(Command, Proposer, Option<Result<Reply, Rejection>>),
    /// A node says that it is there.
    Heard(Beat),
    /// A beat was taken or not; whoever did not take it may have said who leads.
    BeatOver { number: u64, by: Option<NodeId>, hint: Option<NodeId> },
    /// The next beat is due.
    BeatDue,
    /// It is time to try again to register.
    RegisterDue,
    /// A peer passes on a call.
    Asked { from: NodeId, ask: Ask },
    /// A call that a peer was given came to this.
    Told { call: u128, peer: NodeId, told: Told },
    /// A call has been elsewhere for longer than it may.
    Overdue(u128),
    /// A peer whose calls may wait here has gone.
    PeerGone(NodeId),
}

impl Node {
    fn member(&mut self) -> Option<&mut Member> {
        match &mut self.footing {
            Footing::Alone(_) => None,
            Footing::Member(member) => Some(member),
        }
    }

    /// Returns this node's part in its cluster, if it has one.
    pub(crate) fn as_member(&self) -> Option<&Member> {
        match &self.footing {
            Footing::Alone(_) => None,
            Footing::Member(member) => Some(member),
        }
    }

    pub(crate) fn send(&mut self, outgoing: Outgoing) {
        if let Some(member) = self.member() {
            member.outgoing.push(outgoing);
        }
    }

    /// Takes what this member wants done.
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        self.member().map(|member| std::mem::take(&mut member.outgoing)).unwrap_or_default()
    }

    /// Its daemon runs, on what its replica has applied: it says that it is there, and registers.
    pub(crate) fn boot(&mut self, seen: &Seen) {
        self.see(seen);
        self.tell(Who::Nobody, || "the daemon starts".to_owned());
        self.at(self.now, Event::News(self.life, News::BeatDue));
        self.at(self.now, Event::News(self.life, News::RegisterDue));
    }

    /// Its daemon has ended, and with the machine's power what it had started.
    pub(crate) fn fall(&mut self, has_power: bool) {
        self.tell(Who::Nobody, || if has_power { "the daemon is killed" } else { "the power fails" }.to_owned());
        self.end_life();
        if has_power {
            self.orphan_sandboxes();
        } else {
            self.sandboxes.clear();
        }
        if let Some(member) = self.member() {
            *member = Member::default();
        }
    }

    /// Its daemon comes back with the newest version.
    pub(crate) fn upgrade(&mut self) {
        self.features = FeatureLevel::NEWEST;
        self.count("nodes upgraded");
        self.tell(Who::Nobody, || "is upgraded".to_owned());
    }

    pub(crate) fn hear(&mut self, news: News) {
        match news {
            News::Applied(seen) => self.applied(&seen),
            News::Leads(leads) => self.follow_leadership(leads),
            News::Answered(command, proposer, result) => self.answered(command, proposer, result),
            News::Heard(beat) => self.feed_controller(|state| controller::Input::Heard(state, beat)),
            News::BeatOver { number, by, hint } => self.beat_over(number, by, hint),
            News::BeatDue => {
                self.after(BEAT_EVERY, Event::News(self.life, News::BeatDue));
                self.beat();
            }
            News::RegisterDue => self.register_if_due(),
            News::Asked { from, ask } => self.call_asked(from, ask),
            News::Told { call, peer, told } => self.call_told(call, peer, told),
            News::Overdue(call) => self.call_overdue(call),
            News::PeerGone(peer) => self.hang_up_for(peer),
        }
    }

    fn see(&mut self, seen: &Seen) {
        self.state = seen.state();
        if let Some(member) = self.member() {
            member.seen = seen.clone();
        }
    }

    fn applied(&mut self, seen: &Seen) {
        self.see(seen);
        self.changed();
        self.feed_controller(|state| controller::Input::Applied(state));
        self.register_if_due();
    }

    fn follow_leadership(&mut self, leads: bool) {
        let Some(member) = self.member() else { return };
        if std::mem::replace(&mut member.leads, leads) == leads {
            return;
        }
        self.tell(Who::Nobody, || if leads { "leads" } else { "leads no more" }.to_owned());
        if leads {
            self.feed_controller(|state| controller::Input::Applied(state));
        } else {
            let effects = self.controller.on_input(self.now, controller::Input::Deposed);
            if !effects.is_empty() {
                self.blame(format!("a deposed controller proposes {effects:?}"));
            }
        }
    }

    fn answered(&mut self, command: Command, proposer: Proposer, result: Option<Result<Reply, Rejection>>) {
        match (proposer, result) {
            (Proposer::Controller, Some(result)) => {
                self.feed_controller(|state| controller::Input::Answered(state, command, result));
            }
            (Proposer::Daemon, Some(Ok(Reply::Registered { epoch }))) => self.registered(epoch),
            (Proposer::Daemon, result) => {
                if let Some(Err(Rejection::NodeTooOld { .. })) = result {
                    self.count("nodes too old");
                    // Nobody starts it again as it is.
                    self.upgrade();
                }
                if let Some(member) = self.member() {
                    member.is_registering = false;
                }
                self.after(REGISTER_AGAIN, Event::News(self.life, News::RegisterDue));
            }
            (Proposer::Operator, Some(Ok(Reply::Done { index } | Reply::Deployed { index, .. }))) => {
                self.journal.acknowledged.push(index);
            }
            (Proposer::Operator, Some(Err(rejection))) => {
                self.tell(Who::Nobody, || format!("the operator is refused: {rejection}"));
            }
            (Proposer::Controller | Proposer::Supervisor | Proposer::Operator, _) => {}
        }
    }

    fn registered(&mut self, epoch: Epoch) {
        let id = self.id;
        let Some(member) = self.member() else { return };
        (member.epoch, member.is_registering) = (epoch, false);
        member.session.begin(id, epoch);
        self.tell(Who::Nobody, || format!("has registered in epoch {}", epoch.0));
        if !self.is_up {
            self.begin();
        }
        self.changed();
        // It may have been given up in between.
        self.register_if_due();
    }

    /// Registers, unless it has and nobody has given it up since.
    fn register_if_due(&mut self) {
        let known = self.state.nodes.get(&self.id).map(|known| (known.epoch, known.is_dead));
        let (id, (epoch, is_dead)) = (self.id, known.unwrap_or_default());
        let Some(member) = self.member() else { return };
        if member.epoch != Epoch::default() && !is_dead {
            // A registration whose answer got lost may be applied behind the one that was answered.
            if member.epoch < epoch {
                member.epoch = epoch;
                member.session.begin(id, epoch);
            }
            return;
        }
        if member.is_registering {
            return;
        }
        member.is_registering = true;
        self.register();
    }

    /// Keeps what the leader is to hear, and says it at once unless a beat is under way.
    pub(crate) fn note_report(&mut self, event: ReportEvent) {
        if let Some(member) = self.member() {
            member.untold.push_back(event);
        }
        self.beat();
    }

    fn beat(&mut self) {
        let (node, leads) = (self.id, self.leads());
        if leads {
            self.tell_newcomer(node);
        }
        let Some(member) = self.member() else { return };
        let beat = Beat { node, epoch: member.epoch, events: member.untold.iter().cloned().collect() };
        if leads {
            member.untold.clear();
            return self.feed_controller(|state| controller::Input::Heard(state, beat));
        }
        if member.beating.is_some() {
            return;
        }
        member.beats += 1;
        let number = member.beats;
        member.beating = Some((number, beat.events.len()));
        member.outgoing.push(Outgoing::Beat(number, beat));
        let missed = News::BeatOver { number, by: None, hint: None };
        self.after(BEAT_MAX, Event::News(self.life, missed));
    }

    fn beat_over(&mut self, number: u64, by: Option<NodeId>, hint: Option<NodeId>) {
        let Some(member) = self.member() else { return };
        let Some((_, told)) = member.beating.take_if(|beating| beating.0 == number) else { return };
        member.hint = by.or(hint);
        let Some(leader) = by else { return };
        member.untold.drain(..told.min(member.untold.len()));
        if member.taken_by != Some(leader) {
            self.tell_newcomer(leader);
        }
        // What happened meanwhile waits for no further beat.
        if self.member().is_some_and(|member| !member.untold.is_empty()) {
            self.beat();
        }
    }

    /// A leader that has just come to lead knows of no instance that is ready.
    fn tell_newcomer(&mut self, leader: NodeId) {
        let ready: Vec<ReportEvent> = self
            .sandboxes
            .iter()
            .filter(|(_, sandbox)| sandbox.stage == Stage::Ready)
            .map(|(instance, sandbox)| ReportEvent::Ready { instance: *instance, revision: sandbox.revision.clone() })
            .collect();
        let Some(member) = self.member() else { return };
        if member.taken_by.replace(leader) != Some(leader) {
            member.untold.extend(ready);
        }
    }
}
