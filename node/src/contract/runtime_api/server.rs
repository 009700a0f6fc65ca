//! The Runtime API's requests, answered as Lambda answers them.
//!
//! A response goes out in one write on a socket without delay: a client that sees its head first and its body in a
//! second segment waits 40 ms for it, because its own kernel delays the acknowledgement the server's kernel waits for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::desk::{Answering, Desk};
use crate::contract::invocation::{ErrorReport, InitFailure, Invocation};
use crate::contract::stream::{Item, StreamFailure};

/// How many connections an instance may hold.
const CONNECTIONS_MAX: usize = 1024;

/// How long the report of a failure may be, in bytes.
const REPORT_MAX_BYTES: usize = 256 * 1024;

/// How long accepting rests after the machine ran out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the connections of an instance that has ended may take to end too.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What every path of this API begins with.
const VERSION: &str = "/2018-06-01/runtime/";

const FUNCTION_ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const FUNCTION_ERROR_BODY: &str = "lambda-runtime-function-error-body";
const RESPONSE_MODE: &str = "lambda-runtime-function-response-mode";

type Answer = Response<Full<Bytes>>;

/// Serves connections until `ending`, and then what they still carry.
pub(super) async fn run(listener: TcpListener, desk: Arc<Desk>, answer_max: usize, ending: CancellationToken) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = ending.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, _)) if connections.len() < CONNECTIONS_MAX && socket.set_nodelay(true).is_ok() => {
                connections.spawn(converse(socket, Arc::clone(&desk), answer_max));
            }
            Ok(_) => tracing::debug!(limit = CONNECTIONS_MAX, "a connection of an instance was refused"),
            Err(error) => {
                tracing::warn!(%error, "a connection of an instance could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The instance is gone, so its connections end by themselves, unless a child of it lives on.
    drop(timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await);
    desk.close();
}

async fn converse(socket: TcpStream, desk: Arc<Desk>, answer_max: usize) {
    let service = service_fn(|request| serve(Arc::clone(&desk), request, answer_max));
    // A connection that breaks is the instance's own affair: what it held is given back on drop.
    drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service).await);
}

async fn serve(desk: Arc<Desk>, request: Request<Incoming>, answer_max: usize) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let Some(path) = path.strip_prefix(VERSION) else {
        return Ok(refusal(StatusCode::NOT_FOUND, "NotFound", "no such API"));
    };
    let parts: Vec<&str> = path.split('/').collect();
    Ok(match (request.method(), parts.as_slice()) {
        (&Method::GET, ["invocation", "next"]) => next(&desk).await,
        (&Method::POST, ["invocation", id, "response"]) => response(&desk, id, request, answer_max).await,
        (&Method::POST, ["invocation", id, "error"]) => error(&desk, id, request).await,
        (&Method::POST, ["init" | "restore", "error"]) => init_error(&desk, request).await,
        // A sandbox is never frozen and copied at this point, so it is always restored already.
        (&Method::GET, ["restore", "next"]) => Response::new(Full::default()),
        _ => refusal(StatusCode::NOT_FOUND, "NotFound", "no such path or method"),
    })
}

async fn next(desk: &Arc<Desk>) -> Answer {
    match desk.ask().next().await {
        Some(invocation) => hand_over(desk, &invocation),
        None => refusal(StatusCode::INTERNAL_SERVER_ERROR, "Closed", "the instance is being stopped"),
    }
}

fn hand_over(desk: &Desk, invocation: &Invocation) -> Answer {
    let mut response = Response::new(Full::new(invocation.event.clone()));
    let headers = response.headers_mut();
    let mut put = |name: &'static str, value: &str| {
        // Line breaks may stand in JSON, though never within its strings, but not in a header.
        let value = value.replace(['\r', '\n', '\t'], " ");
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("content-type", "application/json");
    put("lambda-runtime-aws-request-id", &invocation.request_id);
    put("lambda-runtime-deadline-ms", &invocation.deadline.epoch_ms.to_string());
    put("lambda-runtime-invoked-function-arn", &desk.identity().arn);
    if let Some(trace_id) = &invocation.trace_id {
        put("lambda-runtime-trace-id", trace_id);
    }
    if let Some(client_context) = &invocation.client_context {
        put("lambda-runtime-client-context", client_context);
    }
    response
}

