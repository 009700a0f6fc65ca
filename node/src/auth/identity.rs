//! Who this node is: its private key, which never leaves it, and the certificate that goes with the key.
//!
//! ```text
//! NewKey ──request()──▶ Authority::issue() ──certificate──▶ NewKey::accept() ─▶ Identity ──save()──▶ file
//!   ▲                                                                              │
//!   └──────────────────────────── at Identity::renew_at() ────────────────────────┘
//! ```
//! Every certificate has a key of its own, so that whoever got hold of one loses it at the next renewal.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use control_plane::model::{Digest, NodeId, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::authority::{CLOCK_DIFFERENCE_MAX, key_pair};
use super::certificate::{AuthorityCertificate, CertificateError, NodeCertificate, check_signed, digest_of, written};
use super::key_file::{KeyFile, KeyFileError};
use super::peer::PeerId;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A certificate that was answered is not one of a cluster's.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The certificate is of another authority than the one that is trusted.
    #[error("the authority is {found} and not {expected}")]
    OtherAuthority {
        /// The digest of the trusted authority's certificate.
        expected: Digest,
        /// The digest of this one's.
        found: Digest,
    },
    /// The certificate is not signed by the authority that came with it.
    #[error("the certificate of {peer} is not signed by its authority")]
    Forged {
        /// Whom the certificate names.
        peer: PeerId,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The key is not the one the certificate is for.
    #[error("the private key is not that of the certificate of {peer}")]
    OtherKey {
        /// Whom the certificate names.
        peer: PeerId,
    },
    /// The certificate is for another node, or another cluster.
    #[error("the certificate is for {found} and not for {expected}")]
    OtherPeer {
        /// Who this node is.
        expected: PeerId,
        /// Whom the certificate names.
        found: PeerId,
    },
    /// The certificate has ended.
    #[error("the certificate of {peer} expired at {}", written(*not_after))]
    Expired {
        /// Whom the certificate names.
        peer: PeerId,
        /// Its end.
        not_after: Timestamp,
    },
    /// The certificate begins in the future.
    #[error("the certificate of {peer} begins at {}", written(*not_before))]
    NotYetValid {
        /// Whom the certificate names.
        peer: PeerId,
        /// Its beginning.
        not_before: Timestamp,
    },
}

impl IdentityError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File(error) => error.hint(),
            Self::Certificate(_) => None,
            Self::OtherAuthority { .. } => Some("use a join token of the cluster to join".to_owned()),
            Self::Forged { .. } | Self::OtherKey { .. } => {
                Some("restore the file from a backup, or let the node join again with a new token".to_owned())
            }
            Self::OtherPeer { expected, found } if expected.cluster != found.cluster => {
                Some("one cluster's data directory holds another's identity: use the one that belongs to it".to_owned())
            }
            Self::OtherPeer { .. } => Some("a node's data directory is not copied to another node".to_owned()),
            Self::Expired { .. } => {
                Some("if this machine's clock is right, let the node join again with a new token".to_owned())
            }
            Self::NotYetValid { .. } => Some("set this machine's clock".to_owned()),
        }
    }
}

/// A key that has no certificate yet.
pub struct NewKey(KeyPair);

impl NewKey {
    /// Draws a key.
    ///
    /// # Panics
    ///
    /// When the kernel gives no randomness.
    pub fn random() -> Self {
        Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the kernel gives randomness"))
    }

    /// Takes the key of an identity once more, to ask for another certificate with it.
    ///
    /// # Panics
    ///
    /// Never: the key of an identity has been read before.
    pub fn again(identity: &Identity) -> Self {
        Self(key_pair(&identity.key).expect("the key of an identity has been read before"))
    }

    /// Returns the request for a certificate, in DER: the public half of the key, signed by the other.
    pub fn request(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0).expect("a key of this kind signs").der().to_vec()
    }

    /// Takes the certificate that was issued, if it is by the authority whose certificate has the digest `trusted`.
    ///
    /// A node that joins has the digest from its token; one that renews, from [`Identity::authority`].
    pub fn accept(
        &self,
        certificate: &CertificateDer<'_>,
        authority: &CertificateDer<'_>,
        trusted: Digest,
        now: Timestamp,
    ) -> Result<Identity, IdentityError> {
        let found = digest_of(authority);
        if found != trusted {
            return Err(IdentityError::OtherAuthority { expected: trusted, found });
        }
        let certificate = NodeCertificate::parse(certificate)?;
        let authority = AuthorityCertificate::parse(authority)?;
        let identity = Identity::new(self.0.serialize_der().into(), certificate, authority)?;
        identity.check_time(now)?;
        Ok(identity)
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewKey(…)")
    }
}

