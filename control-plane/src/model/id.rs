//! One newtype per kind of id.

use std::fmt;
use std::str::FromStr;

use super::name::FunctionName;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}: it looks like {example}")]
pub struct IdError {
    text: String,
    kind: &'static str,
    example: &'static str,
}

/// A node of the cluster; written `node-3`. Zero is no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node-{}", self.0)
    }
}

/// Counts the starts of a node's agent; what an older epoch of the same node says is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// Counts the revisions of one function, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionNumber(pub u32);

impl fmt::Display for RevisionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One revision of one function; written `resize@3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevisionId {
    /// The function.
    pub function: FunctionName,
    /// Which of its revisions.
    pub number: RevisionNumber,
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.function, self.number)
    }
}

/// One instance; written `instance-1-4-7`: the origin, its epoch, a count.
///
/// Ids are unique for ever without agreement: a node that starts an instance inside its grant counts within its own epoch,
/// and what the leader places counts in the replicated state with origin and epoch zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The node that made the id, or zero for the replicated state.
    pub origin: u32,
    /// The epoch of that node, or zero.
    pub epoch: Epoch,
    /// Counts within origin and epoch, from 1.
    pub sequence: u32,
}

impl InstanceId {
    const EXAMPLE: &str = "instance-1-4-7";

    /// No id comes before it.
    pub(crate) const FIRST: Self = Self { origin: 0, epoch: Epoch(0), sequence: 0 };

    /// No id comes after it.
    pub(crate) const LAST: Self = Self { origin: u32::MAX, epoch: Epoch(u32::MAX), sequence: u32::MAX };

    /// Makes the id of an instance that `node` starts inside its grant.
    pub fn granted(node: NodeId, epoch: Epoch, sequence: u32) -> Self {
        Self { origin: node.0, epoch, sequence }
    }

    /// Makes the id of an instance that the leader placed.
    pub fn placed(sequence: u32) -> Self {
        Self { origin: 0, epoch: Epoch(0), sequence }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance-{}-{}-{}", self.origin, self.epoch.0, self.sequence)
    }
}

impl FromStr for InstanceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let refuse = || IdError { text: text.chars().take(80).collect(), kind: "instance", example: Self::EXAMPLE };
        let mut numbers = text.strip_prefix("instance-").ok_or_else(refuse)?.split('-').map(str::parse::<u32>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or_else(refuse);
        let id = Self { origin: next()?, epoch: Epoch(next()?), sequence: next()? };
        // `+1` and `01` parse as numbers too; an id has one spelling.
        if id.to_string() == text { Ok(id) } else { Err(refuse()) }
    }
}

/// One invocation at one gateway: 128 random bits that the driver draws, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvocationId(pub u128);

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_has_one_spelling() {
        let id = InstanceId::granted(NodeId(1), Epoch(4), 7);
        assert_eq!(id.to_string(), InstanceId::EXAMPLE);
        assert_eq!(InstanceId::EXAMPLE.parse(), Ok(id));
        for bad in [
            "",
            "instance-",
            "instance-1-4",
            "instance-1-4-7-1",
            "instance-01-4-7",
            "instance-+1-4-7",
            "instance-1-4-4294967296",
        ] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?} was taken");
        }
    }
}
