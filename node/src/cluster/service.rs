//! What a node does for other nodes.

use control_plane::codec;
use control_plane::controller::Beat;
use control_plane::model::{Epoch, NodeId};
use proto::v1;
use proto::v1::peers_server::{Peers, PeersServer};
use tonic::{Request, Response, Status};

use super::Cluster;
use super::admission::digest_of_request;
use crate::peering::Caller;

/// How many reports come with one beat, at most.
pub(super) const REPORTS_MAX: usize = 1024;

/// How long an address may be, in bytes: a name of DNS and a port.
const ADDRESS_MAX_BYTES: usize = 300;

/// Answers other nodes.
pub(super) struct Answers(Cluster);

/// Returns the service.
pub(super) fn server(cluster: &Cluster) -> PeersServer<Answers> {
    PeersServer::new(Answers(cluster.clone()))
}

/// Returns which node makes a request.
fn caller<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let caller = request.extensions().get::<Caller>().and_then(|caller| caller.0);
    caller.map(|peer| peer.node).ok_or_else(|| Status::unauthenticated("nobody is known to ask"))
}

#[tonic::async_trait]
impl Peers for Answers {
    async fn beat(&self, request: Request<v1::BeatRequest>) -> Result<Response<v1::BeatReply>, Status> {
        let node = caller(&request)?;
        let v1::BeatRequest { epoch, address, reports } = request.into_inner();
        if address.len() > ADDRESS_MAX_BYTES || reports.len() > REPORTS_MAX {
            return Err(Status::invalid_argument("that is no beat: it is too long"));
        }
        let raft = self.0.raft()?;
        if !raft.is_leader() {
            let leader = raft.members().leader.filter(|leader| *leader != self.0.node());
            let leader = leader.and_then(|node| Some(v1::Contact { node: node.0, address: self.0.address_of(node)? }));
            return Ok(Response::new(v1::BeatReply { taken: false, leader, suspected: Vec::new() }));
        }
        // What a newer node reports and this one does not know must not silence the node.
        let events = reports.into_iter().filter_map(|report| {
            let decoded = codec::decode_report(report);
            decoded.inspect_err(|error| tracing::warn!(%node, %error, "a report is not understood")).ok()
        });
        self.0.take(Beat { node, epoch: Epoch(epoch), events: events.collect() }, address)?;
        let suspected = self.0.suspects().told().into_iter().map(|node| node.0).collect();
        Ok(Response::new(v1::BeatReply { taken: true, leader: None, suspected }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::CertificateReply>, Status> {
        let node = caller(&request)?;
        let issued = self.0.issue_here(&request.into_inner().request, node)?;
        issued.map(Response::new).ok_or_else(|| Status::unavailable("this node does not hold the authority"))
    }

    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::CertificateReply>, Status> {
        let v1::IssueRequest { request, node } = request.into_inner();
        let node = NodeId(node);
        // Nobody gets a certificate in the name of a node that is there, nor of one that somebody else is to be.
        let digest = digest_of_request(&request);
        if !self.0.raft()?.read(|state| state.admitted.get(&node).is_some_and(|known| known.request == digest)) {
            return Err(Status::permission_denied(format!("{node} was not let in just now")));
        }
        let issued = self.0.issue_here(&request, node)?;
        issued.map(Response::new).ok_or_else(|| Status::unavailable("this node does not hold the authority"))
    }

    async fn authority(&self, request: Request<v1::AuthorityRequest>) -> Result<Response<v1::AuthorityReply>, Status> {
        let node = caller(&request)?;
        if !self.0.raft()?.members().voters.contains_key(&node) {
            return Err(Status::permission_denied(format!("{node} does not vote")));
        }
        let authority = self.0.standing().authority.clone();
        let authority = authority.ok_or_else(|| Status::unavailable("this node does not hold the authority"))?;
        Ok(Response::new(v1::AuthorityReply { authority: authority.reveal() }))
    }

    async fn hand_over(&self, request: Request<v1::HandOverRequest>) -> Result<Response<v1::HandOverReply>, Status> {
        let to = request.into_inner().to;
        let handed = self.0.hand_over(self.0.raft()?, (to != 0).then_some(NodeId(to))).await;
        let leader = handed.map_err(|error| Status::failed_precondition(error.to_string()))?.0;
        Ok(Response::new(v1::HandOverReply { leader }))
    }

    async fn instances(&self, _: Request<v1::InstancesRequest>) -> Result<Response<v1::InstancesReply>, Status> {
        let here = self.0.instances_here();
        let instances = here.iter().filter_map(|instance| serde_json::to_string(instance).ok()).collect();
        Ok(Response::new(v1::InstancesReply { instances }))
    }
}

impl Cluster {
    /// Takes a beat while this node leads.
    pub(super) fn take(&self, beat: Beat, address: String) -> Result<(), Status> {
        if !address.is_empty() {
            self.addresses().insert(beat.node, address);
        }
        // A controller that does not keep up hears the next one; what was reported comes with it again.
        self.0.beats.try_send(beat).map_err(|_| Status::resource_exhausted("the leader does not keep up"))
    }
}
