//! A node among others: how it is let in, says that it is there, keeps its certificate, and who votes.
//!
//! ```text
//!                  ┌─ enter ───────▶ admission (any node) ─▶ Command::Admit, Authority::issue
//!   this machine ──┤
//!                  └─ presence ────▶ service (the leader) ─▶ controller: heard of, reports
//!                        beats                          └──▶ voters: learner, then voter
//! ```

mod address;
mod admission;
mod enter;
mod instances;
mod presence;
mod service;
mod standing;
mod suspects;
mod transfer;
mod voters;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use control_plane::controller::Beat;
use control_plane::model::{Digest, NodeId, Timestamp};
use proto::v1::peers_client::PeersClient;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub use self::address::advertised;
pub use self::enter::{ENTER_MAX, EnterError, Entered, enter, return_if_ended};
pub use self::presence::{BEAT_EVERY, Presence, Refused};
pub use self::standing::{Contact, FOUNDER, Standing, StandingError};
pub use self::suspects::Suspects;

use crate::agent::Instances;
use crate::auth::{PeerId, PeerTls, Protocol};
use crate::clock::Clock;
use crate::gateway::{Dial, Dialing, PeerIo, Traffic};
use crate::image::{ImagePeer, ImagePeers, Store};
use crate::peering::{Dialer, Door, PeerStream};
use crate::raft::{self, Raft};

/// How long a question to another node may take.
const ASK_MAX: Duration = Duration::from_secs(2);

/// This node's place in its cluster; cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    peer: PeerId,
    address: String,
    clock: Clock,
    /// How long the certificates are good for that this node issues.
    life: Duration,
    tls: PeerTls,
    standing: Mutex<Standing>,
    raft: Arc<OnceLock<Raft>>,
    /// To the controller, which takes them while this node leads.
    beats: mpsc::Sender<Beat>,
    /// Where each node said that it is reached, while this node leads.
    addresses: Mutex<BTreeMap<NodeId, String>>,
    suspects: Suspects,
    instances: Instances,
    traffic: Traffic,
}

impl Cluster {
    /// Takes the place of `standing`; other nodes reach it at `address`, and are told of what is `running`. The certificates that it
    /// issues are good for `life`.
    pub fn new(
        standing: Standing,
        address: String,
        (clock, life): (Clock, Duration),
        running: (Instances, Traffic),
        beats: mpsc::Sender<Beat>,
    ) -> Self {
        let (instances, traffic) = running;
        let raft: Arc<OnceLock<Raft>> = Arc::default();
        let tls = PeerTls::new(&standing.identity, &clock, {
            let raft = Arc::clone(&raft);
            move |node| raft.get().is_some_and(|raft| admits(raft, node))
        });
        Self(Arc::new(Shared {
            peer: standing.peer(),
            address,
            clock,
            life,
            tls,
            standing: Mutex::new(standing),
            raft,
            beats,
            addresses: Mutex::default(),
            suspects: Suspects::default(),
            instances,
            traffic,
        }))
    }

    /// Returns which node this is.
    pub fn node(&self) -> NodeId {
        self.0.peer.node
    }

    /// Returns which node this is, and of which cluster.
    pub fn peer(&self) -> PeerId {
        self.0.peer
    }

    /// Returns where other nodes reach this one.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// Returns whom calls had better avoid.
    pub fn suspects(&self) -> &Suspects {
        &self.0.suspects
    }

    /// Returns how the consensus of this node reaches its peers.
    pub fn raft_peers(&self) -> raft::Peers {
        // A founder that has known others founds nothing again, even when its log is gone.
        let is_joining = self.node() != FOUNDER || !self.standing().contacts().is_empty();
        raft::Peers { dialer: self.dialer(), address: self.0.address.clone(), is_joining }
    }

    /// Returns the digest of the certificate of the cluster's authority.
    pub fn authority(&self) -> Digest {
        self.standing().identity.authority()
    }

