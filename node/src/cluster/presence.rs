//! Says to whoever leads that this node is there, registers it, and keeps its certificate good.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use control_plane::codec;
use control_plane::controller::Beat;
use control_plane::model::{Epoch, InstanceId, NodeId, NodeSpec};
use control_plane::state::{Command, Rejection, Reply};
use control_plane::supervisor::{Report, ReportEvent};
use proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::enter::next_identity;
use super::service::REPORTS_MAX;
use super::standing::{Contact, StandingError};
use super::{ASK_MAX, Cluster};
use crate::agent::Phase;
use crate::auth::NewKey;
use crate::raft::{ProposeError, Raft};

/// How often a node says that it is there.
pub const BEAT_EVERY: Duration = Duration::from_millis(500);

/// How long whoever leads has to answer.
const BEAT_MAX: Duration = Duration::from_millis(700);

/// How long a node waits before it tries to register again.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);

/// How often a node that cannot register says so.
const TELL_EVERY: u32 = 10;

/// How often certificate, authority and contacts are looked after.
const CARE_EVERY: Duration = Duration::from_secs(1);

/// What keeps a node known to the others.
#[derive(Debug)]
pub struct Presence {
    cluster: Cluster,
    raft: Raft,
    spec: NodeSpec,
    reports: mpsc::Receiver<Report>,
    /// What no leader has taken yet.
    untold: VecDeque<ReportEvent>,
    /// Who leads, as far as somebody has said.
    leader: Option<Contact>,
    /// Which of the contacts is asked next.
    turn: usize,
    /// Who leads, and in which term, to whom everything that is ready here was told.
    told: Option<(NodeId, u64)>,
    registered: watch::Sender<Option<Epoch>>,
    /// Why the cluster does not take this node, if it never will.
    refused: watch::Sender<Option<Refused>>,
}

/// Why the cluster does not take a node, and never will as it is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// It is not registered.
    #[error(transparent)]
    Registration(Rejection),
    /// It gets no other certificate.
    #[error(transparent)]
    Certificate(Arc<StandingError>),
}

impl Presence {
    /// Makes the presence of a node that describes itself by `spec`.
    pub fn new(cluster: Cluster, raft: Raft, spec: NodeSpec, reports: mpsc::Receiver<Report>) -> Self {
        Self {
            cluster,
            raft,
            spec,
            reports,
            untold: VecDeque::new(),
            leader: None,
            turn: 0,
            told: None,
            registered: watch::Sender::new(None),
            refused: watch::Sender::new(None),
        }
    }

    /// Returns a channel that tells in which epoch this process has registered, once it has.
    pub fn registered(&self) -> watch::Receiver<Option<Epoch>> {
        self.registered.subscribe()
    }

    /// Returns a channel that tells why the cluster does not take this node, if it never will as it is.
    pub fn refused(&self) -> watch::Receiver<Option<Refused>> {
        self.refused.subscribe()
    }

    /// Runs until `stop`, or until the node is refused.
    pub async fn run(mut self, stop: CancellationToken) {
        let registering = register(self.cluster.clone(), self.raft.clone(), self.spec.clone(), self.registered.clone());
        let caring = care(self.cluster.clone(), self.raft.clone());
        let beating = async {
            let mut ticks = interval(BEAT_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    Some(report) = self.reports.recv() => {
                        self.note(report);
                        while let Ok(report) = self.reports.try_recv() {
                            self.note(report);
                        }
                    }
                }
                self.beat().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = beating => {}
            rejection = registering => {
                self.refused.send_replace(rejection.map(Refused::Registration));
            }
            error = caring => {
                self.refused.send_replace(Some(Refused::Certificate(Arc::new(error))));
            }
        }
    }

    fn note(&mut self, report: Report) {
        if self.untold.len() == REPORTS_MAX {
            tracing::warn!("a report to the leader was dropped");
            self.untold.pop_front();
        }
        self.untold.push_back(report.event);
    }

