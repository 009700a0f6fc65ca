//! What bounds the gateway, and what happens at each bound.

use std::time::Duration;

/// The bounds of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest body of a request that becomes an event, in bytes; it is held in memory. Longer ones are refused with
    /// 413, before anything is read where the length is announced.
    pub event_body_max: usize,
    /// The longest body of a request that streams to a function, in bytes; 413, or the end of the connection where the
    /// function has begun to answer.
    pub stream_body_max: u64,
    /// How long a body that becomes an event may take to arrive; 408.
    pub body_wait: Duration,
    /// How long a call waits for an instance; 503.
    pub queue_wait: Duration,
    /// How many connections are open at once; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// The longest head of a request, in bytes; 431.
    pub head_max: usize,
    /// How many headers a request has; 431.
    pub headers_max: usize,
    /// How many requests one HTTP/2 connection has open at once; further streams are refused.
    pub streams_max: u32,
    /// How long a connection stays open without a complete head of a request; it is closed.
    pub idle_max: Duration,
    /// How long a client may take to read an answer once the time of its call is over; its connection is closed.
    pub write_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_body_max: 6 << 20,
            stream_body_max: 1 << 30,
            body_wait: Duration::from_secs(30),
            queue_wait: Duration::from_secs(60),
            connections_max: 10_000,
            head_max: 32 << 10,
            headers_max: 100,
            streams_max: 128,
            idle_max: Duration::from_secs(30),
            write_grace: Duration::from_secs(30),
        }
    }
}
