//! Names that users choose: of apps and of functions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name, in bytes: what fits into one DNS label.
pub const NAME_LENGTH_MAX: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than [`NAME_LENGTH_MAX`].
    #[error("the name has {length} characters, the most is {NAME_LENGTH_MAX}")]
    TooLong {
        /// How long it is, in bytes.
        length: usize,
    },
    /// The name has a character other than `a`–`z`, `0`–`9` and inner `-`.
    #[error("{name:?} is no name: lower-case letters, digits and inner hyphens make one, and it starts with a letter")]
    Malformed {
        /// The name as it was given.
        name: String,
    },
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(NameError::TooLong { length: name.len() });
    }
    let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !allowed || !name.as_bytes()[0].is_ascii_lowercase() || name.ends_with('-') {
        return Err(NameError::Malformed { name: name.to_owned() });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                check(name)?;
                Ok(Self(name.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of an app: what one manifest deploys together.
    AppName
}

name! {
    /// The name of a function; unique in the whole cluster, because `/function/NAME` reaches it.
    FunctionName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_that_start_with_a_letter() {
        for good in ["a", "resize", "resize-2", &"a".repeat(63)] {
            assert!(good.parse::<FunctionName>().is_ok(), "{good:?} was refused");
        }
        for bad in ["", "A", "2resize", "-a", "a-", "a_b", "a/b", "a.b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad:?} was taken");
        }
    }
}
