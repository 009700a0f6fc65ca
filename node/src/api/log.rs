//! What functions wrote, as a stream of lines.

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;
use control_plane::model::FunctionName;
use proto::json::{self, ErrorCode};
use serde::Deserialize;

use super::error::Refusal;
use super::function::missing;
use super::request::{parameters, segment};
use super::{Api, stream};
use crate::error_chain;
use crate::telemetry::logs::{Followed, Query, ReadError};

/// How many lines are sent unless the client says otherwise: the newest.
pub const LINES_DEFAULT: usize = 1_000;

/// The most lines that may be asked for at once.
pub const LINES_MAX: usize = 100_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogParameters {
    since: u64,
    request: Option<String>,
    limit: Option<usize>,
    follow: u8,
}

pub(super) async fn logs(State(api): State<Api>, Path(function): Path<String>, uri: Uri) -> Result<Response, Refusal> {
    let function: FunctionName = segment(&function)?;
    let parameters: LogParameters = parameters(&uri)?;
    let limit = parameters.limit.unwrap_or(LINES_DEFAULT);
    if limit > LINES_MAX {
        return Err(Refusal::bad_request(format!("limit is {limit}, it is at most {LINES_MAX}")));
    }
    let request = parameters.request;
    let query = Query {
        function: function.clone(),
        since_us: parameters.since.saturating_mul(1000),
        request: request.clone(),
        limit,
    };
    // Following begins before reading ends, so that no line falls between the two.
    let mut follow = (parameters.follow != 0).then(|| api.logs.follow(&function));
    let page = api.logs.read(query).await?;
    let is_known = api.platform.read(|state| state.functions.contains_key(&function));
    if page.last == 0 && !is_known {
        return Err(missing(&api, &function));
    }
    Ok(stream::lines(move |lines| async move {
        for line in page.lines {
            if lines.send(line).await.is_err() {
                return;
            }
        }
        let Some(follow) = &mut follow else { return };
        let mut newest: Option<json::LogLine> = None;
        while let Some(followed) = follow.next().await {
            let line = match followed {
                Followed::Line(sequence, _) if sequence <= page.last => continue,
                Followed::Line(_, line) => {
                    if request.is_some() && line.request_id != request {
                        continue;
                    }
                    json::LogLine::clone(&line)
                }
                // What is missed is told in the place of the line before it.
                Followed::Missed(count) => match &newest {
                    None => continue,
                    Some(newest) => json::LogLine {
                        text: format!("{count} lines were left out here: they came faster than they were read"),
                        request_id: None,
                        is_mark: true,
                        ..newest.clone()
                    },
                },
            };
            if lines.send(line.clone()).await.is_err() {
                return;
            }
            newest = Some(line);
        }
    }))
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::Io { .. } => ErrorCode::Internal,
            ReadError::Closed | ReadError::Busy => ErrorCode::Unavailable,
        };
        Self::new(code, error_chain::text(&error))
    }
}
