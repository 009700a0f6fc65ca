//! The range of addresses that sandboxes with a way out have.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The bits of every address.
const BITS: u8 = 32;

/// The largest range has this prefix: 65,534 addresses.
const PREFIX_MIN: u8 = 16;

/// The smallest range has this prefix: two addresses.
const PREFIX_MAX: u8 = 30;

/// A range of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    /// Invariant: the bits behind the prefix are zero.
    base: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no range for sandboxes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// It has another form.
    #[error("{0:?} is no range of addresses: it is an IPv4 address and a prefix, for example {example}", example = Subnet::DEFAULT)]
    Malformed(String),
    /// It is too large or too small.
    #[error("a range for sandboxes has a prefix of /{PREFIX_MIN} to /{PREFIX_MAX}, not /{0}")]
    Prefix(u8),
    /// Its address lies within the range instead of at its beginning.
    #[error("{given} is within a range that begins at {base}")]
    NotTheBase {
        /// What was given.
        given: Ipv4Addr,
        /// Where the range begins.
        base: Ipv4Addr,
    },
    /// The kernel routes none of these addresses, or they are everybody's.
    #[error("{0} is no range of addresses that a machine can have")]
    Special(Ipv4Addr),
}

impl Subnet {
    /// The end of what providers share among their customers (RFC 6598): no private network is there by right.
    pub const DEFAULT: Self = Self { base: Ipv4Addr::new(100, 127, 0, 0), prefix: 16 };

    /// Returns how many addresses sandboxes may have: all but the first and the last.
    pub fn count(&self) -> u32 {
        (1 << (BITS - self.prefix)) - 2
    }

    /// Returns an address by its number from zero, which starts anew behind the last.
    pub(super) fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1 + number % self.count())
    }

    /// Returns whether another range has an address in common with this one.
    pub(super) fn overlaps(&self, base: Ipv4Addr, prefix: u8) -> bool {
        let mask = mask(self.prefix.min(prefix));
        u32::from(self.base) & mask == u32::from(base) & mask
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(u32::from(BITS - prefix)).unwrap_or(0)
}

impl Default for Subnet {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let given: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        if !(PREFIX_MIN..=PREFIX_MAX).contains(&prefix) {
            return Err(SubnetError::Prefix(prefix));
        }
        let base = Ipv4Addr::from(u32::from(given) & mask(prefix));
        if base != given {
            return Err(SubnetError::NotTheBase { given, base });
        }
        let is_special = base.octets()[0] == 0
            || base.is_loopback()
            || base.is_link_local()
            // Multicast and what was never given out.
            || base.octets()[0] >= 224;
        if is_special { Err(SubnetError::Special(base)) } else { Ok(Self { base, prefix }) }
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_reads_back_and_what_is_none_says_why() {
        assert_eq!(Subnet::DEFAULT.to_string().parse(), Ok(Subnet::DEFAULT));
        assert_eq!("10.1.2.4/30".parse::<Subnet>().map(|subnet| subnet.count()), Ok(2));
        for (text, told) in [
            (
                "10.0.0.0",
                "\"10.0.0.0\" is no range of addresses: it is an IPv4 address and a prefix, for example 100.127.0.0/16",
            ),
            (
                "fd00::/64",
                "\"fd00::/64\" is no range of addresses: it is an IPv4 address and a prefix, for example 100.127.0.0/16",
            ),
            ("10.0.0.0/8", "a range for sandboxes has a prefix of /16 to /30, not /8"),
            ("10.0.0.0/31", "a range for sandboxes has a prefix of /16 to /30, not /31"),
            ("10.1.2.3/24", "10.1.2.3 is within a range that begins at 10.1.2.0"),
            ("127.3.0.0/16", "127.3.0.0 is no range of addresses that a machine can have"),
            ("169.254.0.0/16", "169.254.0.0 is no range of addresses that a machine can have"),
            ("239.1.0.0/16", "239.1.0.0 is no range of addresses that a machine can have"),
        ] {
            assert_eq!(text.parse::<Subnet>().map_err(|error| error.to_string()), Err(told.to_owned()));
        }
    }

    #[test]
    fn addresses_are_within_and_come_round() {
        let subnet: Subnet = "10.1.2.248/29".parse().expect("it is a range");
        let all: Vec<u8> = (0..8).map(|number| subnet.address(number).octets()[3]).collect();
        assert_eq!(all, [249, 250, 251, 252, 253, 254, 249, 250]);
    }

    #[test]
    fn ranges_overlap_where_one_holds_the_other() {
        let subnet: Subnet = "10.1.0.0/16".parse().expect("it is a range");
        for (base, prefix, expected) in [
            ([10, 1, 7, 0], 24, true),
            ([10, 0, 0, 0], 8, true),
            ([10, 1, 0, 9], 32, true),
            ([10, 2, 0, 0], 16, false),
            ([11, 0, 0, 0], 8, false),
            ([0, 0, 0, 0], 0, true),
        ] {
            assert_eq!(subnet.overlaps(base.into(), prefix), expected, "{base:?}/{prefix}");
        }
    }
}
