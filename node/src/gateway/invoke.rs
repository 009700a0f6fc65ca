//! Bare events, as `hearth invoke` and triggers other than HTTP send them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use control_plane::model::{FunctionName, InvocationId, RevisionId, RevisionNumber};
use control_plane::route::{Live, Served, Target};
use http::{Method, Uri};
use tokio::time::{Instant, timeout_at};

use super::failure::CallFailure;
use super::peers::Seat;
use super::phases::Phases;
use super::record::{CallOutcome, CallRecord, Ongoing};
use super::run::{Answer, Call};
use super::{Core, Gateway};
use crate::clock;
use crate::contract::{AnswerStream, StreamFailure};

/// How an invocation ended.
#[derive(Clone, Debug)]
pub struct InvokeOutcome {
    /// Names the invocation everywhere.
    pub request_id: Arc<str>,
    /// The revision that took it, if one did.
    pub revision: Option<RevisionId>,
    /// Where the time went.
    pub phases: Phases,
    /// What the function answered, as it said it: JSON, or the bytes of a streamed answer.
    pub result: Result<Bytes, CallFailure>,
}

impl Gateway {
    /// Hands `payload` to a function as the event itself, and waits for its answer until `deadline` or until the
    /// function's own time is over, whichever comes first.
    ///
    /// `version` is the revision that takes it; none is the live one. Answers that stream are collected up to the limit
    /// of a body.
    pub async fn invoke(
        &self,
        function: &str,
        version: Option<RevisionNumber>,
        payload: Bytes,
        deadline: Instant,
    ) -> InvokeOutcome {
        let core = &self.core;
        let id = InvocationId(clock::random_u128());
        let request_id: Arc<str> = id.to_string().into();
        let record = CallRecord::new(Arc::clone(&request_id), Method::POST, Uri::default());
        let mut ongoing = Ongoing::new(record, Arc::clone(&core.observer), None);
        let record = &mut *ongoing.record;
        record.bytes_in = u64::try_from(payload.len()).unwrap_or(u64::MAX);
        let limit = deadline.saturating_duration_since(Instant::now());
        let result = match timeout_at(deadline, core.invoke(id, function, version, payload, record)).await {
            Ok(result) => result,
            Err(_) => Err(CallFailure::TimedOut { limit }),
        };
        record.outcome = result.as_ref().map_or_else(CallFailure::outcome, |_| CallOutcome::Answered);
        record.status = result.as_ref().map_or_else(|failure| failure.status().as_u16(), |_| 200);
        record.bytes_out = result.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        InvokeOutcome { request_id, revision: record.revision.clone(), phases: record.phases, result }
    }
}

impl Core {
    async fn invoke(
        &self,
        id: InvocationId,
        name: &str,
        version: Option<RevisionNumber>,
        payload: Bytes,
        record: &mut CallRecord,
    ) -> Result<Bytes, CallFailure> {
        let limit = self.limits.event_body_max;
        if payload.len() > limit {
            return Err(CallFailure::TooLarge { limit: u64::try_from(limit).unwrap_or(u64::MAX) });
        }
        let routes = self.routes();
        let Some(target) = routes.function(name) else {
            return Err(no_function(&routes, name));
        };
        let function = &target.function;
        record.function = Some(function.clone());
        let served = match version {
            None => live(target)?.clone(),
            Some(number) => target
                .revision(number)
                .cloned()
                .ok_or_else(|| CallFailure::NoRevision(RevisionId { function: function.clone(), number }))?,
        };
        let mut call = Call { id, function, served, is_pinned: version.is_some(), record, client: None, from: None };
        self.invoke_call(&mut call, payload).await
    }

    /// Has a bare event answered, here or by a peer.
    pub(super) async fn invoke_call(&self, call: &mut Call<'_>, payload: Bytes) -> Result<Bytes, CallFailure> {
        let limit = self.limits.event_body_max;
        let lease = match self.seat(call).await? {
            Seat::Here(lease) => lease,
            Seat::Away(order) => return Box::pin(self.forward_event(call, payload, order)).await,
        };
        match self.run_event(call, payload, Some(lease)).await? {
            Answer::Whole(bytes) => Ok(bytes),
            Answer::Stream(stream, mut lease) => {
                let timeout = call.served.timeout;
                let (bytes, failure) = collect(stream, limit).await;
                match failure {
                    None => lease.answered(),
                    Some(Cut::Overlong) => {
                        return Err(CallFailure::Instance(format!("the answer is longer than {limit} bytes")));
                    }
                    Some(Cut::Failed(failure)) => {
                        lease.stream_failed(&failure);
                        return Err(match failure {
                            StreamFailure::Function(report) => CallFailure::Function(report),
                            StreamFailure::TimedOut => CallFailure::TimedOut { limit: timeout },
                            StreamFailure::InstanceDied | StreamFailure::Broken(_) => {
                                CallFailure::Instance(failure.to_string())
                            }
                        });
                    }
                }
                Ok(bytes)
            }
        }
    }
}

/// Why a streamed answer was not collected to its end.
enum Cut {
    Overlong,
    Failed(StreamFailure),
}

async fn collect(mut stream: AnswerStream, limit: usize) -> (Bytes, Option<Cut>) {
    let mut whole = BytesMut::new();
    while let Some(taken) = stream.next().await {
        match taken {
            Ok(bytes) if whole.len() + bytes.len() > limit => return (Bytes::new(), Some(Cut::Overlong)),
            Ok(bytes) => whole.extend_from_slice(&bytes),
            Err(failure) => return (Bytes::new(), Some(Cut::Failed(failure))),
        }
    }
    (whole.freeze(), None)
}

/// Returns the revision that takes a function's calls.
pub(super) fn live(target: &Target) -> Result<&Served, CallFailure> {
    let function = &target.function;
    match &target.live {
        Live::Revision(served) => Ok(served),
        Live::Starting => Err(CallFailure::Starting { function: function.clone() }),
        Live::Failed(reason) => Err(CallFailure::NeverStarted { function: function.clone(), reason: reason.clone() }),
    }
}

/// Names a function that does not exist.
pub(super) fn no_function(routes: &control_plane::route::RouteTable, name: &str) -> CallFailure {
    let nearest: Option<FunctionName> = routes.nearest(name).cloned();
    CallFailure::NoFunction { name: name.chars().take(80).collect(), nearest }
}
