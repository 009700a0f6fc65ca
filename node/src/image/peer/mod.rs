//! Images among peers: every node gives what it has, and fetches what it lacks.
//!
//! ```text
//!   start, prefetch ──▶ Store::fetch, one for each image ──▶ what a pull does: verify, unpack, list
//!                              │                                  │
//!                              ▼                                  ▼ blob by blob
//!                      Has? of all peers ──▶ holders ◀── Blob, from where it broke off
//! ```
//! Nothing of a peer is believed: what comes has the digest that was asked for, or is thrown away and its sender not asked again.

mod fetch;
mod serve;
mod source;
mod traffic;

use std::fmt;
use std::time::Duration;

use control_plane::model::NodeId;
use tonic::transport::Channel;

pub use self::fetch::ObtainError;
pub use self::serve::Sharing;
pub use self::traffic::PeerTraffic;

pub(super) use self::fetch::Fetching;
pub(super) use self::source::Peers;

/// The most bytes of a blob in one message.
const CHUNK_BYTES: usize = 256 << 10;

/// The most bytes of one message: a chunk and what is around it.
const MESSAGE_MAX_BYTES: usize = CHUNK_BYTES + 1024;

/// Who may have images that this node lacks.
pub trait ImagePeers: Send + Sync + fmt::Debug {
    /// Returns the peers as they are known at this moment, this node not among them.
    fn peers(&self) -> Vec<ImagePeer>;
}

/// A peer that may be asked for images.
#[derive(Clone, Debug)]
pub struct ImagePeer {
    /// Who it is.
    pub node: NodeId,
    /// The way to it, which must have shown that it is this node; it need not be connected yet.
    pub channel: Channel,
}

/// What exchanging images with peers may take.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    /// How many blobs are sent at once; who asks for one more is told to ask elsewhere.
    pub streams_max: usize,
    /// How long a peer may say nothing, whether it is asked or sends, before another one is asked.
    pub silence_max: Duration,
    /// How long fetching an image may take in all.
    pub fetch_max: Duration,
    /// The pause after all holders of a blob have failed once; it doubles with each time that nothing comes.
    pub pause_min: Duration,
    /// The longest such pause.
    pub pause_max: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            streams_max: 32,
            // Before the first byte a peer reads what lies before the offset, which may be gigabytes.
            silence_max: Duration::from_secs(15),
            fetch_max: Duration::from_secs(900),
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(2),
        }
    }
}
