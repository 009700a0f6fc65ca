//! TLS between peers: both sides show a certificate, and version 1.3 is the only one.
//!
//! Sessions are never resumed: a resumed handshake carries no certificate, so that a peer removed in the meantime would get
//! in with what it had proved before.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use control_plane::model::{Digest, NodeId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName,
    Error, ServerConfig, SignatureScheme,
};

use super::certificate::{CertificateError, NodeCertificate};
use super::identity::Identity;
use super::peer::{ClusterId, PeerId};
use super::pin::{PinVerifier, refused};
use crate::clock::Clock;

/// What is spoken inside a connection between peers, as it is agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC: consensus, membership, images.
    Rpc,
    /// Calls of functions on their way to an instance.
    Calls,
    /// What a node that has no certificate yet asks for.
    Join,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Rpc, Self::Calls, Self::Join];

    /// Returns its name in the handshake.
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Rpc => b"h2",
            Self::Calls => b"hearth-call-1",
            Self::Join => b"hearth-join-1",
        }
    }
}

/// Another identity was given for a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{offered} of the authority {authority} cannot stand in for {current}")]
pub struct RenewError {
    current: PeerId,
    offered: PeerId,
    authority: Digest,
}

/// Both ends of the connections between this node and its peers; all clones show the same certificate.
#[derive(Clone, Debug)]
pub struct PeerTls {
    cluster: ClusterId,
    newest: Arc<Newest>,
    rpc: Arc<ClientConfig>,
    calls: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    join: Arc<ServerConfig>,
}

impl PeerTls {
    /// Makes both ends. `is_member` is asked at every handshake in which a peer is the client; it must not block.
    ///
    /// A node that has just joined has no state to ask yet, and must let those in that will bring it.
    ///
    /// # Panics
    ///
    /// When the ring provider lacks TLS 1.3, which it does not.
    pub fn new(identity: &Identity, clock: &Clock, is_member: impl Fn(NodeId) -> bool + Send + Sync + 'static) -> Self {
        let newest = Arc::new(Newest { identity: RwLock::new(identity.clone()) });
        let provider = Arc::new(ring::default_provider());
        let time = Arc::new(MachineTime(clock.clone()));
        let roots = &identity.authority_certificate().roots;
        let cluster = identity.peer().cluster;

        let inner = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).build();
        let inner = inner.expect("an identity has an authority");
        let mut rpc = ClientConfig::builder_with_details(Arc::clone(&provider), time.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier { inner, cluster }))
            .with_client_cert_resolver(newest.clone());
        rpc.alpn_protocols = vec![Protocol::Rpc.name().to_vec()];
        rpc.resumption = Resumption::disabled();
        let mut calls = rpc.clone();
        calls.alpn_protocols = vec![Protocol::Calls.name().to_vec()];

        let inner = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider)).build();
        let inner = inner.expect("an identity has an authority");
        let server = |verifier: Option<Arc<dyn ClientCertVerifier>>, protocols: &[Protocol]| {
            let builder = ServerConfig::builder_with_details(Arc::clone(&provider), time.clone())
                .with_protocol_versions(&[&TLS13])
                .expect("the provider has TLS 1.3");
            let builder = match verifier {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            };
            let mut server = builder.with_cert_resolver(newest.clone());
            server.alpn_protocols = protocols.iter().map(|protocol| protocol.name().to_vec()).collect();
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            Arc::new(server)
        };
        let member = MemberVerifier { inner, cluster, is_member: Box::new(is_member) };
        let join = server(None, &[Protocol::Join]);
        let server = server(Some(Arc::new(member)), &[Protocol::Rpc, Protocol::Calls]);
        Self { cluster, newest, rpc: Arc::new(rpc), calls: Arc::new(calls), server, join }
    }

    /// Returns what to connect to peers with, each by its [`PeerId::dns_name`].
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.rpc)
    }

    /// Returns what to connect to peers with that are to take calls of functions.
    pub fn calls_client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.calls)
    }

    /// Returns the name that a peer must prove to have.
    ///
    /// # Panics
    ///
    /// Never: a number and hexadecimal digits make a name.
    pub fn name_of(&self, node: NodeId) -> ServerName<'static> {
        let name = PeerId { cluster: self.cluster, node }.dns_name();
        ServerName::try_from(name).expect("a number and hexadecimal digits make a name")
    }

    /// Returns what to answer connections of peers with.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Returns what to answer a connection with, on a port that takes peers and nodes that join.
    ///
    /// A node that joins has no certificate: [`peer_of`] its connection is nobody, and all it may do is show a secret.
    pub fn server_for(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let is_join =
            hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == Protocol::Join.name()));
        Arc::clone(if is_join { &self.join } else { &self.server })
    }

    /// Shows another certificate of the same node from the next handshake on.
    pub fn renew(&self, identity: &Identity) -> Result<(), RenewError> {
        let mut current = self.newest.identity.write().unwrap_or_else(PoisonError::into_inner);
        if (identity.peer(), identity.authority()) != (current.peer(), current.authority()) {
            let (current, offered) = (current.peer(), identity.peer());
            return Err(RenewError { current, offered, authority: identity.authority() });
        }
        *current = identity.clone();
        Ok(())
    }
}

