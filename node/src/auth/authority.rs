//! The cluster's own certificate authority, made once by the node that founds the cluster.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use control_plane::model::{Digest, NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};

use super::certificate::{AuthorityCertificate, NodeCertificate, check_signed, have_one_key};
use super::key_file::{KeyFile, KeyFileError};
use super::peer::{ClusterId, PeerId};
use crate::clock::fill_random;

/// How long a node's certificate is good for unless configured.
pub const CERTIFICATE_LIFE: Duration = Duration::from_hours(24);

/// How far in the past a certificate begins: clocks of peers may differ by that much.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_mins(5);

/// How long an authority is good for.
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3650);

/// The longest request for a certificate, in bytes: ours have about 200.
pub const REQUEST_MAX_BYTES: usize = 4096;

/// The length of a point on P-256 as it stands in a certificate, in bytes.
const POINT_BYTES: usize = 65;

/// The last second that a certificate can name: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// Why no certificate is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request is too long.
    #[error("the request for a certificate has more than {REQUEST_MAX_BYTES} bytes")]
    TooLong,
    /// The request is malformed, or whoever made it does not hold its key.
    #[error("the request for a certificate is malformed or not signed by its key")]
    Malformed,
    /// Its key is of another kind than peers have.
    #[error("the key of the request is not of the kind ECDSA P-256")]
    OtherKind,
    /// The certificate that is to be followed by another is not of this authority.
    #[error("the certificate is not of this cluster")]
    NotOurs,
    /// The request is made with another key than that of the certificate.
    #[error("the request is made with another key than that of the certificate")]
    OtherKey,
    /// The authority's own certificate has ended.
    #[error("the cluster's authority has ended")]
    Ended,
}

/// The authority of one cluster: whoever holds it decides who is a peer.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: AuthorityCertificate,
    file: KeyFile<1>,
}

impl Authority {
    /// Makes the authority of a cluster and keeps it at `path`, where there must be none.
    ///
    /// # Panics
    ///
    /// When the kernel gives no randomness.
    pub fn found(path: &Path, cluster: ClusterId, now: Timestamp) -> Result<Self, KeyFileError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the kernel gives randomness");
        let names = [SanType::URI(ascii(cluster.uri()))];
        let mut params = params(&format!("hearth cluster {cluster}"), &names, now, now + AUTHORITY_LIFE);
        // What it issues cannot issue in turn.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a key of this kind signs").der().clone();
        let file = KeyFile { key: key.serialize_der().into(), certificates: [certificate] };
        file.create(path)?;
        Ok(Self::open(file).expect("what is made here fits together"))
    }

    /// Reads the authority at `path`.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let file = KeyFile::read(path)?;
        Self::open(file).map_err(|reason| KeyFileError::Damaged { path: path.to_owned(), reason })
    }

    /// Takes over the authority that another node has [revealed](Self::reveal), if it is the one with the digest `expected`,
    /// and keeps it at `path`.
    pub fn take_over(path: &Path, text: &str, expected: Digest) -> Result<Self, KeyFileError> {
        let damaged = |reason: String| KeyFileError::Damaged { path: path.to_owned(), reason };
        let file = KeyFile::parse(text.as_bytes()).map_err(damaged)?;
        let authority = Self::open(file).map_err(damaged)?;
        if authority.digest() != expected {
            return Err(damaged(format!("it is the authority {} and not {expected}", authority.digest())));
        }
        authority.file.write(path)?;
        Ok(authority)
    }

    /// Returns key and certificate in PEM, for another node that is to issue certificates too.
    pub fn reveal(&self) -> String {
        self.file.text()
    }

    fn open(file: KeyFile<1>) -> Result<Self, String> {
        let [certificate] = &file.certificates;
        let certificate = AuthorityCertificate::parse(certificate).map_err(|error| error.to_string())?;
        let key = key_pair(&file.key).ok_or_else(|| "its private key is malformed".to_owned())?;
        if !certificate.is_for(key.der_bytes()) {
            return Err("its private key is not that of its certificate".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key).map_err(|error| error.to_string())?;
        Ok(Self { issuer, certificate, file })
    }

    /// Returns the cluster.
    pub fn cluster(&self) -> ClusterId {
        self.certificate.cluster
    }

    /// Returns the authority's own certificate, which every peer gets along with its own.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate.der
    }

    /// Returns the SHA-256 of the authority's certificate, which join tokens carry.
    pub fn digest(&self) -> Digest {
        self.certificate.digest()
    }

    /// Issues another certificate to a node whose certificate, `ended`, is of this authority and may have ended.
    ///
    /// The request must be made with the key of that certificate. Whether the node is still a member is the caller's to know.
    pub fn issue_again(
        &self,
        request: &[u8],
        ended: &CertificateDer<'_>,
        now: Timestamp,
        life: Duration,
    ) -> Result<(NodeId, CertificateDer<'static>), IssueError> {
        let known = NodeCertificate::parse(ended).map_err(|_| IssueError::NotOurs)?;
        if known.peer.cluster != self.cluster() || check_signed(&known, &self.certificate).is_err() {
            return Err(IssueError::NotOurs);
        }
        let certificate = self.issue(request, known.peer.node, now, life)?;
        if !have_one_key(ended, &certificate) {
            return Err(IssueError::OtherKey);
        }
        Ok((known.peer.node, certificate))
    }

    /// Issues a certificate for `node` on a request made by [`super::NewKey`], good for `life` from `now` on.
    ///
    /// It never outlives the authority. Of the request the key alone counts: whatever names it asks for are passed over.
    ///
    /// # Panics
    ///
    /// When `node` is zero, which is no node.
    pub fn issue(
        &self,
        request: &[u8],
        node: NodeId,
        now: Timestamp,
        life: Duration,
    ) -> Result<CertificateDer<'static>, IssueError> {
        assert!(node.0 > 0, "zero is no node");
        if request.len() > REQUEST_MAX_BYTES {
            return Err(IssueError::TooLong);
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(|_| IssueError::Malformed)?;
        let is_point = request.public_key.der_bytes().len() == POINT_BYTES;
        if !is_point || *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::OtherKind);
        }
        let not_after = (now + life).min(self.certificate.not_after);
        if not_after <= now {
            return Err(IssueError::Ended);
        }
        let peer = PeerId { cluster: self.cluster(), node };
        let names = [SanType::URI(ascii(peer.to_string())), SanType::DnsName(ascii(peer.dns_name()))];
        let mut params = params(&node.to_string(), &names, now, not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every peer is server and client.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer).expect("a key of this kind signs");
        Ok(certificate.der().clone())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Reads a private key of the kind that peers have.
