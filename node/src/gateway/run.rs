//! One invocation on an instance: gets a slot, hands over, and says how it went.
//!
//! A call that no instance has seen may be given to another one, a few times. One that may have begun is never repeated:
//! only its caller knows whether that would do harm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use control_plane::dispatch::{DeclineReason, Refusal};
use control_plane::model::{FunctionName, InvocationId, NodeId};
use control_plane::route::{Live, Served};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::Core;
use super::body::{Inbound, Meter};
use super::client::Client;
use super::demand::KillReason;
use super::failure::CallFailure;
use super::lease::{InstanceHandle, Lease};
use super::record::CallRecord;
use crate::contract::{self, AnswerBody, AnswerStream, Channel, Deadline, HttpFailure, Invocation, Outcome};

/// How many instances are tried for a call that none of them has seen.
const ATTEMPTS_MAX: usize = 3;

/// How often a waiting call follows its function to another revision.
const REROUTES_MAX: usize = 8;

/// One call on its way to an instance.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) id: InvocationId,
    pub(super) function: &'a FunctionName,
    pub(super) served: Served,
    /// The caller asked for this very revision.
    pub(super) is_pinned: bool,
    pub(super) record: &'a mut CallRecord,
    /// The connection it came over.
    pub(super) client: Option<&'a Client>,
    /// The peer that passed it on: it goes no further.
    pub(super) from: Option<NodeId>,
}

/// What a function answered to an event.
#[derive(Debug)]
pub(super) enum Answer {
    Whole(Bytes),
    /// The lease belongs to the stream and ends with it.
    Stream(AnswerStream, Lease),
}

/// What happens to a call whose instance failed it.
enum Next {
    Again(CallFailure),
    Fail(CallFailure),
}

impl Core {
    /// Waits for a slot of an instance.
    pub(super) async fn lease(&self, call: &mut Call<'_>) -> Result<Lease, CallFailure> {
        let since = Instant::now();
        let deadline = self.clock.now() + self.limits.queue_wait;
        for _ in 0..REROUTES_MAX {
            call.record.revision = Some(call.served.id.clone());
            match self.traffic.acquire(&call.served.id, call.id, deadline).await {
                Ok(lease) => {
                    call.record.instance = Some(lease.instance());
                    call.record.phases.waited(since.elapsed(), lease.start());
                    if let Some(client) = call.client {
                        client.ends_at(Instant::now() + call.served.timeout);
                    }
                    return Ok(lease);
                }
                Err(Refusal::Declined(DeclineReason::Retired)) if self.reroute(call) => {}
                Err(refusal) => {
                    // A peer may have it yet, and this was waiting too.
                    call.record.phases.waited(since.elapsed(), None);
                    return Err(CallFailure::refused(call.function, self.limits.queue_wait, refusal));
                }
            }
        }
        Err(CallFailure::Retired { function: call.function.clone() })
    }

    /// Follows the function to the revision that is live. Returns whether there is another one.
    fn reroute(&self, call: &mut Call<'_>) -> bool {
        if call.is_pinned {
            return false;
        }
        let routes = self.routes();
        match routes.function(call.function.as_str()).map(|target| &target.live) {
            Some(Live::Revision(served)) if served.id != call.served.id => {
                call.served = served.clone();
                true
            }
            Some(Live::Revision(_) | Live::Starting | Live::Failed(_)) | None => false,
        }
    }

