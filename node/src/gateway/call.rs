//! One request over HTTP, from its head to its answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use control_plane::model::{self, InvocationId, Runtime};
use control_plane::route::{BY_NAME, By, Found, Route, RouteTable, Target};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::{Body, Incoming};

use super::Core;
use super::body::{Inbound, Meter, ReplyBody, collect};
use super::client::Client;
use super::failure::{CallFailure, ERROR_HEADER};
use super::forward::{self, REQUEST_ID};
use super::invoke::{live, no_function};
use super::lease::Lease;
use super::peers::{HOP, Replay, Seat};
use super::record::{CallRecord, Ongoing};
use super::run::{Answer, Call};
use crate::clock;
use crate::contract::{
    AnswerBody, AnswerStream, Channel, Surroundings, answer_to_response, request_to_event, stream_head,
};

/// Asks for the phases of a call.
const TRACE: HeaderName = HeaderName::from_static("x-hearth-trace");

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// An answer whose body is still where it comes from.
#[derive(Debug)]
pub(super) enum Answered {
    Whole(Response<Bytes>),
    Stream(Response<()>, AnswerStream, Lease),
    Http(Response<AnswerBody>, Arc<Meter>),
    /// A peer's; the meter counts a request whose body streams.
    Away(Response<Incoming>, Option<Arc<Meter>>),
}

/// What is known of a request besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) app: &'a str,
    /// The route as events name it.
    pub(super) route_key: &'a str,
    /// The address of its caller.
    pub(super) source_ip: &'a str,
}

impl Answered {
    /// Returns the answer as it is sent.
    pub(super) fn into_response(answered: Result<Self, CallFailure>, ongoing: Ongoing) -> Response<ReplyBody> {
        let mut response = match answered {
            Ok(Self::Whole(response)) => response.map(|bytes| ReplyBody::whole(bytes, ongoing)),
            Ok(Self::Stream(head, stream, lease)) => head.map(|()| ReplyBody::event(stream, lease, ongoing)),
            Ok(Self::Http(response, meter)) => response.map(|body| ReplyBody::http(body, ongoing, meter)),
            Ok(Self::Away(response, meter)) => {
                return sent(response.map(|body| ReplyBody::away(body, ongoing, meter)));
            }
            Err(failure) => return sent(failure.to_response().map(|bytes| ReplyBody::whole(bytes, ongoing))),
        };
        // Only gateways say whose fault an error is, and what there is to tell of a call.
        response.headers_mut().remove(ERROR_HEADER);
        response.headers_mut().remove(HOP);
        sent(response)
    }
}

/// Notes the status of an answer.
fn sent(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    let status = response.status().as_u16();
    response.body_mut().set_status(status);
    response
}

impl Core {
    /// Answers one request. Whatever goes wrong is an answer too.
    pub(super) async fn serve(
        self: Arc<Self>,
        client: Arc<Client>,
        request: Request<Incoming>,
    ) -> Result<Response<ReplyBody>, Infallible> {
        let id = InvocationId(clock::random_u128());
        let text = id.to_string();
        let id_value = HeaderValue::from_str(&text).expect("hexadecimal digits are visible ASCII");
        let (parts, body) = request.into_parts();
        let is_traced = parts.headers.get(TRACE).is_some_and(|value| value == "1");
        let record = CallRecord::new(text.into(), parts.method.clone(), parts.uri.clone());
        let mut ongoing = Ongoing::new(record, Arc::clone(&self.observer), Some(client.begin()));
        client.ends_at(self.waiting_end());
        let record = &mut *ongoing.record;
        let answered = self.answer(&client, id, &id_value, record, parts, body).await;
        record.end(&answered);
        let timing = is_traced.then(|| record.phases.server_timing());
        Ok(finish(Answered::into_response(answered, ongoing), id_value, timing))
    }

    async fn answer(
        &self,
        client: &Client,
        id: InvocationId,
        id_value: &HeaderValue,
        record: &mut CallRecord,
        mut parts: Parts,
        body: Incoming,
    ) -> Result<Answered, CallFailure> {
        if parts.method == Method::CONNECT {
            return Err(CallFailure::BadRequest("tunnels are not served"));
        }
        let host = forward::host(&mut parts)?;
        let routes = self.routes();
        let Owner { target, route_key, is_by_name } = find(&routes, &host, &parts)?;
        let function = &target.function;
        record.function = Some(function.clone());
        let served = live(target)?.clone();
        if is_by_name {
            forward::cut_prefix(&mut parts, BY_NAME.len() + function.as_str().len())?;
        }
        forward::add_headers(&mut parts.headers, client, id_value);
        let mut call = Call { id, function, served, is_pinned: false, record, client: Some(client), from: None };
        let way = Way { app: target.app.as_str(), route_key: &route_key, source_ip: client.text() };
        self.respond(&mut call, &way, parts, body).await
    }