    /// Says once that this node is there, and what happened on it.
    async fn beat(&mut self) {
        let epoch = self.registered.borrow().unwrap_or_default();
        if self.raft.is_leader() {
            self.tell_newcomer(self.cluster.node());
            let beat = Beat { node: self.cluster.node(), epoch, events: self.untold.iter().cloned().collect() };
            if self.cluster.take(beat, self.cluster.address().to_owned()).is_ok() {
                self.untold.clear();
            }
            return;
        }
        let Some(contact) = self.whom_to_ask() else { return };
        self.tell_newcomer(contact.node);
        let request = v1::BeatRequest {
            epoch: epoch.0,
            address: self.cluster.address().to_owned(),
            reports: self.untold.iter().map(codec::encode_report).collect(),
        };
        let mut peer = self.cluster.ask(&self.raft, contact.node, &contact.address);
        let answered = timeout(BEAT_MAX, peer.beat(request)).await;
        let reply = match answered {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return self.missed(&contact, status.message()),
            Err(_) => {
                self.cluster.suspects().add(contact.node);
                return self.missed(&contact, "it does not answer");
            }
        };
        self.cluster.suspects().remove(contact.node);
        if reply.taken {
            self.untold.clear();
            self.cluster.suspects().replace(reply.suspected.into_iter().map(NodeId).collect());
            self.leader = Some(contact);
        } else if let Some(leader) = reply.leader {
            self.leader = Some(Contact { node: NodeId(leader.node), address: leader.address });
        } else {
            self.missed(&contact, "it knows no leader");
        }
    }

    fn missed(&mut self, contact: &Contact, reason: &str) {
        tracing::debug!(node = %contact.node, address = contact.address, reason, "a beat was not taken");
        self.leader = None;
        self.turn = self.turn.wrapping_add(1);
    }

    /// Returns who leads, else who may know.
    fn whom_to_ask(&self) -> Option<Contact> {
        let members = self.raft.members();
        let leader = members.leader.filter(|leader| *leader != self.cluster.node());
        let known = leader.and_then(|node| Some(Contact { node, address: self.cluster.address_of(node)? }));
        if let Some(contact) = known.or_else(|| self.leader.clone()) {
            return Some(contact);
        }
        let others = members.voters.into_iter().chain(members.learners);
        let others = others.map(|(node, address)| Contact { node, address });
        let contacts = self.cluster.standing().contacts().to_vec();
        let all: Vec<Contact> = others.chain(contacts).filter(|contact| contact.node != self.cluster.node()).collect();
        all.get(self.turn.checked_rem(all.len())?).cloned()
    }

    /// A leader that has just come to lead knows of no instance that is ready.
    fn tell_newcomer(&mut self, leader: NodeId) {
        let newcomer = (leader, self.raft.metrics().term);
        if self.told == Some(newcomer) {
            return;
        }
        self.told = Some(newcomer);
        let ready = self.cluster.0.instances.list().into_iter().filter(|view| view.phase == Phase::Ready);
        let known: Vec<InstanceId> = self.untold.iter().map(of).collect();
        for view in ready.filter(|view| !known.contains(&view.instance)) {
            let event = ReportEvent::Ready { instance: view.instance, revision: view.revision };
            let node = self.cluster.node();
            self.note(Report { node, event });
        }
    }
}

fn of(event: &ReportEvent) -> InstanceId {
    match event {
        ReportEvent::Ready { instance, .. } | ReportEvent::StartFailed { instance, .. } => *instance,
    }
}

/// Registers this node, and again whenever it was given up; ends with the reason if it never will be taken as it is.
async fn register(
    cluster: Cluster,
    raft: Raft,
    spec: NodeSpec,
    registered: watch::Sender<Option<Epoch>>,
) -> Option<Rejection> {
    let node = cluster.node();
    let mut changes = raft.changes();
    let mut attempts: u32 = 0;
    loop {
        let told = *registered.borrow();
        let (epoch, is_dead) = raft.read(|state| {
            let known = state.nodes.get(&node);
            (known.map(|known| known.epoch), known.is_some_and(|known| known.is_dead))
        });
        if told.is_some() && !is_dead {
            // A registration whose answer got lost may be applied behind the one that was answered.
            if let Some(epoch) = epoch.filter(|epoch| told < Some(*epoch)) {
                raft.begin_session(node, epoch);
                registered.send_replace(Some(epoch));
            }
            attempts = 0;
            if changes.changed().await.is_err() {
                return None;
            }
            continue;
        }
        if told.is_some() {
            tracing::warn!(%node, "this node was given up: it registers again");
        }
        match raft.propose(Command::RegisterNode { node, spec: spec.clone() }).await {
            Ok(Reply::Registered { epoch }) => {
                tracing::info!(%node, epoch = epoch.0, "registered");
                raft.begin_session(node, epoch);
                registered.send_replace(Some(epoch));
                continue;
            }
            Err(ProposeError::Rejected(rejection @ Rejection::NodeTooOld { .. })) => return Some(rejection),
            Ok(reply) => tracing::error!(?reply, "registering was answered with something else"),
            Err(error) if attempts.is_multiple_of(TELL_EVERY) => {
                tracing::warn!(%error, "not registered yet: waiting for a leader");
            }
            Err(_) => {}
        }
        attempts = attempts.wrapping_add(1);
        tokio::time::sleep(REGISTER_AGAIN).await;
    }
}

