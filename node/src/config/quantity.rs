//! Sizes and periods as a configuration file writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with one of the units of a size, or too large.
    #[error("{0:?} is no size: it is a whole number with Ki, Mi, Gi or nothing behind it, for example 256Mi")]
    Size(String),
    /// Not a number with one of the units of a period, or too large.
    #[error("{0:?} is no period: it is a whole number with ms, s, m, h or d behind it, for example 30s")]
    Period(String),
}

/// An amount of memory or disk, written `256Mi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

/// A length of time, written `30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(pub Duration);

impl FromStr for Size {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (count, unit) = split(text);
        let factor = match unit {
            "" => 1,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return Err(QuantityError::Size(text.to_owned())),
        };
        count.and_then(|count| count.checked_mul(factor)).map(Self).ok_or_else(|| QuantityError::Size(text.to_owned()))
    }
}

impl FromStr for Period {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (count, unit) = split(text);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(QuantityError::Period(text.to_owned())),
        };
        count
            .and_then(|count| count.checked_mul(millis))
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| QuantityError::Period(text.to_owned()))
    }
}

impl TryFrom<String> for Size {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, QuantityError> {
        text.parse()
    }
}

impl TryFrom<String> for Period {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, QuantityError> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        control_plane::model::Bytes(self.0).fmt(f)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
            if millis != 0 && millis.is_multiple_of(factor) {
                return write!(f, "{}{unit}", millis / factor);
            }
        }
        write!(f, "{millis}ms")
    }
}

/// Splits `256Mi` into its digits as a number, none if there are none or too many, and the rest.
fn split(text: &str) -> (Option<u64>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    (count.parse().ok(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_back_as_they_are_written() {
        for text in ["0", "1000", "1Ki", "256Mi", "3Gi"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["0ms", "1500ms", "30s", "5m", "36h", "7d"] {
            assert_eq!(text.parse::<Period>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "Mi", "-1", "1.5Gi", "1 Mi", "1MB", "99999999999999999999", "99999999999Gi"] {
            assert!(text.parse::<Size>().is_err(), "{text:?} was taken");
        }
        for text in ["", "s", "30", "-1s", "1.5s", "1 s", "1w", "18446744073709551615d"] {
            assert!(text.parse::<Period>().is_err(), "{text:?} was taken");
        }
    }
}
