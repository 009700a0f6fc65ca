//! Who a peer is: one node of one cluster, as its certificate spells it.

use std::fmt;
use std::str::FromStr;

use control_plane::model::NodeId;

use crate::clock::fill_random;

/// How an identity begins, as SPIFFE has it.
const SCHEME: &str = "spiffe://";

/// Why a text names no peer or no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}: it looks like {example}")]
pub struct PeerIdError {
    text: String,
    kind: &'static str,
    example: &'static str,
}

impl PeerIdError {
    fn new(text: &str, kind: &'static str, example: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), kind, example }
    }
}

/// One cluster: 128 bits that its founder drew, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(u128);

impl ClusterId {
    /// Draws an id that no other cluster has.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        fill_random(&mut bytes);
        Self(u128::from_be_bytes(bytes))
    }

    /// Returns what the cluster's authority is called in its own certificate.
    pub(super) fn uri(self) -> String {
        format!("{SCHEME}{self}")
    }

    /// Reads what [`ClusterId::uri`] wrote.
    pub(super) fn from_uri(uri: &str) -> Result<Self, PeerIdError> {
        uri.strip_prefix(SCHEME).unwrap_or_default().parse()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let refuse = || PeerIdError::new(text, "cluster", "0f8e2a6c4d3b19750f8e2a6c4d3b1975");
        parse_hex(text).map(Self).ok_or_else(refuse)
    }
}

/// One node of one cluster; written `spiffe://<cluster>/node/3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The cluster.
    pub cluster: ClusterId,
    /// Which of its nodes. Zero is no node and has no certificate.
    pub node: NodeId,
}

impl PeerId {
    /// Returns the name under which clients of TLS verify this node.
    ///
    /// `.internal` is set aside for private use, so that no public authority vouches for such a name.
    pub fn dns_name(&self) -> String {
        format!("{}.{}.internal", self.node, self.cluster)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/node/{}", self.cluster, self.node.0)
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let refuse = || PeerIdError::new(text, "node of a cluster", "spiffe://0f8e2a6c4d3b19750f8e2a6c4d3b1975/node/3");
        let rest = text.strip_prefix(SCHEME).ok_or_else(refuse)?;
        let (cluster, node) = rest.split_once("/node/").ok_or_else(refuse)?;
        let cluster = cluster.parse().map_err(|_| refuse())?;
        let node = node.parse().ok().filter(|number| *number > 0).map(NodeId).ok_or_else(refuse)?;
        let peer = Self { cluster, node };
        // `+3` and `03` parse as numbers too; an identity has one spelling.
        if peer.to_string() == text { Ok(peer) } else { Err(refuse()) }
    }
}

/// Reads 128 bits from exactly 32 lower-case hexadecimal digits.
pub(super) fn parse_hex(text: &str) -> Option<u128> {
    let number = u128::from_str_radix(text, 16).ok()?;
    (format!("{number:032x}") == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "0f8e2a6c4d3b19750f8e2a6c4d3b1975";

    #[test]
    fn an_identity_has_one_spelling() {
        let peer = PeerId { cluster: CLUSTER.parse().unwrap(), node: NodeId(3) };
        let text = format!("spiffe://{CLUSTER}/node/3");
        assert_eq!(peer.to_string(), text);
        assert_eq!(text.parse(), Ok(peer));
        assert_eq!(peer.dns_name(), format!("node-3.{CLUSTER}.internal"));
        assert_eq!(ClusterId::from_uri(&peer.cluster.uri()), Ok(peer.cluster));
        for bad in [
            String::new(),
            CLUSTER.to_owned(),
            format!("spiffe://{CLUSTER}"),
            format!("spiffe://{CLUSTER}/node/"),
            format!("spiffe://{CLUSTER}/node/0"),
            format!("spiffe://{CLUSTER}/node/03"),
            format!("spiffe://{CLUSTER}/node/+3"),
            format!("spiffe://{CLUSTER}/node/3/"),
            format!("spiffe://{CLUSTER}/node/4294967296"),
            format!("spiffe://{}/node/3", CLUSTER.to_uppercase()),
            format!("spiffe://{}/node/3", &CLUSTER[1..]),
            format!("spiffe://+{}/node/3", &CLUSTER[1..]),
            format!("SPIFFE://{CLUSTER}/node/3"),
        ] {
            assert!(bad.parse::<PeerId>().is_err(), "{bad:?} was taken");
        }
    }
}
