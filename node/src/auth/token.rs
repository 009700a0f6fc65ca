//! The token of a data directory: 256 random bits in a file that only root reads.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::fill_random;
use crate::data_dir::replace_file;

/// What a token begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "hearth_";

/// The random bits of a token, in bytes.
const SECRET_BYTES: usize = 32;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or made.
    #[error("cannot use the token file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file does not hold a token.
    #[error("the token file {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read it.
    #[error("the token file {} has mode {mode:o}, others may read it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl TokenError {
    /// Returns what to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("make room on the disk of the data directory".to_owned())
            }
            Self::Io { .. } => None,
            Self::Damaged { .. } => Some("delete it: the next start makes another token".to_owned()),
            Self::Exposed { path, .. } => Some(format!("chmod 600 {}", path.display())),
        }
    }
}

/// A token; what it prints for debugging is not the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Reads the token at `path`, and makes one if there is none, durably.
    pub fn load_or_make(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Io { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(TokenError::Exposed { path: path.to_owned(), mode });
                }
                let content = fs::read(path).map_err(failed)?;
                let text = std::str::from_utf8(&content).ok().map(str::trim_end);
                text.and_then(Self::parse).ok_or_else(|| TokenError::Damaged { path: path.to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = Self::random();
                replace_file(path, format!("{}\n", token.as_str()).as_bytes(), 0o600).map_err(failed)?;
                Ok(token)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn random() -> Self {
        let mut secret = [0; SECRET_BYTES];
        fill_random(&mut secret);
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{PREFIX}{hex}").into())
    }

    fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?;
        let is_hex = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (hex.len() == 2 * SECRET_BYTES && is_hex).then(|| Self(text.into()))
    }

    /// Returns the secret, to be shown by a caller.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether `presented` is this token, in a time that depends on its length alone.
    pub fn admits(&self, presented: &[u8]) -> bool {
        let own = self.0.as_bytes();
        if own.len() != presented.len() {
            return false;
        }
        let difference =
            own.iter().zip(presented).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
        difference == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let made = Token::load_or_make(&path).unwrap();
        assert_eq!(Token::load_or_make(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains(&made.as_str()[PREFIX.len()..]));
    }

    #[test]
    fn a_damaged_or_exposed_token_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for content in ["", "hearth_", "hearth_00", "\0\0", &format!("hearth_{}", "G".repeat(64))] {
            replace_file(&path, content.as_bytes(), 0o600).unwrap();
            assert!(matches!(Token::load_or_make(&path), Err(TokenError::Damaged { .. })), "{content:?} was taken");
        }
        replace_file(&path, format!("hearth_{}", "0".repeat(64)).as_bytes(), 0o644).unwrap();
        assert!(matches!(Token::load_or_make(&path), Err(TokenError::Exposed { mode: 0o644, .. })));
    }
}
