//! The other end of one connection, and whether it still does anything.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::limits::Limits;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(super) struct Client {
    text: Box<str>,
    address: HeaderValue,
    forwarded_for: HeaderValue,
    since: Instant,
    in_flight: AtomicUsize,
    /// When something last happened, in milliseconds after `since`: a call ended, or bytes were taken by the client.
    active_ms: AtomicU64,
    /// When the last call so far has to be over, in milliseconds after `since`.
    calls_end_ms: AtomicU64,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is of no use any more.
    Close,
    /// Look again after this long.
    LookAgain(Duration),
}

/// A call that is not over.
#[derive(Debug)]
pub(super) struct Active {
    client: Arc<Client>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.client.touch();
        self.client.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    pub(super) fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = address.to_string();
        let forwarded = if address.is_ipv6() { format!("for=\"[{text}]\"") } else { format!("for={text}") };
        let value = |text: &str| HeaderValue::from_str(text).expect("addresses are visible ASCII");
        Self {
            address: value(&text),
            forwarded_for: value(&forwarded),
            text: text.into(),
            since: Instant::now(),
            in_flight: AtomicUsize::new(0),
            active_ms: AtomicU64::new(0),
            calls_end_ms: AtomicU64::new(0),
        }
    }

    /// Returns the address as text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the address as the value of a header.
    pub(super) fn address(&self) -> &HeaderValue {
        &self.address
    }

    /// Returns the first part of a `Forwarded` header.
    pub(super) fn forwarded_for(&self) -> &HeaderValue {
        &self.forwarded_for
    }

    /// Notes that a call has begun.
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Active { client: Arc::clone(self) }
    }

    /// Notes that a call will be over at `end`.
    pub(super) fn ends_at(&self, end: Instant) {
        self.calls_end_ms.fetch_max(self.millis(end), Ordering::Relaxed);
    }

    /// Returns whether any call has come over the connection.
    pub(super) fn has_called(&self) -> bool {
        self.calls_end_ms.load(Ordering::Relaxed) > 0
    }

    fn touch(&self) {
        self.active_ms.store(self.millis(Instant::now()), Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    /// Judges a connection: nothing may be missing for longer than its limit.
    pub(super) fn judge(&self, now: Instant, limits: &Limits) -> Verdict {
        let now_ms = self.millis(now);
        let active_ms = self.active_ms.load(Ordering::Relaxed);
        let ends = if self.in_flight.load(Ordering::Relaxed) == 0 {
            Duration::from_millis(active_ms) + limits.idle_max
        } else {
            // The client may read slowly, but must not stop once nothing else can happen any more.
            Duration::from_millis(active_ms.max(self.calls_end_ms.load(Ordering::Relaxed))) + limits.write_grace
        };
        let left = ends.saturating_sub(Duration::from_millis(now_ms));
        if left.is_zero() { Verdict::Close } else { Verdict::LookAgain(left) }
    }
}

/// The socket of a connection; what the client takes counts as a sign of life.
#[derive(Debug)]
pub(super) struct Watched {
    io: TokioIo<TcpStream>,
    client: Arc<Client>,
}

impl Watched {
    pub(super) fn new(socket: TcpStream, client: Arc<Client>) -> Self {
        Self { io: TokioIo::new(socket), client }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.client.touch();
        }
        written
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.wrote(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_be_missing_for_longer_than_its_limit() {
        let limits =
            Limits { idle_max: Duration::from_secs(30), write_grace: Duration::from_secs(20), ..Limits::default() };
        let client = Arc::new(Client::new("::1".parse().unwrap()));
        let at = |seconds| client.since + Duration::from_secs(seconds);
        assert_eq!(client.judge(at(10), &limits), Verdict::LookAgain(Duration::from_secs(20)));
        assert_eq!(client.judge(at(30), &limits), Verdict::Close);
        let call = client.begin();
        client.ends_at(at(60));
        assert_eq!(client.judge(at(70), &limits), Verdict::LookAgain(Duration::from_secs(10)));
        assert_eq!(client.judge(at(80), &limits), Verdict::Close);
        drop(call);
        assert_eq!(client.judge(at(31), &limits), Verdict::Close);
    }
}