/// Returns what a node that joins connects with: it goes on with nobody but a node of the cluster whose authority's
/// certificate has the digest `pin`.
///
/// # Panics
///
/// When the ring provider lacks TLS 1.3, which it does not.
pub fn join_client(pin: Digest, clock: &Clock) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let verifier = PinVerifier { pin, algorithms: provider.signature_verification_algorithms };
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(MachineTime(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.alpn_protocols = vec![Protocol::Join.name().to_vec()];
    client.resumption = Resumption::disabled();
    client
}

/// Returns who is at the other end of a connection made with the configurations of this file, once its handshake is done.
///
/// Whoever agreed on no protocol is nobody: TLS lets a client in that names none, whatever a server insists on.
pub fn peer_of(connection: &CommonState) -> Option<PeerId> {
    connection.alpn_protocol()?;
    let certificate = connection.peer_certificates()?.first()?;
    NodeCertificate::parse(certificate).ok().map(|certificate| certificate.peer)
}

/// Returns what was agreed to be spoken over a connection, once its handshake is done.
pub fn protocol_of(connection: &CommonState) -> Option<Protocol> {
    let agreed = connection.alpn_protocol()?;
    Protocol::ALL.into_iter().find(|protocol| protocol.name() == agreed)
}

/// The certificate that is shown.
#[derive(Debug)]
struct Newest {
    identity: RwLock<Identity>,
}

impl Newest {
    fn certified(&self) -> Arc<CertifiedKey> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).certified()
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Newest {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The clock that certificates are held against.
#[derive(Debug)]
pub(super) struct MachineTime(pub(super) Clock);

impl TimeProvider for MachineTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().as_millis())))
    }
}

/// Reads whom a certificate names, which must be a node of `cluster`.
fn node_in(cluster: ClusterId, certificate: &CertificateDer<'_>) -> Result<NodeId, Error> {
    let peer = NodeCertificate::parse(certificate).map_err(refused)?.peer;
    if peer.cluster == cluster { Ok(peer.node) } else { Err(refused(CertificateError::OtherCluster)) }
}

/// Leaves to `inner` what both verifiers do with signatures.
macro_rules! signatures_by_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

/// Accepts a server that is the very node that was dialled.
#[derive(Debug)]
struct ServerVerifier {
    /// Verifies signatures, times, and the name for DNS.
    inner: Arc<WebPkiServerVerifier>,
    cluster: ClusterId,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        node_in(self.cluster, end_entity)?;
        Ok(verified)
    }

    signatures_by_inner!();
}

/// Accepts a client that is a member of the cluster at this moment.
struct MemberVerifier {
    /// Verifies signatures and times, and insists on a certificate.
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterId,
    is_member: Box<dyn Fn(NodeId) -> bool + Send + Sync>,
}

impl fmt::Debug for MemberVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberVerifier").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        if !(self.is_member)(node_in(self.cluster, end_entity)?) {
            // The client gets the alert *access denied*: its certificate is good, it is no longer let in.
            return Err(Error::InvalidCertificate(TlsCertificateError::ApplicationVerificationFailure));
        }
        Ok(verified)
    }

    signatures_by_inner!();
}
