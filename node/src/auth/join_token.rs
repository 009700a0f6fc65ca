//! What a node shows to be let into a cluster, and what the cluster keeps of it.
//!
//! ```text
//! HRTH-1-<SHA-256 of the authority's certificate>-<secret>
//! ```
//! The digest is for the joining node: with it, it recognises the cluster before it says the secret. The secret is for the
//! cluster, which keeps a hash of it alone, so that nobody joins with what is read out of the cluster's state.

use std::fmt;
use std::str::FromStr;

use control_plane::model::Digest;
use sha2::{Digest as _, Sha256};

use super::peer::parse_hex;
use crate::clock::fill_random;

/// What a token begins with.
const PREFIX: &str = "HRTH-1-";

/// What tokens of all versions begin with.
const FAMILY: &str = "HRTH-";

/// Hexadecimal digits of a digest.
const DIGEST_CHARS: usize = 64;

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

    /// Returns its SHA-256, which is all that a cluster keeps of it.
    pub fn hash(&self) -> Digest {
        Digest::from_bytes(Sha256::digest(self.0.to_be_bytes()).into())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken::random(Digest::from_bytes([0xa5; 32]))
    }

    #[test]
    fn a_secret_is_not_printed_and_its_hash_does_not_hold_it() {
        let token = token();
        let secret = token.secret().reveal();
        for printed in [format!("{token:?}"), format!("{:?}", token.secret())] {
            assert!(!printed.contains(&secret), "{printed}");
        }
        assert!(!token.secret().hash().hex().contains(&secret));
        assert_eq!(secret.parse::<Secret>().unwrap().hash(), token.secret().hash());
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
