//! Where instances of a revision may run: labels that a node must have, and what they are spread over.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The label that says in which zone a node stands: what fails together, a rack or a data centre.
pub const ZONE_LABEL: &str = "zone";

/// The most labels that one revision may require.
pub const REQUIRED_MAX: usize = 16;

/// The longest key and the longest value of a label, in bytes.
pub const LABEL_LENGTH_MAX: usize = 63;

/// What the instances of a function are spread over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spread {
    /// Nothing: they are packed.
    #[default]
    None,
    /// The zones: no two zones that may be used differ by more than one in what they have of the minimum.
    Zone,
}

impl Spread {
    /// Every spread, in the order in which they are documented.
    pub const ALL: [Self; 2] = [Self::None, Self::Zone];

    /// Returns the name that manifests use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zone => "zone",
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Spread {
    type Err = UnknownSpread;

    fn from_str(text: &str) -> Result<Self, UnknownSpread> {
        Self::ALL.into_iter().find(|spread| spread.as_str() == text).ok_or_else(|| UnknownSpread(text.to_owned()))
    }
}

/// A spread that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing is spread over {0:?}: it is one of none, zone")]
pub struct UnknownSpread(String);

/// Where instances of a revision may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraints {
    spread: Spread,
    require: BTreeMap<String, String>,
}

/// Why labels cannot be required.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintsError {
    /// There are more than [`REQUIRED_MAX`].
    #[error("{count} labels are required, the most is {REQUIRED_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A key has no characters: no node has such a label.
    #[error("a required label needs a name")]
    NoKey,
    /// A key or a value is longer than [`LABEL_LENGTH_MAX`].
    #[error("{text:?} has {} characters, a label's name and its value have {LABEL_LENGTH_MAX} at most", text.len())]
    TooLong {
        /// The key or the value.
        text: String,
    },
}

impl Constraints {
    /// Returns the constraints if the labels keep their limits.
    pub fn new(spread: Spread, require: BTreeMap<String, String>) -> Result<Self, ConstraintsError> {
        if require.len() > REQUIRED_MAX {
            return Err(ConstraintsError::TooMany { count: require.len() });
        }
        if require.contains_key("") {
            return Err(ConstraintsError::NoKey);
        }
        let too_long = require.iter().flat_map(|(key, value)| [key, value]).find(|text| text.len() > LABEL_LENGTH_MAX);
        match too_long.cloned() {
            Some(text) => Err(ConstraintsError::TooLong { text }),
            None => Ok(Self { spread, require }),
        }
    }

    /// Returns what instances are spread over.
    pub const fn spread(&self) -> Spread {
        self.spread
    }

    /// Returns the labels that a node must have, with these values.
    pub const fn require(&self) -> &BTreeMap<String, String> {
        &self.require
    }

    /// Returns the first required label that is missing or has another value; none means that all are there.
    pub fn missing<'a>(&'a self, labels: &BTreeMap<String, String>) -> Option<(&'a str, &'a str)> {
        let lacks = |(key, value): &(&String, &String)| labels.get(*key) != Some(*value);
        self.require.iter().find(lacks).map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_required_label_must_be_there_with_its_value() {
        let both = labels(&[("arch", "arm64"), ("disk", "ssd")]);
        let constraints = Constraints::new(Spread::None, both).expect("the limits are kept");
        assert_eq!(constraints.missing(&labels(&[("arch", "arm64"), ("disk", "ssd"), ("zone", "a")])), None);
        assert_eq!(constraints.missing(&labels(&[("arch", "arm64")])), Some(("disk", "ssd")));
        assert_eq!(constraints.missing(&labels(&[("arch", "amd64"), ("disk", "ssd")])), Some(("arch", "arm64")));
        assert_eq!(Constraints::default().missing(&labels(&[])), None);
    }

    #[test]
    fn labels_that_no_node_can_have_are_refused() {
        let long = "x".repeat(LABEL_LENGTH_MAX + 1);
        let many = (0..=REQUIRED_MAX).map(|number| (number.to_string(), String::new())).collect();
        for bad in [labels(&[("", "a")]), labels(&[(long.as_str(), "a")]), labels(&[("a", long.as_str())]), many] {
            assert!(Constraints::new(Spread::Zone, bad.clone()).is_err(), "{bad:?} was taken");
        }
    }
}
