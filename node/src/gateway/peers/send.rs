//! A call on its way to a peer.
//!
//! It is given to the next peer only if no instance can have seen it: the peer says that it refused the call, or the call
//! never reached the peer. Whatever else happens is its end.

use std::time::Duration;

use bytes::Bytes;
use control_plane::model::NodeId;
use http::header::{HeaderMap, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::Peers;
use super::pool::Undone;
use super::replay::Replay;
use super::wire::{Ask, Ended, HOP, Kind, Told, Turned};
use crate::contract::{ErrorReport, clean_hop_by_hop};
use crate::gateway::Core;
use crate::gateway::call::Way;
use crate::gateway::failure::{CallFailure, ERROR_HEADER};
use crate::gateway::forward::REQUEST_ID;
use crate::gateway::phases::Phases;
use crate::gateway::record::CallOutcome;
use crate::gateway::run::Call;

/// How many peers are asked for one call.
const PEERS_MAX: usize = 3;

/// How much longer than at the peer a call may take here before its stream is given up.
const GRACE: Duration = Duration::from_secs(1);

/// The longest account of a failure that a peer gives, in bytes.
const ACCOUNT_MAX: usize = 1 << 20;

impl Core {
    /// Has a request answered by one of the peers. `parts` are as a function is to see them.
    pub(in crate::gateway) async fn forward_http(
        &self,
        call: &mut Call<'_>,
        way: &Way<'_>,
        mut parts: Parts,
        body: Replay,
        order: Vec<NodeId>,
    ) -> Result<Response<Incoming>, CallFailure> {
        if asks_for_websocket(&parts.headers) {
            return Err(CallFailure::NoUpgrade);
        }
        parts.extensions.clear();
        clean_hop_by_hop(&mut parts.headers);
        // Without a scheme and an authority, HTTP/2 takes what came over HTTP/1.1 only; the host has its header.
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
        parts.version = Version::HTTP_11;
        let ask = Ask {
            kind: Kind::Http,
            revision: call.served.id.clone(),
            is_pinned: call.is_pinned,
            client: way.source_ip.to_owned(),
            route_key: way.route_key.to_owned(),
        };
        let (response, ended) = self.ask_peers(call, &ask, parts, &body, order).await?;
        call.record.outcome = ended.outcome;
        Ok(response)
    }

    /// Has a bare event answered by one of the peers.
    pub(in crate::gateway) async fn forward_event(
        &self,
        call: &mut Call<'_>,
        event: Bytes,
        order: Vec<NodeId>,
    ) -> Result<Bytes, CallFailure> {
        let request = Request::builder().method(Method::POST).uri("/").header(REQUEST_ID, &*call.record.request_id);
        let (parts, ()) = request.body(()).expect("the request id is visible ASCII").into_parts();
        let ask = Ask {
            kind: Kind::Event,
            revision: call.served.id.clone(),
            is_pinned: call.is_pinned,
            client: "-".to_owned(),
            route_key: "-".to_owned(),
        };
        let (response, ended) = self.ask_peers(call, &ask, parts, &Replay::Whole(event), order).await?;
        let (head, body) = response.into_parts();
        let limit = self.limits.event_body_max.max(ACCOUNT_MAX);
        let bytes = match Limited::new(body, limit).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => return Err(CallFailure::Instance(format!("the answer of a peer broke off: {error}"))),
        };
        if ended.outcome == CallOutcome::Answered {
            return Ok(bytes);
        }
        Err(self.account(call, head.status, &head.headers, bytes))
    }

    /// Asks the peers in turn until one takes the call.
    async fn ask_peers(
        &self,
        call: &mut Call<'_>,
        ask: &Ask,
        mut parts: Parts,
        body: &Replay,
        order: Vec<NodeId>,
    ) -> Result<(Response<Incoming>, Ended), CallFailure> {
        let peers = self.peers.as_ref().expect("only they have an order");
        let value = ask.to_value().ok_or(CallFailure::BadRequest("the route is none that can be passed on"))?;
        parts.headers.insert(HOP, value);
        let limit = call.served.timeout;
        let deadline = self.waiting_end() + limit + GRACE;
        if let Some(client) = call.client {
            client.ends_at(deadline);
        }
        let mut turned = None;
        for peer in order.into_iter().take(PEERS_MAX) {
            let Some(lent) = body.lend() else { break };
            let since = Instant::now();
            let request = Request::from_parts(parts.clone(), lent);
            // A caller that goes away meanwhile ends the call at the peer, which counts it then.
            call.record.served_by = Some(peer);
            let sent = timeout_at(deadline, peers.pool.send(peer, request)).await;
            call.record.served_by = None;
            let mut response = match sent {
                Ok(Ok(response)) => response,
                Ok(Err(Undone::Unseen)) => continue,
                Ok(Err(Undone::Lost(error))) => return Err(self.lost(peers, peer, body, &error)),
                Err(_) => return Err(CallFailure::TimedOut { limit }),
            };
            let told = response.headers_mut().remove(HOP).as_ref().and_then(Told::parse);
            match told {
                None => return Err(CallFailure::Instance(format!("{peer} did not answer as a peer does"))),
                Some(Told::Refused(why)) => turned = Some(why),
                Some(Told::Ended(ended)) => {
                    body.settle();
                    note(call, peer, &ended, since.elapsed());
                    return Ok((response, ended));
                }
            }
        }
        Err(self.turned_away(call, turned))
    }

    /// Says why a call that a peer has had does not have an answer.
    fn lost(&self, peers: &Peers, peer: NodeId, body: &Replay, error: &hyper::Error) -> CallFailure {
        if let Some(limit) = body.overlong() {
            return CallFailure::TooLarge { limit };
        }
        if body.is_broken() {
            return CallFailure::BadRequest("the request ended within its body");
        }
        tracing::warn!(here = %peers.here, %peer, %error, "a peer went away within a call");
        CallFailure::Instance(format!("{peer} went away within the call"))
    }

    /// Says why nobody took a call.
    fn turned_away(&self, call: &Call<'_>, turned: Option<Turned>) -> CallFailure {
        let function = call.function.clone();
        let reason = match turned {
            Some(Turned::QueueFull) => return CallFailure::QueueFull { function },
            Some(Turned::Waited) => return CallFailure::Waited { function, waited: self.limits.queue_wait },
            Some(Turned::NoCapacity) => "neither this node nor its peers have room for an instance",
            Some(Turned::Unknown) => {
                "this node has no room for an instance, and its peers do not serve the revision yet"
            }
            Some(Turned::Removed) => "this node is not a member of its cluster any more",
            None => "this node has no room for an instance, and no peer that might is reached",
        };
        CallFailure::NoCapacity { function, reason: reason.to_owned() }
    }

    /// Reads how a peer says that a call failed.
    fn account(&self, call: &Call<'_>, status: StatusCode, headers: &HeaderMap, body: Bytes) -> CallFailure {
        let limit = u64::try_from(self.limits.event_body_max).unwrap_or(u64::MAX);
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => CallFailure::TooLarge { limit },
            StatusCode::GATEWAY_TIMEOUT => CallFailure::TimedOut { limit: call.served.timeout },
            StatusCode::BAD_REQUEST => CallFailure::NoEvents { function: call.function.clone() },
            _ if headers.get(ERROR_HEADER).is_some_and(|value| value == "function") => {
                CallFailure::Function(ErrorReport::parse(body, None))
            }
            _ => {
                let told: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
                let text = told.as_ref().and_then(|told| told.get("error")?.as_str());
                CallFailure::Instance(text.unwrap_or("the call failed at a peer").to_owned())
            }
        }
    }
}

/// Notes where a call was served and where its time went.
fn note(call: &mut Call<'_>, peer: NodeId, ended: &Ended, took: Duration) {
    let Ended { outcome: _, instance, revision, phases } = *ended;
    let record = &mut *call.record;
    record.served_by = Some(peer);
    record.instance = instance;
    let mut served = call.served.id.clone();
    served.number = revision.unwrap_or(served.number);
    record.revision = Some(served);
    let own = record.phases;
    record.phases = Phases {
        queue: own.queue + phases.queue,
        start: phases.start,
        run: phases.run,
        hop: took.saturating_sub(phases.total()),
    };
}

/// Returns whether a request asks for a conversation that is not HTTP any more, which no peer takes.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let upgrades = headers.get_all(UPGRADE).iter().filter_map(|value| value.to_str().ok());
    upgrades.flat_map(|value| value.split(',')).any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}