pub(super) fn key_pair(key: &PrivatePkcs8KeyDer<'_>) -> Option<KeyPair> {
    KeyPair::from_pkcs8_der_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256).ok()
}

fn params(subject: &str, names: &[SanType], now: Timestamp, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    let seconds = |time: Timestamp| Duration::from_secs((time.as_millis() / 1000).min(LAST_SECOND));
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds(now).saturating_sub(CLOCK_DIFFERENCE_MAX);
    params.not_after = epoch + seconds(not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.subject_alt_names = names.to_vec();
    let mut serial = [0; 16];
    fill_random(&mut serial);
    // Positive and never shorter, as serial numbers should be.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn ascii(name: String) -> rcgen::string::Ia5String {
    name.try_into().expect("names of clusters and nodes are ASCII")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::super::certificate::NodeCertificate;
    use super::super::identity::NewKey;
    use super::super::test_cluster::TestCluster;
    use super::*;

    /// What `openssl req -new -sha256 -subj /CN=x` makes of a key on secp384r1.
    const P384_WITH_SHA256: &str = "MIIBBTCBiwIBADAMMQowCAYDVQQDDAF4MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEqhyHh/9p8BID8sE3\
         llqOW2XgJo/P2c70hR/G3DQNUNxkMcZH6a9MWU2TtiiAiH3QQW9S3XYWrsFs5MpfBUna4Dkh6Wli3LP1sGxev5ji2vqdva17MepYYnfjbZ47\
         bmpgoAAwCgYIKoZIzj0EAwIDaQAwZgIxAIVW897ixqySdm2k9wTZOlGTF4TZ8nwdHCbbl6cK5F2iY1F0lwuXz2+q/wNkDoQ8ZQIxANyNtgLc\
         sXJdhADrFS3i9a7LaZ12vl8rCtKt9Fk8J2I4ozuX/YqnCySyYCMLKrrZSQ==";

    #[test]
    fn an_authority_is_made_once_and_for_its_owner_alone() {
        let cluster = TestCluster::found();
        let path = cluster.path("authority.pem");
        let read = Authority::load(&path).unwrap();
        assert_eq!((read.digest(), read.cluster()), (cluster.authority.digest(), cluster.authority.cluster()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let twice = Authority::found(&path, ClusterId::random(), cluster.now()).unwrap_err();
        assert!(matches!(twice, KeyFileError::Present { .. }), "{twice}");
        assert_eq!(Authority::load(&path).unwrap().digest(), read.digest());
        let file = KeyFile::<1>::read(&path).unwrap();
        let key = file.key.secret_pkcs8_der().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(!format!("{read:?}").contains(&key[36..40].join(", ")));
    }

    #[test]
    fn a_certificate_is_for_the_node_and_its_time_whatever_the_request_says() {
        let cluster = TestCluster::found();
        let key = KeyPair::generate().unwrap();
        let mut wishes = CertificateParams::new(["node-1.example".to_owned()]).unwrap();
        wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let request = wishes.serialize_request(&key).unwrap();
        let hour = Duration::from_hours(1);
        let issued = cluster.authority.issue(request.der(), NodeId(7), cluster.now(), hour).unwrap();
        let read = NodeCertificate::parse(&issued).unwrap();
        assert_eq!(read.peer, cluster.peer(7));
        assert_eq!(read.not_after, cluster.now() + hour);
        assert_eq!(read.not_before + CLOCK_DIFFERENCE_MAX, cluster.now());
        let (_, parsed) = x509_parser::parse_x509_certificate(&issued).unwrap();
        assert!(!parsed.is_ca() && !parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
        assert_eq!(*parsed.public_key().subject_public_key.data, *key.der_bytes());
    }

    #[test]
    fn no_certificate_outlives_the_authority() {
        let cluster = TestCluster::found();
        let issue = |now| cluster.authority.issue(&NewKey::random().request(), NodeId(1), now, CERTIFICATE_LIFE);
        let end = cluster.authority.certificate.not_after;
        assert_eq!(end, cluster.now() + AUTHORITY_LIFE);
        let last = issue(Timestamp::from_millis(end.as_millis() - 1000)).unwrap();
        assert_eq!(NodeCertificate::parse(&last).unwrap().not_after, end);
        assert_eq!(issue(end), Err(IssueError::Ended));
        // The end of time is no reason to panic.
        assert_eq!(issue(Timestamp::from_millis(u64::MAX)), Err(IssueError::Ended));
    }

    #[test]
    fn requests_that_are_not_ours_are_refused() {
        let cluster = TestCluster::found();
        let issue = |request: &[u8]| {
            let issued = cluster.authority.issue(request, NodeId(1), cluster.now(), CERTIFICATE_LIFE)?;
            let (_, parsed) = x509_parser::parse_x509_certificate(&issued).unwrap();
            Ok(parsed.public_key().subject_public_key.data.to_vec())
        };
        let key = NewKey::random();
        let request = key.request();
        let own = issue(&request).unwrap();
        let mut refused = 0;
        for at in 0..request.len() {
            let mut flipped = request.clone();
            flipped[at] ^= 1 << (at % 8);
            // What does not stand under the signature may change, and says nothing about the key.
            match issue(&flipped) {
                Ok(issued) => assert_eq!(issued, own, "byte {at} was flipped"),
                Err(_) => refused += 1,
            }
            assert_eq!(issue(&request[..at]), Err(IssueError::Malformed));
        }
        assert!(refused > request.len() - 10, "only {refused} of {} were refused", request.len());
        assert_eq!(issue(&vec![0; REQUEST_MAX_BYTES + 1]), Err(IssueError::TooLong));
        for other in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let key = KeyPair::generate_for(other).unwrap();
            let request = CertificateParams::default().serialize_request(&key).unwrap();
            assert_eq!(issue(request.der()), Err(IssueError::OtherKind));
        }
        // Signed in the way of P-256, with a key on another curve.
        assert_eq!(issue(&STANDARD.decode(P384_WITH_SHA256).unwrap()), Err(IssueError::OtherKind));
    }

    /// Wherever a bit of the file flips, the file is refused or says the very same.
    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let cluster = TestCluster::found();
        let path = cluster.path("authority.pem");
        let whole = fs::read(&path).unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 7);
            fs::write(&path, &flipped).unwrap();
            match Authority::load(&path) {
                Ok(read) => {
                    let key = read.issuer.key().serialized_der() == cluster.authority.issuer.key().serialized_der();
                    assert!(key && read.digest() == cluster.authority.digest(), "byte {at} was flipped");
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused * 10 > whole.len() * 9, "only {refused} of {} were refused", whole.len());
    }
}
