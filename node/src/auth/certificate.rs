//! What a certificate of a cluster says: the authority's own, and those it issues to nodes.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use control_plane::model::{Digest, Timestamp};
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use super::peer::{ClusterId, PeerId};

/// Why a certificate is not one of a cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It is not in the format of certificates.
    #[error("the certificate is malformed")]
    Malformed,
    /// It does not name a node, or names more than one.
    #[error("the certificate does not name one node of a cluster")]
    NotOfNode,
    /// It does not name a cluster, may not issue, or is not signed by its own key.
    #[error("the certificate is not that of a cluster's authority")]
    NotOfAuthority,
    /// The node is of another cluster than the authority.
    #[error("the certificate is for another cluster than its authority's")]
    OtherCluster,
}

/// A certificate of a node.
///
/// That it is well-formed says nothing about who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeCertificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) peer: PeerId,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl NodeCertificate {
    /// Reads a certificate whose names, as URI and for DNS, are of one and the same node.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let names = Names::of(&certificate)?;
        let ([uri], [dns]) = (names.uris.as_slice(), names.dns.as_slice()) else {
            return Err(CertificateError::NotOfNode);
        };
        let peer: PeerId = uri.parse().map_err(|_| CertificateError::NotOfNode)?;
        if *dns != peer.dns_name() {
            return Err(CertificateError::NotOfNode);
        }
        let validity = certificate.validity();
        let (not_before, not_after) = (timestamp(validity.not_before), timestamp(validity.not_after));
        Ok(Self { peer, not_before, not_after, der: der.clone().into_owned() })
    }
}

/// The certificate of a cluster's authority.
#[derive(Clone, Debug)]
pub(super) struct AuthorityCertificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) cluster: ClusterId,
    pub(super) not_after: Timestamp,
    /// Holds this certificate alone.
    pub(super) roots: Arc<RootCertStore>,
}

impl AuthorityCertificate {
    /// Reads a certificate that names a cluster, may issue, and is signed by its own key.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse(der)?;
        let names = Names::of(&certificate)?;
        let ([uri], []) = (names.uris.as_slice(), names.dns.as_slice()) else {
            return Err(CertificateError::NotOfAuthority);
        };
        let cluster = ClusterId::from_uri(uri).map_err(|_| CertificateError::NotOfAuthority)?;
        if !certificate.is_ca() || certificate.verify_signature(None).is_err() {
            return Err(CertificateError::NotOfAuthority);
        }
        let mut roots = RootCertStore::empty();
        roots.add(der.clone().into_owned()).map_err(|_| CertificateError::NotOfAuthority)?;
        let not_after = timestamp(certificate.validity().not_after);
        Ok(Self { der: der.clone().into_owned(), cluster, not_after, roots: Arc::new(roots) })
    }

    /// Returns what join tokens pin.
    pub(super) fn digest(&self) -> Digest {
        digest_of(&self.der)
    }

    /// Returns whether the certificate is for the key whose public half this is.
    pub(super) fn is_for(&self, public_key: &[u8]) -> bool {
        parse(&self.der).is_ok_and(|certificate| *certificate.public_key().subject_public_key.data == *public_key)
    }
}

/// Returns an error unless a node's certificate is signed by an authority, whether its time is over or not.
pub(super) fn check_signed(
    certificate: &NodeCertificate,
    authority: &AuthorityCertificate,
) -> Result<(), rustls::Error> {
    // As of its first second: whether it has ended is another question.
    let first = UnixTime::since_unix_epoch(Duration::from_millis(certificate.not_before.as_millis()));
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let parsed = ParsedCertificate::try_from(&certificate.der)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, &authority.roots, &[], first, algorithms)
}

/// Returns the SHA-256 of a certificate.
pub(super) fn digest_of(certificate: &CertificateDer<'_>) -> Digest {
    Digest::from_bytes(Sha256::digest(certificate).into())
}

/// Returns whether two certificates are for the same key.
pub(super) fn have_one_key(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    match (parse(one), parse(other)) {
        (Ok(one), Ok(other)) => one.public_key().raw == other.public_key().raw,
        _ => false,
    }
}

/// Returns a time of a certificate as people read it.
pub(super) fn written(time: Timestamp) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(time.as_millis())).to_string()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Malformed),
    }
}

/// A certificate's time has whole seconds; what lies before 1970 is 1970.
fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_millis(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

/// Whom a certificate is for.
struct Names<'a> {
    uris: Vec<&'a str>,
    dns: Vec<&'a str>,
}

impl<'a> Names<'a> {
    /// Reads the names; any that is neither URI nor DNS makes the certificate no certificate of ours.
    fn of(certificate: &'a X509Certificate<'_>) -> Result<Self, CertificateError> {
        let mut names = Self { uris: Vec::new(), dns: Vec::new() };
        let extension = certificate.subject_alternative_name().map_err(|_| CertificateError::Malformed)?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => names.uris.push(uri),
                GeneralName::DNSName(dns) => names.dns.push(dns),
                _ => return Err(CertificateError::Malformed),
            }
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use control_plane::model::NodeId;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

    use super::super::test_cluster::TestCluster;
    use super::*;

    /// Signs a certificate with these names by its own key.
    fn with(names: &[SanType], is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.is_ca = is_ca;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uri(text: impl ToString) -> SanType {
        SanType::URI(text.to_string().try_into().unwrap())
    }

    fn dns(text: String) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn a_certificate_names_one_node_and_both_names_agree() {
        let cluster = TestCluster::found();
        let (one, other) = (cluster.peer(1), cluster.peer(2));
        let read = |names: &[SanType]| NodeCertificate::parse(&with(names, IsCa::NoCa)).map(|read| read.peer);
        assert_eq!(read(&[uri(one), dns(one.dns_name())]), Ok(one));
        let nobody = PeerId { node: NodeId(0), ..one };
        for names in [
            vec![],
            vec![uri(one)],
            vec![dns(one.dns_name())],
            vec![uri(one), dns(other.dns_name())],
            vec![uri(one), dns(one.dns_name()), dns(other.dns_name())],
            vec![uri(one), uri(other), dns(one.dns_name())],
            vec![uri(nobody), dns(nobody.dns_name())],
        ] {
            assert_eq!(read(&names), Err(CertificateError::NotOfNode), "{names:?}");
        }
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        assert_eq!(read(&[uri(one), dns(one.dns_name()), address]), Err(CertificateError::Malformed));
        let mut long = cluster.authority.certificate().to_vec();
        long.push(0);
        assert_eq!(NodeCertificate::parse(&long.into()), Err(CertificateError::Malformed));
    }

    #[test]
    fn an_authority_names_a_cluster_and_may_issue() {
        let cluster = TestCluster::found().authority.cluster();
        let may_issue = || IsCa::Ca(BasicConstraints::Constrained(0));
        let read = |der: CertificateDer<'_>| AuthorityCertificate::parse(&der).map(|read| read.cluster);
        assert_eq!(read(with(&[uri(cluster.uri())], may_issue())), Ok(cluster));
        let peer = PeerId { cluster, node: NodeId(1) };
        for der in [
            with(&[uri(cluster.uri())], IsCa::NoCa),
            with(&[], may_issue()),
            with(&[uri(peer)], may_issue()),
            with(&[uri(cluster.uri()), dns(peer.dns_name())], may_issue()),
        ] {
            assert_eq!(read(der), Err(CertificateError::NotOfAuthority));
        }
        let mut forged = with(&[uri(cluster.uri())], may_issue()).to_vec();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(read(forged.into()), Err(CertificateError::NotOfAuthority));
    }
}