/// The identity of this node.
///
/// Invariant: the certificate is for the key and signed by the authority.
#[derive(Clone)]
pub struct Identity {
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    certificate: NodeCertificate,
    authority: AuthorityCertificate,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads the identity at `path`, which must be that of `expected` and good at `now`.
    pub fn load(path: &Path, expected: PeerId, now: Timestamp) -> Result<Self, IdentityError> {
        let identity = Self::load_whenever(path, expected)?;
        identity.check_time(now)?;
        Ok(identity)
    }

    /// Reads the identity at `path`, which must be that of `expected`, even when its time is over: to come back with.
    pub fn load_whenever(path: &Path, expected: PeerId) -> Result<Self, IdentityError> {
        let damaged =
            |error: CertificateError| KeyFileError::Damaged { path: path.to_owned(), reason: error.to_string() };
        let KeyFile { key, certificates: [certificate, authority] } = KeyFile::read(path)?;
        let certificate = NodeCertificate::parse(&certificate).map_err(damaged)?;
        let authority = AuthorityCertificate::parse(&authority).map_err(damaged)?;
        let identity = Self::new(key, certificate, authority)?;
        if identity.peer() != expected {
            return Err(IdentityError::OtherPeer { expected, found: identity.peer() });
        }
        Ok(identity)
    }

    fn new(
        key: PrivatePkcs8KeyDer<'static>,
        certificate: NodeCertificate,
        authority: AuthorityCertificate,
    ) -> Result<Self, IdentityError> {
        let peer = certificate.peer;
        if peer.cluster != authority.cluster {
            return Err(CertificateError::OtherCluster.into());
        }
        let provider = ring::default_provider();
        check_signed(&certificate, &authority).map_err(|source| IdentityError::Forged { peer, source })?;
        let other_key = |_| IdentityError::OtherKey { peer };
        let private = PrivateKeyDer::Pkcs8(key.clone_key());
        let signing = provider.key_provider.load_private_key(private).map_err(other_key)?;
        // The authority goes along for nodes that join and know nothing of it but its digest.
        let certified = CertifiedKey::new(vec![certificate.der.clone(), authority.der.clone()], signing);
        certified.keys_match().map_err(other_key)?;
        Ok(Self { key: Arc::new(key), certificate, authority, certified: Arc::new(certified) })
    }

    /// Returns an error when the certificate is not good at `now`.
    pub fn check_time(&self, now: Timestamp) -> Result<(), IdentityError> {
        let NodeCertificate { peer, not_before, not_after, .. } = self.certificate;
        if now < not_before {
            return Err(IdentityError::NotYetValid { peer, not_before });
        }
        if now >= not_after {
            return Err(IdentityError::Expired { peer, not_after });
        }
        Ok(())
    }

    /// Keeps the identity at `path`, in the place of what is there; a crash leaves either.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let certificates = [self.certificate.der.clone(), self.authority.der.clone()];
        KeyFile { key: self.key.clone_key(), certificates }.write(path)
    }

    /// Returns which node this is, and of which cluster.
    pub fn peer(&self) -> PeerId {
        self.certificate.peer
    }

    /// Returns the digest of the certificate of the cluster's authority.
    pub fn authority(&self) -> Digest {
        self.authority.digest()
    }

    /// Returns when the certificate ends.
    pub fn not_after(&self) -> Timestamp {
        self.certificate.not_after
    }

    /// Returns when to ask for the next certificate.
    pub fn renew_at(&self) -> Timestamp {
        renew_at(self.certificate.not_before, self.certificate.not_after, self.certificate.peer.node)
    }

    /// Returns the certificate, in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate.der
    }

    pub(super) fn authority_certificate(&self) -> &AuthorityCertificate {
        &self.authority
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeCertificate { peer, not_before, not_after, .. } = &self.certificate;
        f.debug_struct("Identity")
            .field("peer", peer)
            .field("not_before", not_before)
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}

