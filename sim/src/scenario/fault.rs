//! What goes wrong in a scenario: which kind, where, when, and for how long.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, after the load has.
    pub at: Duration,
    /// How long it lasts.
    pub length: Duration,
    /// What happens.
    pub kind: Kind,
    /// Whom it happens to.
    pub target: Target,
    /// How much longer messages take, where they are slow.
    pub delay: Duration,
}

/// What happens.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The process is killed; instances live on.
    Kill,
    /// The machine loses its power, and what was not on its disk.
    PowerLoss,
    /// The process stands still.
    Pause,
    /// Nothing comes through to other nodes or from them.
    Isolate,
    /// Nothing gets out to other nodes.
    Mute,
    /// Messages to other nodes and from them take longer.
    Slow,
    /// An operator empties the node.
    Drain,
}

impl Kind {
    /// Returns the word that a scenario has for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power-loss",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Mute => "mute",
            Self::Slow => "slow",
            Self::Drain => "drain",
        }
    }
}

/// Whom it happens to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Target {
    /// Whoever leads at that moment.
    Leader,
    /// This node.
    Node(u32),
    /// Every node of a zone.
    Zone(String),
    /// So many nodes, drawn from the seed.
    Any(u32),
    /// As many nodes as a majority can do without, drawn from the seed.
    Minority,
    /// Every node.
    All,
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number > 0);
        let read = match text.as_str() {
            "leader" => Some(Self::Leader),
            "minority" => Some(Self::Minority),
            "all" => Some(Self::All),
            other => other
                .strip_prefix("node-")
                .and_then(number)
                .map(Self::Node)
                .or_else(|| other.strip_prefix("any:").and_then(number).map(Self::Any))
                .or_else(|| other.strip_prefix("zone:").map(|zone| Self::Zone(zone.to_owned()))),
        };
        read.ok_or_else(|| format!("{text:?} is none of leader, node-N, zone:NAME, any:N, minority, all"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("leader"),
            Self::Node(number) => write!(f, "node-{number}"),
            Self::Zone(zone) => write!(f, "zone:{zone}"),
            Self::Any(count) => write!(f, "any:{count}"),
            Self::Minority => f.write_str("minority"),
            Self::All => f.write_str("all"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, length) = (super::text::told(self.at), super::text::told(self.length));
        write!(f, "{} {} at {at} for {length}", self.kind.as_str(), self.target)
    }
}
