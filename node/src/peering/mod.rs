//! Connections between nodes: one port, mutual TLS, and what is spoken inside agreed on in the handshake.
//!
//! ```text
//! Dialer ──TLS──▶ Door ─┬─ gRPC  ─▶ the services of raft, cluster, image
//!                       ├─ calls ─▶ gateway
//!                       └─ join  ─▶ cluster, for machines that have no certificate yet
//! ```

mod dial;
mod door;

pub use self::dial::{CONNECT_MAX, Caller, Dialer, PeerStream};
pub use self::door::{Door, HANDSHAKE_MAX, Visitors, take_plain};
