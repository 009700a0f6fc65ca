//! HTTP requests as events and answers as HTTP responses: API Gateway's payload format 2.0.
//!
//! A handler for events knows nothing of HTTP. It gets a JSON object that describes the request, and what it returns
//! either describes a response or is one.

mod head;
mod request;
mod response;

pub use head::{HeadError, PRELUDE_MAX_BYTES, stream_head};
pub use request::{Surroundings, request_to_event};
pub use response::{AnswerError, answer_to_response};
