//! What a node shows to be let into a cluster, and what the cluster keeps of it.
//!
//! ```text
//! HRTH-1-<SHA-256 of the authority's certificate>-<secret>
//! ```
//! The digest is for the joining node: with it, it recognises the cluster before it says the secret. The secret is for the
//! cluster, which keeps a hash of it alone, so that nobody joins with what is read out of the cluster's state.

use std::fmt;
use std::str::FromStr;

use control_plane::model::{Digest, Timestamp};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::peer::parse_hex;
use crate::clock::fill_random;

/// What a token begins with.
const PREFIX: &str = "HRTH-1-";

/// What tokens of all versions begin with.
const FAMILY: &str = "HRTH-";

/// Hexadecimal digits of a digest.
const DIGEST_CHARS: usize = 64;

/// How many invitations a cluster has at once, at most.
pub const INVITATIONS_MAX: usize = 256;

/// Why a text is no token. It never repeats the text, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It is something else.
    #[error("this is no join token: one begins with {PREFIX}")]
    NoToken,
    /// It is of a version of Hearth that this one does not know.
    #[error("this join token is of a newer version: this one knows those that begin with {PREFIX}")]
    OtherVersion,
    /// It is cut short, or changed.
    #[error("this join token is incomplete or mistyped")]
    Damaged,
}

/// A token that admits a node.
///
/// It is shown by [`JoinToken::reveal`] alone, so that it does not end up in a log by being formatted.
#[derive(Clone, Debug)]
pub struct JoinToken {
    authority: Digest,
    secret: Secret,
}

impl JoinToken {
    /// Draws a token for the cluster whose authority's certificate has this digest.
    pub fn random(authority: Digest) -> Self {
        let mut bytes = [0; 16];
        fill_random(&mut bytes);
        Self { authority, secret: Secret(u128::from_be_bytes(bytes)) }
    }

    /// Returns the digest of the certificate of the authority of the cluster to join.
    pub fn authority(&self) -> Digest {
        self.authority
    }

    /// Returns what is shown to that cluster, and to no other.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Returns the whole token, for the person who asked for it.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}-{}", self.authority.hex(), self.secret.reveal())
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let Some(rest) = text.strip_prefix(PREFIX) else {
            let is_token = text.starts_with(FAMILY);
            return Err(if is_token { JoinTokenError::OtherVersion } else { JoinTokenError::NoToken });
        };
        let (digest, rest) = rest.split_at_checked(DIGEST_CHARS).ok_or(JoinTokenError::Damaged)?;
        let authority = format!("sha256:{digest}").parse().map_err(|_| JoinTokenError::Damaged)?;
        let secret = rest.strip_prefix('-').ok_or(JoinTokenError::Damaged)?.parse()?;
        Ok(Self { authority, secret })
    }
}

/// The secret part of a token: 128 random bits, which nobody guesses even with the hash at hand.
#[derive(Clone)]
pub struct Secret(u128);

impl Secret {
    /// Returns the secret, to be sent to a cluster that has proved to be the right one.
    pub fn reveal(&self) -> String {
        format!("{:032x}", self.0)
    }

    fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0.to_be_bytes()).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        parse_hex(text).map(Self).ok_or(JoinTokenError::Damaged)
    }
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy, Debug)]
struct SecretHash([u8; 32]);

/// How often a token admits a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uses {
    /// As often as it is shown.
    Unlimited,
    /// So many more times.
    Left(u32),
}

/// Why a secret does not admit a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The cluster has given no such token, or has forgotten it since.
    #[error("the cluster does not know this join token")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// It has admitted as many nodes as it may.
    #[error("the join token has been used as often as it may be")]
    UsedUp,
}

/// There are as many invitations as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cluster has {INVITATIONS_MAX} join tokens already")]
pub struct TooMany;

/// What a cluster keeps of one token.
#[derive(Clone, Debug)]
struct Invitation {
    hash: SecretHash,
    expires_at: Timestamp,
    uses: Uses,
}

/// What a cluster keeps of the tokens it has given.
#[derive(Clone, Debug, Default)]
pub struct Invitations {
    /// Invariant: at most [`INVITATIONS_MAX`].
    open: Vec<Invitation>,
}

impl Invitations {
    /// Keeps what is needed to recognise `token` before `expires_at`, and forgets what has expired by `now`.
    pub fn add(&mut self, now: Timestamp, token: &JoinToken, expires_at: Timestamp, uses: Uses) -> Result<(), TooMany> {
        self.open.retain(|invitation| now < invitation.expires_at);
        if self.open.len() >= INVITATIONS_MAX {
            return Err(TooMany);
        }
        self.open.push(Invitation { hash: token.secret.hash(), expires_at, uses });
        Ok(())
    }