    /// Returns when the certificate ends that this node shows.
    pub fn certificate_end(&self) -> Timestamp {
        self.standing().identity.not_after()
    }

    /// Returns what connects to other nodes.
    pub fn dialer(&self) -> Dialer {
        Dialer::Mutual(self.0.tls.clone())
    }

    /// Answers other nodes on `listener` until `stop`, once the consensus of this node runs.
    ///
    /// Returns the connections over which peers hand calls over.
    pub fn serve(
        &self,
        raft: &Raft,
        images: &Store,
        listener: TcpListener,
        stop: &CancellationToken,
    ) -> mpsc::Receiver<PeerStream> {
        // It is opened once, with this.
        let _ = self.0.raft.set(raft.clone());
        let (door, visitors) = Door::new(listener, self.0.tls.clone());
        let (mut rpc, mut join) = (visitors.rpc, visitors.join);
        tokio::spawn(door.keep(stop.clone()));
        let routes = raft.routes().add_service(service::server(self)).add_service(images.sharing());
        let incoming = futures_util::stream::poll_fn(move |context| rpc.poll_recv(context));
        let check = {
            let raft = raft.clone();
            move |caller: Option<PeerId>| caller.is_some_and(|peer| admits(&raft, peer.node))
        };
        tokio::spawn(told(raft::serve(incoming, routes, check, stop.clone())));
        let joining = futures_util::stream::poll_fn(move |context| join.poll_recv(context));
        tokio::spawn(told(admission::serve(self.clone(), joining, stop.clone())));
        tokio::spawn(voters::run(self.clone(), raft.clone(), stop.clone()));
        visitors.calls
    }

    /// Returns where another node is reached, as far as this one knows.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        let members = self.0.raft.get()?.members();
        members.voters.get(&node).or_else(|| members.learners.get(&node)).cloned()
    }

    /// Returns the other nodes that have registered and that nobody declared dead, and where they are reached.
    fn living_others(&self, raft: &Raft) -> Vec<(NodeId, String)> {
        let members = raft.members();
        let living: BTreeSet<NodeId> = raft.read(|state| {
            let living = state.nodes.iter().filter(|(_, node)| !node.is_dead);
            living.map(|(id, _)| *id).collect()
        });
        let all = members.voters.into_iter().chain(members.learners);
        all.filter(|(node, _)| *node != self.node() && living.contains(node)).collect()
    }

    fn ask(&self, raft: &Raft, node: NodeId, address: &str) -> PeersClient<Channel> {
        PeersClient::new(raft.peer(node, address))
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<NodeId, String>> {
        self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Cluster {
    fn dial(&self, node: NodeId) -> Dialing<'_> {
        Box::pin(async move {
            let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("nobody knows where {node} is"));
            let address = self.address_of(node).ok_or_else(unknown)?;
            let stream = self.dialer().dial(node, &address, Protocol::Calls).await?;
            Ok(Box::new(stream) as Box<dyn PeerIo>)
        })
    }

    fn is_suspected(&self, node: NodeId) -> bool {
        self.suspects().contains(node)
    }
}

impl ImagePeers for Cluster {
    fn peers(&self) -> Vec<ImagePeer> {
        let Some(raft) = self.0.raft.get() else { return Vec::new() };
        let others = self.living_others(raft).into_iter();
        others.map(|(node, address)| ImagePeer { node, channel: raft.peer_for_bulk(node, &address) }).collect()
    }
}

/// Returns whether a node with a good certificate is let in: it is a member, or this node has no state yet to know its members
/// by and waits for those who bring it.
fn admits(raft: &Raft, node: NodeId) -> bool {
    raft.read(|state| state.nodes.is_empty() || state.is_member(node))
}

async fn told<E: std::error::Error + 'static>(serving: impl Future<Output = Result<(), E>>) {
    if let Err(error) = serving.await {
        tracing::error!(error = &error as &dyn std::error::Error, "peers are not answered any more");
    }
}
