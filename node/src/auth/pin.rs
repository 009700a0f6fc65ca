//! How a node that joins recognises the cluster: by the digest of its authority, which the join token carries.

use std::sync::Arc;

use control_plane::model::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError as TlsCertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::certificate::{AuthorityCertificate, CertificateError, NodeCertificate, digest_of};

/// Why a server is not of the cluster that the token is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// It did not send its certificate and its authority's.
    #[error("the server sent {sent} certificates instead of its own and its authority's")]
    NoAuthority {
        /// How many it sent.
        sent: usize,
    },
    /// It is of another cluster, or pretends to be of one.
    #[error("the server's authority is {found}, the join token is for {expected}")]
    OtherAuthority {
        /// The digest that the token carries.
        expected: Digest,
        /// The digest of what the server sent.
        found: Digest,
    },
}

/// Accepts a server if its chain is its own certificate and that of the pinned authority, which signed it.
///
/// The name that was dialled is not looked at: a node that joins knows an address and no node.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pub(super) pin: Digest,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let [authority] = intermediates else {
            return Err(refused(PinError::NoAuthority { sent: intermediates.len() + 1 }));
        };
        let found = digest_of(authority);
        if found != self.pin {
            return Err(refused(PinError::OtherAuthority { expected: self.pin, found }));
        }
        let authority = AuthorityCertificate::parse(authority).map_err(refused)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &authority.roots, &[], now, self.algorithms.all)?;
        let server = NodeCertificate::parse(end_entity).map_err(refused)?;
        if server.peer.cluster != authority.cluster {
            return Err(refused(CertificateError::OtherCluster));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Wraps an error of ours as one of TLS.
pub(super) fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
}