/// Returns when two thirds of a certificate's life are over, or up to a fifteenth of the life before that.
///
/// Nodes that joined together would else renew together. Consecutive numbers are spread evenly by the golden ratio,
/// where a hash would let some of a few nodes fall together. What lies before the issue is no part of the life: it is there
/// for clocks that differ, and of a short life it would be the most.
fn renew_at(not_before: Timestamp, not_after: Timestamp, node: NodeId) -> Timestamp {
    const GOLDEN_RATIO: u32 = 0x9e37_79b9;
    let issued = not_before + CLOCK_DIFFERENCE_MAX;
    let life = not_after.since(issued);
    let fraction = f64::from(node.0.wrapping_mul(GOLDEN_RATIO)) / (f64::from(u32::MAX) + 1.0);
    issued + (life * 2 / 3).saturating_sub((life / 15).mul_f64(fraction))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::super::test_cluster::TestCluster;
    use super::super::{CERTIFICATE_LIFE, CLOCK_DIFFERENCE_MAX};
    use super::*;

    #[test]
    fn an_identity_reads_back_as_it_was_kept() {
        let cluster = TestCluster::found();
        let path = cluster.path("identity.pem");
        let identity = cluster.identity(3);
        identity.save(&path).unwrap();
        let read = Identity::load(&path, cluster.peer(3), cluster.now()).unwrap();
        assert_eq!(read.peer(), cluster.peer(3));
        assert_eq!(read.authority(), cluster.authority.digest());
        assert_eq!((&read.certificate, &read.key), (&identity.certificate, &identity.key));
        assert_eq!(read.not_after(), cluster.now() + CERTIFICATE_LIFE);
        let secret: Vec<String> = read.key.secret_pkcs8_der().iter().map(ToString::to_string).collect();
        assert!(!format!("{read:?}").contains(&secret[36..40].join(", ")));
    }

    #[test]
    fn an_identity_is_refused_outside_its_time_with_a_hint() {
        let cluster = TestCluster::found();
        let path = cluster.path("identity.pem");
        cluster.identity(3).save(&path).unwrap();
        let load = |now| Identity::load(&path, cluster.peer(3), now).map(|identity| identity.peer());
        let (first, end) = (cluster.now().as_millis() - 300_000, cluster.now() + CERTIFICATE_LIFE);
        assert_eq!(CLOCK_DIFFERENCE_MAX.as_millis(), 300_000);
        load(Timestamp::from_millis(first)).unwrap();
        load(Timestamp::from_millis(end.as_millis() - 1)).unwrap();

        let early = load(Timestamp::from_millis(first - 1)).unwrap_err();
        assert!(matches!(early, IdentityError::NotYetValid { .. }), "{early}");
        assert_eq!(early.hint().unwrap(), "set this machine's clock");
        let late = load(end).unwrap_err();
        assert!(matches!(late, IdentityError::Expired { .. }), "{late}");
        assert_eq!(late.to_string(), format!("the certificate of {} expired at 2026-11-25T12:00:00Z", cluster.peer(3)));
        assert!(late.hint().unwrap().ends_with("join again with a new token"));
    }

    #[test]
    fn an_identity_of_another_is_refused_with_a_hint() {
        let (cluster, other) = (TestCluster::found(), TestCluster::found());
        let path = cluster.path("identity.pem");
        let mut hints = Vec::new();
        for stranger in [cluster.identity(4), other.identity(3)] {
            stranger.save(&path).unwrap();
            let told = Identity::load(&path, cluster.peer(3), cluster.now()).unwrap_err();
            assert!(
                matches!(told, IdentityError::OtherPeer { expected, found } if expected == cluster.peer(3) && found == stranger.peer()),
                "{told}"
            );
            hints.push(told.hint().unwrap());
        }
        assert!(hints[0].contains("another node") && hints[1].contains("one cluster's"), "{hints:?}");
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let (cluster, other) = (TestCluster::found(), TestCluster::found());
        let path = cluster.path("identity.pem");
        let (own, second, foreign) = (cluster.identity(3), cluster.identity(3), other.identity(3));
        let told = |key: &Identity, certificate: &Identity, authority: &Identity| {
            let certificates = [certificate.certificate.der.clone(), authority.authority.der.clone()];
            KeyFile { key: key.key.clone_key(), certificates }.write(&path).unwrap();
            Identity::load(&path, certificate.peer(), cluster.now()).map(|identity| identity.peer())
        };
        assert!(matches!(told(&own, &own, &own), Ok(peer) if peer == cluster.peer(3)));
        assert!(matches!(told(&second, &own, &own), Err(IdentityError::OtherKey { .. })));
        assert!(matches!(told(&own, &own, &foreign), Err(IdentityError::Certificate(CertificateError::OtherCluster))));

        // Another authority that gives itself out for the same cluster.
        let twin = TestCluster::found_as(cluster.authority.cluster());
        let forged = told(&own, &own, &twin.identity(3));
        assert!(matches!(forged, Err(IdentityError::Forged { .. })), "{forged:?}");
    }

    #[test]
    fn a_joining_node_takes_no_certificate_of_an_authority_it_does_not_trust() {
        let (cluster, other) = (TestCluster::found(), TestCluster::found());
        let key = NewKey::random();
        let certificate = other.authority.issue(&key.request(), NodeId(3), other.now(), CERTIFICATE_LIFE).unwrap();
        let trusted = cluster.authority.digest();
        let told = key.accept(&certificate, other.authority.certificate(), trusted, cluster.now()).unwrap_err();
        assert!(
            matches!(told, IdentityError::OtherAuthority { expected, found } if expected == trusted && found == other.authority.digest()),
            "{told}"
        );
        // The trusted authority, with a certificate that is not by it.
        let key = NewKey::random();
        let certificate = other.authority.issue(&key.request(), NodeId(3), other.now(), CERTIFICATE_LIFE).unwrap();
        let told = key.accept(&certificate, cluster.authority.certificate(), trusted, cluster.now()).unwrap_err();
        assert!(matches!(told, IdentityError::Certificate(CertificateError::OtherCluster)), "{told}");
        // A certificate for somebody else's key.
        let certificate = cluster.identity(3).certificate.der;
        let told = NewKey::random().accept(&certificate, cluster.authority.certificate(), trusted, cluster.now());
        assert!(matches!(told, Err(IdentityError::OtherKey { .. })), "{told:?}");
    }

    /// Wherever a bit of the file flips, the file is refused or says the very same.
    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let cluster = TestCluster::found();
        let path = cluster.path("identity.pem");
        let identity = cluster.identity(3);
        identity.save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 7);
            fs::write(&path, &flipped).unwrap();
            match Identity::load(&path, cluster.peer(3), cluster.now()) {
                Ok(read) => {
                    let read = (read.key, read.certificate, read.authority.der);
                    assert_eq!(
                        read,
                        (identity.key.clone(), identity.certificate.clone(), identity.authority.der.clone())
                    );
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused * 10 > whole.len() * 9, "only {refused} of {} were refused", whole.len());
        fs::write(&path, &whole).unwrap();
        Identity::load(&path, cluster.peer(3), cluster.now()).unwrap();
    }

    #[test]
    fn renewals_come_at_two_thirds_and_do_not_come_together() {
        let hours = |hours: u64| Timestamp::from_millis(hours * 3_600_000);
        let begins = Timestamp::from_millis(hours(30).as_millis() - 300_000);
        let at: Vec<u64> = (1..=10).map(|node| renew_at(begins, hours(60), NodeId(node)).as_millis()).collect();
        let (first, last) = (at.iter().min().unwrap(), at.iter().max().unwrap());
        assert!(hours(48).as_millis() < *first && *last <= hours(50).as_millis(), "{at:?}");
        // Ten nodes share two hours: each has five minutes for itself at least.
        let mut sorted = at.clone();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 300_000), "{sorted:?}");
        assert_eq!(renew_at(begins, hours(60), NodeId(7)).as_millis(), at[6]);
    }

    #[test]
    fn however_short_a_life_is_it_is_renewed_within_it() {
        let cluster = TestCluster::found();
        let key = NewKey::random();
        let life = Duration::from_secs(15);
        let certificate = cluster.authority.issue(&key.request(), NodeId(3), cluster.now(), life).unwrap();
        let authority = &cluster.authority;
        let identity = key.accept(&certificate, authority.certificate(), authority.digest(), cluster.now()).unwrap();
        let waited = identity.renew_at().since(cluster.now());
        assert!(Duration::from_secs(9) <= waited && waited <= Duration::from_secs(10), "{waited:?}");
    }
}