    /// Has an event answered. `lease` is a slot that the call already has.
    pub(super) async fn run_event(
        &self,
        call: &mut Call<'_>,
        event: Bytes,
        mut lease: Option<Lease>,
    ) -> Result<Answer, CallFailure> {
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let lease = match lease.take() {
                Some(lease) => lease,
                None => self.lease(call).await?,
            };
            match self.attempt_event(call, event.clone(), lease).await {
                Ok(answer) => return Ok(answer),
                Err(Next::Fail(failure)) => return Err(failure),
                Err(Next::Again(failure)) => last = Some(failure),
            }
        }
        Err(last.expect("somebody failed each attempt"))
    }

    async fn attempt_event(&self, call: &mut Call<'_>, event: Bytes, mut lease: Lease) -> Result<Answer, Next> {
        let channel = Arc::clone(lease.channel());
        let Channel::Event(channel) = &*channel else {
            return Err(Next::Fail(CallFailure::NoEvents { function: call.function.clone() }));
        };
        let handle = lease.instance_handle();
        let (started, timeout) = (Instant::now(), call.served.timeout);
        let deadline = Deadline { at: started + timeout, epoch_ms: (self.clock.now() + timeout).as_millis() };
        let invocation = Invocation {
            request_id: Arc::clone(&call.record.request_id),
            event,
            deadline,
            trace_id: None,
            client_context: None,
        };
        lease.sent(deadline.at);
        let outcome = channel.invoke(invocation).await;
        call.record.phases.run = started.elapsed();
        if let Outcome::Stream(stream) = outcome {
            return Ok(Answer::Stream(stream, lease));
        }
        lease.answered();
        match outcome {
            Outcome::Answer(bytes) => Ok(Answer::Whole(bytes)),
            Outcome::Stream(_) => unreachable!("streams have been returned"),
            Outcome::FunctionError(report) => Err(Next::Fail(CallFailure::Function(report))),
            Outcome::InstanceDied { may_have_started } => {
                handle.avoid();
                let failure = death(&handle, KillReason::Broken).await;
                Err(if may_have_started { Next::Fail(failure) } else { Next::Again(failure) })
            }
            Outcome::Broken(breach) => {
                handle.kill(KillReason::Broken);
                Err(Next::Fail(CallFailure::Instance(format!("the instance broke its contract: {breach}"))))
            }
            Outcome::Refused(contract::Refusal::TooLarge { limit, .. }) => {
                Err(Next::Fail(CallFailure::TooLarge { limit: u64::try_from(limit).unwrap_or(u64::MAX) }))
            }
            Outcome::Refused(refusal @ (contract::Refusal::Full { .. } | contract::Refusal::Duplicate { .. })) => {
                Err(Next::Again(CallFailure::Instance(refusal.to_string())))
            }
            Outcome::TimedOut => {
                handle.kill(KillReason::Timeout);
                Err(Next::Fail(CallFailure::TimedOut { limit: timeout }))
            }
        }
    }

    /// Has a request answered by an instance that serves HTTP. `lease` is a slot that the call already has.
    pub(super) async fn run_http(
        &self,
        call: &mut Call<'_>,
        parts: Parts,
        body: Incoming,
        lease: Lease,
    ) -> Result<(Response<AnswerBody>, Arc<Meter>), CallFailure> {
        let limit = self.limits.stream_body_max;
        if body.size_hint().lower() > limit {
            return Err(CallFailure::TooLarge { limit });
        }
        let meter = Arc::new(Meter::default());
        if !body.is_end_stream() {
            // Nobody can send a body that has begun to flow a second time.
            let body = Inbound::new(Some(body), limit, Arc::clone(&meter));
            let response = self.attempt_http(call, Request::from_parts(parts, body), &meter, lease).await;
            return match response {
                Ok(response) => Ok((response, meter)),
                Err(Next::Fail(failure) | Next::Again(failure)) => Err(failure),
            };
        }
        let mut lease = Some(lease);
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            let lease = match lease.take() {
                Some(lease) => lease,
                None => self.lease(call).await?,
            };
            let request = Request::from_parts(parts.clone(), Inbound::new(None, 0, Arc::clone(&meter)));
            match self.attempt_http(call, request, &meter, lease).await {
                Ok(response) => return Ok((response, meter)),
                Err(Next::Fail(failure)) => return Err(failure),
                Err(Next::Again(failure)) => last = Some(failure),
            }
        }
        Err(last.expect("somebody failed each attempt"))
    }

    async fn attempt_http(
        &self,
        call: &mut Call<'_>,
        request: Request<Inbound>,
        meter: &Meter,
        lease: Lease,
    ) -> Result<Response<AnswerBody>, Next> {
        let channel = Arc::clone(lease.channel());
        let Channel::Http(channel) = &*channel else {
            return Err(Next::Fail(CallFailure::Instance("the instance takes events and no requests".to_owned())));
        };
        let handle = lease.instance_handle();
        let (started, timeout) = (Instant::now(), call.served.timeout);
        let answer = channel.send(&call.record.request_id, request, started + timeout, lease).await;
        call.record.phases.run = started.elapsed();
        let failure = match answer {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        Err(match failure {
            HttpFailure::InstanceDied { may_have_started, .. } => {
                // The instance may live and have closed a connection only: its owner says whether it has ended.
                let failure = CallFailure::Instance(match handle.failure().await {
                    Some(failure) => failure.to_string(),
                    None => "the instance closed the connection".to_owned(),
                });
                if may_have_started { Next::Fail(failure) } else { Next::Again(failure) }
            }
            HttpFailure::Unreachable(_) => Next::Again(death(&handle, KillReason::Broken).await),
            HttpFailure::Broken(error) => {
                Next::Fail(CallFailure::Instance(format!("the instance did not answer in HTTP: {error}")))
            }
            HttpFailure::RequestBroken(_) if meter.is_overlong() => {
                Next::Fail(CallFailure::TooLarge { limit: self.limits.stream_body_max })
            }
            HttpFailure::RequestBroken(_) => Next::Fail(CallFailure::BadRequest("the request ended within its body")),
            HttpFailure::TimedOut => {
                handle.kill(KillReason::Timeout);
                Next::Fail(CallFailure::TimedOut { limit: timeout })
            }
        })
    }

    /// Returns until when a call that has just come may at most wait before an instance gets it.
    pub(super) fn waiting_end(&self) -> Instant {
        let wait: Duration = self.limits.body_wait + self.limits.queue_wait;
        Instant::now() + wait
    }
}

/// Tells why an instance does not answer any more, and has it killed if its owner knows of no end.
async fn death(handle: &InstanceHandle, reason: KillReason) -> CallFailure {
    match handle.failure().await {
        Some(failure) => CallFailure::Instance(failure.to_string()),
        None => {
            handle.kill(reason);
            CallFailure::Instance("the instance closed its connection".to_owned())
        }
    }
}
