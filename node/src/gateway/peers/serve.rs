//! Calls that peers pass on.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use control_plane::model::{InvocationId, NodeId};
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::wire::{Ask, HOP, Kind, Told};
use super::{PING, SEND_BUFFER_MAX, STREAMS_MAX, WINDOWS};
use crate::clock;
use crate::gateway::body::{ReplyBody, collect};
use crate::gateway::call::{Answered, Way};
use crate::gateway::failure::CallFailure;
use crate::gateway::forward::REQUEST_ID;
use crate::gateway::invoke::live;
use crate::gateway::record::{CallRecord, Ongoing};
use crate::gateway::run::Call;
use crate::gateway::{Core, Gateway};

/// How many calls of a connection may be given up before this node got to look at them.
const RESETS_MAX: usize = 1000;

/// What a peer adds to the head of a request, in bytes at most.
const HEAD_ADDED_MAX: usize = 16 << 10;

impl Gateway {
    /// Serves the calls that `peer` passes on over a connection, until it closes.
    ///
    /// Whoever makes the connection has made sure that `peer` is at its other end: what it says about its callers is
    /// believed. Once `stop` is cancelled no call is taken any more, which the peer is told, and those in flight may
    /// finish; dropping the future cuts them off.
    pub async fn serve_peer<I>(&self, io: I, peer: NodeId, stop: CancellationToken)
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| Arc::clone(&self.core).serve_forwarded(peer, request));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let [stream_window, connection_window] = WINDOWS;
        let [ping_interval, ping_timeout] = PING;
        let head_max = self.core.limits.head_max.saturating_add(HEAD_ADDED_MAX);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_header_list_size(u32::try_from(head_max).unwrap_or(u32::MAX))
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_send_buf_size(SEND_BUFFER_MAX)
            .keep_alive_interval(ping_interval)
            .keep_alive_timeout(ping_timeout);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut stopped = pin!(stop.cancelled());
        let mut is_closing = false;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "the connection of a peer broke");
                    }
                    return;
                }
                () = stopped.as_mut(), if !is_closing => {
                    is_closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

impl Core {
    /// Answers one call that a peer passes on. Whatever goes wrong is an answer too.
    async fn serve_forwarded(
        self: Arc<Self>,
        peer: NodeId,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let (mut parts, body) = request.into_parts();
        let ask = parts.headers.remove(HOP).as_ref().and_then(Ask::parse);
        // The call keeps its name; a request without one is not from a gateway, and is refused below.
        let named = parts.headers.get(REQUEST_ID).and_then(|value| u128::from_str_radix(value.to_str().ok()?, 16).ok());
        let id = InvocationId(named.unwrap_or_else(clock::random_u128));
        let mut record = CallRecord::new(id.to_string().into(), parts.method.clone(), parts.uri.clone());
        record.forwarded_by = Some(peer);
        let mut ongoing = Ongoing::new(record, Arc::clone(&self.observer), None);
        let record = &mut *ongoing.record;
        let answered = match ask.filter(|_| named.is_some()) {
            // Its certificate was good when it connected, and connections outlive membership.
            Some(_) if self.is_removed(peer) => Err(CallFailure::Removed(peer)),
            Some(ask) => self.answer_forwarded(peer, id, record, &ask, parts, body).await,
            None => Err(CallFailure::BadRequest("the request is not one of a gateway")),
        };
        record.end(&answered);
        let told = Told::of(record, answered.as_ref().err());
        record.is_turned = matches!(told, Told::Refused(_));
        let value = told.to_value();
        let mut response = Answered::into_response(answered, ongoing);
        response.headers_mut().insert(HOP, value);
        Ok(response)
    }

    async fn answer_forwarded(
        &self,
        peer: NodeId,
        id: InvocationId,
        record: &mut CallRecord,
        ask: &Ask,
        parts: Parts,
        body: Incoming,
    ) -> Result<Answered, CallFailure> {
        let routes = self.routes();
        let name = &ask.revision.function;
        record.function = Some(name.clone());
        let unknown = || CallFailure::NoRevision(ask.revision.clone());
        let target = routes.function(name.as_str()).ok_or_else(unknown)?;
        let served = match target.revision(ask.revision.number) {
            Some(served) => served.clone(),
            None if ask.is_pinned => return Err(unknown()),
            // The peer has not heard yet which one is live, or this node has not.
            None => live(target).map_err(|_| unknown())?.clone(),
        };
        let mut call = Call {
            id,
            function: &target.function,
            served,
            is_pinned: ask.is_pinned,
            record,
            client: None,
            from: Some(peer),
        };
        match ask.kind {
            Kind::Http => {
                let way = Way { app: target.app.as_str(), route_key: &ask.route_key, source_ip: &ask.client };
                self.respond(&mut call, &way, parts, body).await
            }
            Kind::Event => {
                let event = collect(body, self.limits.event_body_max, self.limits.body_wait).await?;
                call.record.bytes_in = u64::try_from(event.len()).unwrap_or(u64::MAX);
                let answer = self.invoke_call(&mut call, event).await?;
                let mut response = Response::new(answer);
                let octets = HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert(http::header::CONTENT_TYPE, octets);
                Ok(Answered::Whole(response))
            }
        }
    }
}
