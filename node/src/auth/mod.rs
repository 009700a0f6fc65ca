//! Who calls, and what they may do.
//!
//! There is one token per data directory, and whoever shows it may do everything. Callers over the Unix socket need none:
//! the mode of the socket lets only root and the group `hearth` in.
//!
//! Peers know each other by certificates of the cluster's own authority; `docs/concepts/trust.md` tells their life:
//!
//! ```text
//! Authority ──digest──▶ JoinToken ──pins──▶ join_client ──NewKey, secret──▶ State::admit ─▶ Authority::issue
//!                                                                                               │
//!                        PeerTls ◀──shows the newest── Identity ◀──────────certificate─────────┘
//! ```

mod authority;
mod certificate;
mod identity;
mod join_token;
mod key_file;
mod peer;
mod pin;
mod tls;
mod token;

#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod test_cluster;

pub use authority::{Authority, CERTIFICATE_LIFE, CLOCK_DIFFERENCE_MAX, IssueError, REQUEST_MAX_BYTES};
pub use certificate::CertificateError;
pub use identity::{Identity, IdentityError, NewKey};
pub use join_token::{JoinToken, JoinTokenError, Secret};
pub use key_file::KeyFileError;
pub use peer::{ClusterId, PeerId, PeerIdError};
pub use pin::PinError;
pub use tls::{PeerTls, Protocol, RenewError, join_client, peer_of, protocol_of};
pub use token::{Token, TokenError};

/// How a request came in, and therefore what it must show.
#[derive(Clone, Debug)]
pub enum Door {
    /// Over the Unix socket: the kernel has checked the caller already.
    Local,
    /// Over TCP: the caller shows this token.
    Remote(Token),
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It shows no bearer token.
    #[error("a token is needed")]
    Missing,
    /// It shows another token.
    #[error("the token is not the one of this node")]
    Wrong,
}

impl Door {
    /// Checks the `Authorization` header of a request.
    pub fn check(&self, authorization: Option<&[u8]>) -> Result<(), Denial> {
        let Self::Remote(token) = self else { return Ok(()) };
        let presented = authorization.and_then(bearer).ok_or(Denial::Missing)?;
        if token.admits(presented) { Ok(()) } else { Err(Denial::Wrong) }
    }
}

/// Returns what follows `Bearer`, in whatever case that is written.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_opens_the_remote_door() {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::load_or_make(&folder.path().join("token")).unwrap();
        let door = Door::Remote(token.clone());
        let with = |text: &str| door.check(Some(text.as_bytes()));
        assert_eq!(with(&format!("Bearer {}", token.as_str())), Ok(()));
        assert_eq!(with(&format!("bearer  {}", token.as_str())), Ok(()));
        for missing in ["", "Bearer", "Bearer ", "Basic abc", token.as_str()] {
            assert_eq!(with(missing), Err(Denial::Missing), "{missing:?}");
        }
        for wrong in ["x", &token.as_str()[1..], &format!("{}0", token.as_str()), &token.as_str().to_uppercase()] {
            assert_eq!(with(&format!("Bearer {wrong}")), Err(Denial::Wrong), "{wrong:?}");
        }
        assert_eq!(door.check(None), Err(Denial::Missing));
        assert_eq!(Door::Local.check(None), Ok(()));
    }
}