    /// Has a request answered, here or by a peer. `parts` are as a function is to see them.
    pub(super) async fn respond(
        &self,
        call: &mut Call<'_>,
        way: &Way<'_>,
        parts: Parts,
        body: Incoming,
    ) -> Result<Answered, CallFailure> {
        let seat = match call.served.runtime {
            Runtime::Python3 | Runtime::Nodejs | Runtime::Provided => self.straight_away(call).map(Seat::Away),
            // Where a body streams, or may, somebody must be there to take it.
            Runtime::Http | Runtime::Image => Some(self.seat(call).await?),
        };
        let lease = match seat {
            None => None,
            Some(Seat::Here(lease)) => {
                if let Channel::Http(_) = **lease.channel() {
                    let (response, meter) = self.run_http(call, parts, body, lease).await?;
                    call.record.status = response.status().as_u16();
                    return Ok(Answered::Http(response, meter));
                }
                Some(lease)
            }
            Some(Seat::Away(order)) => {
                let limit = match call.served.runtime {
                    Runtime::Python3 | Runtime::Nodejs | Runtime::Provided => {
                        u64::try_from(self.limits.event_body_max).unwrap_or(u64::MAX)
                    }
                    Runtime::Http | Runtime::Image => self.limits.stream_body_max,
                };
                if body.size_hint().lower() > limit {
                    return Err(CallFailure::TooLarge { limit });
                }
                let meter = Arc::new(Meter::default());
                let body = Replay::coming(Inbound::new(Some(body), limit, Arc::clone(&meter)));
                let response = Box::pin(self.forward_http(call, way, parts, body, order)).await?;
                return Ok(Answered::Away(response, Some(meter)));
            }
        };
        let body = collect(body, self.limits.event_body_max, self.limits.body_wait).await?;
        call.record.bytes_in = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let event = {
            let surroundings = Surroundings {
                request_id: &call.record.request_id,
                source_ip: way.source_ip,
                epoch_ms: self.clock.now().as_millis(),
                app: way.app,
                route_key: way.route_key,
                path_parameters: &BTreeMap::new(),
            };
            request_to_event(&parts, &body, &surroundings)
        };
        // Whoever may have to pass the request on keeps it until somebody here takes the event.
        let kept = if lease.is_none() && self.may_go_away(call) { Some((parts, body)) } else { None };
        let lease = match (lease, kept) {
            (Some(lease), _) => Some(lease),
            (None, None) => None,
            (None, Some((parts, body))) => match self.seat(call).await? {
                Seat::Here(lease) => Some(lease),
                Seat::Away(order) => {
                    let body = Replay::Whole(body);
                    let response = Box::pin(self.forward_http(call, way, parts, body, order)).await?;
                    return Ok(Answered::Away(response, None));
                }
            },
        };
        let broken =
            |error: &dyn std::fmt::Display| CallFailure::Instance(format!("the function's answer is none: {error}"));
        match self.run_event(call, event, lease).await? {
            Answer::Whole(bytes) => {
                let response = answer_to_response(&bytes).map_err(|error| broken(&error))?;
                Ok(Answered::Whole(response))
            }
            Answer::Stream(mut stream, lease) => {
                let head = stream_head(&mut stream).await;
                let head = head.map_err(|error| broken(&error))?;
                Ok(Answered::Stream(head, stream, lease))
            }
        }
    }
}

/// Who a request is for.
struct Owner<'t> {
    target: &'t Target,
    /// The route as events name it.
    route_key: String,
    is_by_name: bool,
}

fn find<'t>(routes: &'t RouteTable, host: &str, parts: &Parts) -> Result<Owner<'t>, CallFailure> {
    let path = parts.uri.path();
    let method = parts.method.as_str().parse::<model::Method>().ok();
    match routes.find(host, method, path) {
        Route::Found(Found { target, by: By::Name { .. } }) => {
            Ok(Owner { target, route_key: "$default".to_owned(), is_by_name: true })
        }
        Route::Found(Found { target, by: By::Trigger { pattern } }) => {
            Ok(Owner { target, route_key: format!("{} {pattern}", parts.method), is_by_name: false })
        }
        Route::MethodNotAllowed { allowed } => Err(CallFailure::MethodNotAllowed { allowed }),
        Route::NoFunction { name } => Err(no_function(routes, name)),
        Route::NotFound => {
            let place = format!("{host}{path}").chars().take(200).collect();
            Err(CallFailure::NotFound { place })
        }
    }
}

/// Adds what every answer carries.
fn finish(mut response: Response<ReplyBody>, request_id: HeaderValue, timing: Option<String>) -> Response<ReplyBody> {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id);
    if let Some(timing) = timing {
        headers.insert(SERVER_TIMING, HeaderValue::try_from(timing).expect("digits and names are visible ASCII"));
    }
    response
}
