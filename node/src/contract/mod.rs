//! What a function may be, and how the daemon talks to one running instance of it.
//!
//! A function is not a language but a *contract*: something that can be asked. There are three,
//! and this room makes the first two look alike to whoever has an event to deliver.
//!
//! | contract | inside the sandbox | who connects | file |
//! |---|---|---|---|
//! | framed | our bootstrap and a `handler(event, context)` | the daemon, to a Unix socket | `framed` |
//! | runtime API | any client of the AWS Lambda Runtime API | the instance, to a TCP listener | `runtime_api` |
//! | HTTP | any server of HTTP/1.1 on `$PORT` | the daemon, over TCP | `http` |
//!
//! The first two take *events* ([`EventChannel`]), the third takes requests ([`Http`]); an
//! HTTP request becomes an event, and an answer a response, in `event`. What a function writes is
//! caught by [`Capture`] and yielded as [`LogLine`]s.
//!
//! The room starts nothing and kills nothing. Sockets and pipes come from whoever made the sandbox; when the instance
//! has ended, its owner says so ([`Channel::instance_died`]), and kills it when an invocation timed out.

mod capture;
mod channel;
mod environment;
mod event;
mod frame;
mod framed;
mod http;
mod invocation;
mod line;
mod output;
mod readiness;
mod runtime_api;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use self::http::clean_hop_by_hop;
pub use self::http::{AnswerBody, AnswerBodyError, Http, HttpFailure};
pub use capture::{Capture, OutputLimits};
pub use channel::{Channel, EventChannel};
pub use environment::{Contract, DEFAULTS, TASK_ROOT, environment};
pub use event::{
    AnswerError, HeadError, PRELUDE_MAX_BYTES, Surroundings, answer_to_response, request_to_event, stream_head,
};
pub use frame::{FrameError, Kind};
pub use framed::{Framed, INVOCATIONS_MAX};
pub use invocation::{
    Breach, Deadline, ErrorReport, Identity, InFlight, InitFailure, Invocation, Outcome, ReadyInfo, Refusal,
};
pub use line::LINE_MAX_BYTES;
pub use output::{LogLine, LogSink, LogSource, QUEUE_MAX_BYTES, Received, Stream, log_queue};
pub use runtime_api::RuntimeApi;
pub use stream::{AnswerStream, StreamFailure};