    /// Admits whoever shows a secret, and counts it as one use.
    ///
    /// Every invitation is compared, each in the same time, so that an answer's delay says nothing about the others.
    pub fn redeem(&mut self, now: Timestamp, secret: &Secret) -> Result<(), Refusal> {
        let SecretHash(shown) = secret.hash();
        let mut found = None;
        for invitation in &mut self.open {
            if bool::from(invitation.hash.0.ct_eq(&shown)) {
                found = Some(invitation);
            }
        }
        let invitation = found.ok_or(Refusal::Unknown)?;
        if now >= invitation.expires_at {
            return Err(Refusal::Expired);
        }
        match &mut invitation.uses {
            Uses::Unlimited => Ok(()),
            Uses::Left(0) => Err(Refusal::UsedUp),
            Uses::Left(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn token() -> JoinToken {
        JoinToken::random(Digest::from_bytes([0xa5; 32]))
    }

    #[test]
    fn a_token_admits_until_it_expires() {
        let (token, mut invitations) = (token(), Invitations::default());
        invitations.add(at(0), &token, at(10), Uses::Unlimited).unwrap();
        assert_eq!(invitations.redeem(at(9), token.secret()), Ok(()));
        assert_eq!(invitations.redeem(at(9), token.secret()), Ok(()));
        assert_eq!(invitations.redeem(at(10), token.secret()), Err(Refusal::Expired));
        let other = JoinToken::random(token.authority());
        assert_eq!(invitations.redeem(at(9), other.secret()), Err(Refusal::Unknown));
        // What has expired is forgotten as soon as another is made.
        invitations.add(at(11), &other, at(20), Uses::Unlimited).unwrap();
        assert_eq!(invitations.redeem(at(11), token.secret()), Err(Refusal::Unknown));
        assert_eq!(invitations.redeem(at(11), other.secret()), Ok(()));
    }

    #[test]
    fn a_token_admits_as_often_as_it_may() {
        let (token, other, mut invitations) = (token(), token(), Invitations::default());
        invitations.add(at(0), &token, at(10), Uses::Left(2)).unwrap();
        invitations.add(at(0), &other, at(10), Uses::Left(1)).unwrap();
        let answers: Vec<_> = (0..4).map(|_| invitations.redeem(at(1), token.secret())).collect();
        assert_eq!(answers, [Ok(()), Ok(()), Err(Refusal::UsedUp), Err(Refusal::UsedUp)]);
        assert_eq!(invitations.redeem(at(1), other.secret()), Ok(()));
    }

    #[test]
    fn a_cluster_keeps_so_many_invitations_and_no_more() {
        let mut invitations = Invitations::default();
        for _ in 0..INVITATIONS_MAX {
            invitations.add(at(0), &token(), at(10), Uses::Left(1)).unwrap();
        }
        assert_eq!(invitations.add(at(9), &token(), at(20), Uses::Left(1)), Err(TooMany));
        assert_eq!(invitations.add(at(10), &token(), at(20), Uses::Left(1)), Ok(()));
    }

    #[test]
    fn a_secret_is_neither_kept_nor_printed() {
        let (token, mut invitations) = (token(), Invitations::default());
        invitations.add(at(0), &token, at(10), Uses::Unlimited).unwrap();
        let secret = token.secret().reveal();
        for printed in [format!("{token:?}"), format!("{:?}", token.secret()), format!("{invitations:?}")] {
            assert!(!printed.contains(&secret), "{printed}");
        }
        let (kept, bytes) = (invitations.open[0].hash.0, token.secret.0.to_be_bytes());
        assert!(kept.windows(bytes.len()).all(|window| window != bytes));
        let damaged = token.reveal().replace(&secret, &secret[1..]).parse::<JoinToken>().unwrap_err();
        assert!(!format!("{damaged:?} {damaged}").contains(&secret[1..]));
    }

    #[test]
    fn what_is_no_token_is_told_apart() {
        let whole = token().reveal();
        for (text, expected) in [
            ("", JoinTokenError::NoToken),
            ("hearth_00", JoinTokenError::NoToken),
            ("HRTH-2-00", JoinTokenError::OtherVersion),
            (&whole.replace("HRTH-1", "HRTH-10"), JoinTokenError::OtherVersion),
            ("HRTH-1-", JoinTokenError::Damaged),
            (&whole[..whole.len() - 1], JoinTokenError::Damaged),
            (&format!("{whole}\n"), JoinTokenError::Damaged),
            (&format!("HRTH-1-{}", whole["HRTH-1-".len()..].to_uppercase()), JoinTokenError::Damaged),
            (&format!("HRTH-1-{}", "é".repeat(60)), JoinTokenError::Damaged),
        ] {
            assert_eq!(text.parse::<JoinToken>().unwrap_err(), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_token_reads_back_as_it_was_written(authority: [u8; 32], secret: u128) {
            let token = JoinToken { authority: Digest::from_bytes(authority), secret: Secret(secret) };
            let read: JoinToken = token.reveal().parse().unwrap();
            prop_assert_eq!((read.authority, read.secret.0), (token.authority, secret));
        }

        /// Whatever is taken is spelled as we spell it: no two texts are one token.
        #[test]
        fn a_token_has_one_spelling(text in r"(HRTH-1-)?[0-9a-fA-F+ -]{60,100}|HRTH-1-[0-9a-f]{64}-[0-9a-f+]{31,33}|.*") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.reveal(), text);
            }
        }

        /// A slip of one character gives another token or none, and never the same.
        #[test]
        fn a_slip_is_never_overlooked(place in 0..104_usize, slip in any::<char>()) {
            let token = JoinToken { authority: Digest::from_bytes([0x3c; 32]), secret: Secret(7) };
            let whole = token.reveal();
            prop_assume!(!whole[place..].starts_with(slip));
            let slipped: String = whole.char_indices().map(|(at, c)| if at == place { slip } else { c }).collect();
            if let Ok(read) = slipped.parse::<JoinToken>() {
                prop_assert!(read.authority != token.authority || read.secret.0 != token.secret.0);
            }
        }
    }
}