/// Renews the certificate in time, takes over the authority on a voter, and remembers where others are; ends if the cluster gives
/// this node no other certificate.
async fn care(cluster: Cluster, raft: Raft) -> StandingError {
    let mut ticks = interval(CARE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let members = raft.members();
        let everybody = members.voters.iter().chain(&members.learners);
        let others = everybody.filter(|(node, address)| **node != cluster.node() && !address.is_empty());
        let contacts = others.map(|(node, address)| Contact { node: *node, address: address.clone() }).collect();
        if let Err(error) = cluster.standing().set_contacts(contacts) {
            tracing::warn!(error = &error as &dyn std::error::Error, "where other nodes are was not remembered");
        }
        let (renew_at, has_authority) = {
            let standing = cluster.standing();
            (standing.identity.renew_at(), standing.authority.is_some())
        };
        if renew_at <= cluster.0.clock.now() {
            match renew(&cluster, &raft).await {
                Ok(()) => {}
                Err(NotRenewed::Refused(error)) => return error,
                Err(NotRenewed::Yet(reason)) => {
                    tracing::warn!(reason, "the certificate of this node was not renewed yet");
                }
            }
        }
        if !has_authority
            && members.voters.contains_key(&cluster.node())
            && let Err(reason) = take_authority(&cluster, &raft).await
        {
            tracing::debug!(reason, "the authority was not taken over yet");
        }
    }
}

/// Why a node goes on with the certificate that it has.
enum NotRenewed {
    /// It may be tried again.
    Yet(String),
    /// The node does not belong to the cluster any more.
    Refused(StandingError),
}

impl From<String> for NotRenewed {
    fn from(reason: String) -> Self {
        Self::Yet(reason)
    }
}

impl From<StandingError> for NotRenewed {
    fn from(error: StandingError) -> Self {
        match error {
            StandingError::Refused { .. } => Self::Refused(error),
            error => Self::Yet(error.to_string()),
        }
    }
}

async fn renew(cluster: &Cluster, raft: &Raft) -> Result<(), NotRenewed> {
    let standing = cluster.standing().clone();
    let (clock, life) = (&cluster.0.clock, cluster.0.life);
    // Cut off, asleep for longer than the certificate was good, or removed: no port for peers may be open to it any more.
    let is_alone = standing.identity.not_after() <= clock.now() || raft.catch_up().await.is_err();
    let identity = if is_alone {
        let next = next_identity(&standing, clock, life).await?;
        next.ok_or_else(|| "nobody who leads is in reach, and nobody gives it another one".to_owned())?
    } else if let Some(own) = standing.issue_own(clock.now(), life)? {
        own
    } else {
        let key = NewKey::random();
        let request = v1::RenewRequest { request: key.request() };
        let issued = ask_voters(cluster, raft, |mut peer| {
            let request = request.clone();
            async move { peer.renew(request).await }
        });
        let v1::CertificateReply { certificate, authority } = issued.await?;
        let pin = standing.identity.authority();
        key.accept(&certificate.into(), &authority.into(), pin, clock.now()).map_err(StandingError::from)?
    };
    cluster.standing().renew(identity.clone())?;
    cluster.0.tls.renew(&identity).map_err(|error| error.to_string())?;
    tracing::info!("the certificate of this node was renewed");
    Ok(())
}

async fn take_authority(cluster: &Cluster, raft: &Raft) -> Result<(), String> {
    let revealed = ask_voters(cluster, raft, |mut peer| async move { peer.authority(v1::AuthorityRequest {}).await });
    let revealed = revealed.await?.authority;
    let taken: Result<(), StandingError> = cluster.standing().take_authority(&revealed);
    taken.map_err(|error| error.to_string())?;
    tracing::info!("this node votes, and issues certificates from here on");
    Ok(())
}

/// Asks one voter after the other until one answers.
async fn ask_voters<R, F>(
    cluster: &Cluster,
    raft: &Raft,
    ask: impl Fn(proto::v1::peers_client::PeersClient<tonic::transport::Channel>) -> F,
) -> Result<R, String>
where
    F: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
{
    let mut last = "there is no other voter".to_owned();
    for (voter, address) in raft.members().voters.into_iter().filter(|(voter, _)| *voter != cluster.node()) {
        match timeout(ASK_MAX, ask(cluster.ask(raft, voter, &address))).await {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => last = format!("{voter}: {}", status.message()),
            Err(_) => last = format!("{voter} did not answer within {ASK_MAX:?}"),
        }
    }
    Err(last)
}