async fn response(desk: &Arc<Desk>, id: &str, request: Request<Incoming>, answer_max: usize) -> Answer {
    let Ok(answering) = desk.begin_answer(id) else { return unknown_request() };
    let (parts, body) = request.into_parts();
    let is_streaming =
        parts.headers.get(RESPONSE_MODE).is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(b"streaming"));
    if is_streaming {
        return stream(answering, text(&parts.headers, CONTENT_TYPE.as_str()), body).await;
    }
    match Limited::new(body, answer_max).collect().await {
        Ok(collected) => {
            answering.end(Ok(collected.to_bytes()));
            accepted()
        }
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Exceeded maximum allowed payload size ({answer_max} bytes).");
            answering.end(Err(ErrorReport::new("Function.ResponseSizeTooLarge", &message)));
            refusal(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
        }
        // The answer's own end is noted when `answering` is dropped.
        Err(_) => refusal(StatusCode::BAD_REQUEST, "InvalidRequest", "the body could not be read"),
    }
}

/// Passes on an answer as it arrives. An answer nobody waits for is read to its end and dropped.
async fn stream(answering: Answering, content_type: Option<String>, mut body: Incoming) -> Answer {
    let mut portions = answering.stream(content_type);
    let mut failure = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // The connection broke: the reader learns it from the silence.
            return refusal(StatusCode::BAD_REQUEST, "InvalidRequest", "the body could not be read");
        };
        match frame.into_data() {
            Ok(bytes) => pass_on(&mut portions, Item::Bytes(bytes)).await,
            Err(frame) => failure = frame.into_trailers().ok().as_ref().and_then(trailing_failure),
        }
    }
    let last = failure.map_or(Item::End, |report| Item::Failed(StreamFailure::Function(report)));
    pass_on(&mut portions, last).await;
    answering.end_stream();
    accepted()
}

async fn pass_on(portions: &mut Option<mpsc::Sender<Item>>, item: Item) {
    if let Some(sender) = portions
        && sender.send(item).await.is_err()
    {
        *portions = None;
    }
}

/// Reads how a function failed after it had begun to answer.
fn trailing_failure(trailers: &HeaderMap) -> Option<ErrorReport> {
    let kind = text(trailers, FUNCTION_ERROR_TYPE);
    let body = trailers.get(FUNCTION_ERROR_BODY);
    if kind.is_none() && body.is_none() {
        return None;
    }
    let body = body.map_or(&b""[..], HeaderValue::as_bytes);
    let json = STANDARD.decode(body).unwrap_or_else(|_| body.to_vec());
    Some(ErrorReport::parse(json.into(), kind.as_deref()))
}

async fn error(desk: &Arc<Desk>, id: &str, request: Request<Incoming>) -> Answer {
    let Ok(answering) = desk.begin_answer(id) else { return unknown_request() };
    let report = read_report(request).await;
    answering.end(Err(report));
    accepted()
}

async fn init_error(desk: &Arc<Desk>, request: Request<Incoming>) -> Answer {
    let report = read_report(request).await;
    if desk.readiness().settle(Err(InitFailure::Function(report))) {
        return accepted();
    }
    let message = "State transition from Ready to InitError failed for runtime. Error: State transition is not allowed";
    refusal(StatusCode::FORBIDDEN, "InvalidStateTransition", message)
}

async fn read_report(request: Request<Incoming>) -> ErrorReport {
    let kind = text(request.headers(), FUNCTION_ERROR_TYPE);
    match Limited::new(request.into_body(), REPORT_MAX_BYTES).collect().await {
        Ok(collected) => ErrorReport::parse(collected.to_bytes(), kind.as_deref()),
        Err(error) => ErrorReport::new(kind.as_deref().unwrap_or("Unhandled"), &format!("no report: {error}")),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn accepted() -> Answer {
    json(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"OK"}"#))
}

fn unknown_request() -> Answer {
    refusal(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID")
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Answer {
    json(status, ErrorReport::new(kind, message).json)
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
