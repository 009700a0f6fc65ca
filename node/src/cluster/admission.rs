//! What a node does for machines that have no good certificate: it lets in whoever shows a secret, and takes back members.

use std::io;

use control_plane::model::{Digest, FeatureLevel, NodeId};
use control_plane::state::{Command, NotInvited, Rejection, Reply};
use futures_util::{Stream, StreamExt};
use proto::v1;
use proto::v1::join_server::{Join, JoinServer};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{ASK_MAX, Cluster, ENTER_MAX};
use crate::auth::{IssueError, Secret};
use crate::peering::PeerStream;
use crate::raft::{ProposeError, Raft};

/// How many requests a machine that comes in has open at once.
const STREAMS_MAX: u32 = 4;

/// Answers whoever has no certificate.
struct Admission(Cluster);

/// Answers machines that come in until `stop`; they have nothing to be known by, and may show a secret or an ended certificate.
pub(super) async fn serve(
    cluster: Cluster,
    incoming: impl Stream<Item = PeerStream> + Send + 'static,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .max_connection_age(ENTER_MAX)
        .max_connection_age_grace(ASK_MAX)
        .add_service(JoinServer::new(Admission(cluster)))
        .serve_with_incoming_shutdown(incoming.map(Ok::<_, io::Error>), stop.cancelled_owned());
    serving.await
}

#[tonic::async_trait]
impl Join for Admission {
    async fn enter(&self, request: Request<v1::EnterRequest>) -> Result<Response<v1::EnterReply>, Status> {
        let v1::EnterRequest { secret, request, features } = request.into_inner();
        let secret: Secret = secret.parse().map_err(|_| Status::invalid_argument("the secret is none"))?;
        let raft = self.0.raft()?;
        let (secret, digest) = (secret.hash(), digest_of_request(&request));
        // Whoever knows no secret must not fill the log: only what may be agreed to is put into it.
        raft.catch_up().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let is_hopeless = raft.read(|state| {
            !state.invitations.contains_key(&secret) && !state.admitted.values().any(|known| known.request == digest)
        });
        if is_hopeless {
            return Err(Status::permission_denied(Rejection::NotInvited(NotInvited::Unknown).to_string()));
        }
        let level = FeatureLevel(features);
        let (is_readable, cluster) = raft.read(|state| (state.is_read_by(level), state.features));
        if !is_readable {
            let told = format!("the machine reads feature level {level} of the log, the cluster has {cluster}");
            return Err(Status::failed_precondition(told));
        }
        let node = match raft.propose(Command::Admit { secret, request: digest }).await {
            Ok(Reply::Admitted { node }) => node,
            Ok(reply) => return Err(Status::internal(format!("an admission was answered with {reply:?}"))),
            Err(ProposeError::Rejected(rejection @ (Rejection::NotInvited(_) | Rejection::Limit { .. }))) => {
                return Err(Status::permission_denied(rejection.to_string()));
            }
            Err(error) => return Err(Status::unavailable(error.to_string())),
        };
        tracing::info!(%node, "a machine was let in");
        let certificate = self.0.issue(raft, request, node).await?;
        let members = raft.members();
        let contacts = members.voters.into_iter().chain(members.learners);
        let contacts = contacts.map(|(node, address)| v1::Contact { node: node.0, address }).collect();
        Ok(Response::new(v1::EnterReply { node: node.0, certificate: Some(certificate), contacts }))
    }

    async fn r#return(&self, request: Request<v1::ReturnRequest>) -> Result<Response<v1::CertificateReply>, Status> {
        let v1::ReturnRequest { request, ended } = request.into_inner();
        let raft = self.0.raft()?;
        let authority = self.0.standing().authority.clone();
        let authority = authority.ok_or_else(|| Status::unavailable("this node does not hold the authority"))?;
        let (ended, now) = (CertificateDer::from(ended), self.0.0.clock.now());
        let issued = authority.issue_again(&request, &ended, now, self.0.0.life).map_err(|error| refused(&error))?;
        let (node, certificate) = issued;
        // Without a majority, as while a whole cluster starts again, what is known here counts for a node and not against it.
        let is_current = raft.catch_up().await.is_ok();
        if !raft.read(|state| state.is_member(node)) {
            let told = format!("{node} is not a member");
            return Err(if is_current { Status::permission_denied(told) } else { Status::unavailable(told) });
        }
        tracing::info!(%node, "a node that was away has another certificate");
        let authority = authority.certificate().to_vec();
        Ok(Response::new(v1::CertificateReply { certificate: certificate.to_vec(), authority }))
    }
}

impl Cluster {
    pub(super) fn raft(&self) -> Result<&Raft, Status> {
        self.0.raft.get().ok_or_else(|| Status::unavailable("this node is starting"))
    }

    /// Issues a certificate to a node, or asks a voter to.
    pub(super) async fn issue(
        &self,
        raft: &Raft,
        request: Vec<u8>,
        node: NodeId,
    ) -> Result<v1::CertificateReply, Status> {
        if let Some(issued) = self.issue_here(&request, node)? {
            return Ok(issued);
        }
        let voters = raft.members().voters;
        let mut last = Status::unavailable("no voter holds the authority");
        for (voter, address) in voters.iter().filter(|(voter, _)| **voter != self.node()) {
            let mut peer = self.ask(raft, *voter, address);
            let issuing = peer.issue(v1::IssueRequest { request: request.clone(), node: node.0 });
            match timeout(ASK_MAX, issuing).await {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => last = status,
                Err(_) => last = Status::unavailable(format!("{voter} did not answer within {ASK_MAX:?}")),
            }
        }
        Err(Status::unavailable(format!("no certificate was issued: {}", last.message())))
    }

    /// Issues a certificate to a node, if this one holds the authority.
    pub(super) fn issue_here(&self, request: &[u8], node: NodeId) -> Result<Option<v1::CertificateReply>, Status> {
        let Some(authority) = self.standing().authority.clone() else { return Ok(None) };
        let issued = authority.issue(request, node, self.0.clock.now(), self.0.life);
        let certificate = issued.map_err(|error| refused(&error))?.to_vec();
        Ok(Some(v1::CertificateReply { certificate, authority: authority.certificate().to_vec() }))
    }
}

/// Returns the digest by which a machine is known that asks again.
pub(super) fn digest_of_request(request: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(request).into())
}

fn refused(error: &IssueError) -> Status {
    match error {
        IssueError::Ended => Status::unavailable(error.to_string()),
        IssueError::TooLong
        | IssueError::Malformed
        | IssueError::OtherKind
        | IssueError::NotOurs
        | IssueError::OtherKey => Status::invalid_argument(error.to_string()),
    }
}
