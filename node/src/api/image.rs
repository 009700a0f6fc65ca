//! Images: building a function's, pulling, importing, capturing, listing and sweeping.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use proto::json::{self, BUILD_HEADER, ImageEvent};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::error::Refusal;
use super::platform::{Build, ImageResult, Import};
use super::request::{BODY_MAX_BYTES, parameters, read, segment, upload};
use super::{Api, body, stream};

/// The longest name of an image, in bytes.
const NAME_MAX_BYTES: usize = 300;

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<json::Image>>, Refusal> {
    Ok(Json(api.platform.images().await?))
}

pub(super) async fn build(
    State(api): State<Api>,
    Path((app, function)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (app, function) = (segment(&app)?, segment(&function)?);
    let request = headers.get(BUILD_HEADER).ok_or_else(|| {
        Refusal::bad_request(format!("the header {BUILD_HEADER} with the base64 of the function's manifest is missing"))
    })?;
    let request = STANDARD
        .decode(request.as_bytes())
        .map_err(|error| Refusal::bad_request(format!("the header {BUILD_HEADER} is no base64: {error}")))?;
    let request: json::BuildRequest = body::parse(&request)?;
    let source = upload(body, api.limits.upload_max_bytes, &api.uploads).await?;
    let build = Build { app, function, request, source };
    Ok(events(move |progress| Box::pin(async move { api.platform.build(build, progress).await })))
}

pub(super) async fn pull(State(api): State<Api>, body: Body) -> Result<Response, Refusal> {
    let request: json::PullRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    Ok(events(move |progress| Box::pin(async move { api.platform.pull(request.reference, progress).await })))
}

/// What stands behind the `?` of an import.
#[derive(Deserialize)]
struct ImportParameters {
    tag: Option<String>,
    name: Option<String>,
}

pub(super) async fn import(State(api): State<Api>, uri: Uri, body: Body) -> Result<Response, Refusal> {
    let ImportParameters { tag, name } = parameters(&uri)?;
    if let Some(name) = &name
        && (name.is_empty() || name.len() > NAME_MAX_BYTES || name.chars().any(char::is_control))
    {
        return Err(Refusal::bad_request(format!(
            "a name of an image has 1 to {NAME_MAX_BYTES} bytes and no control characters"
        )));
    }
    let layout = upload(body, api.limits.image_max_bytes, &api.uploads).await?;
    let import = Import { layout, tag, name };
    Ok(events(move |progress| Box::pin(async move { api.platform.import(import, progress).await })))
}

pub(super) async fn capture(State(api): State<Api>, body: Body) -> Result<Response, Refusal> {
    let request: json::CaptureRequest = body::parse(&read(body, BODY_MAX_BYTES).await?)?;
    Ok(events(move |progress| Box::pin(async move { api.platform.capture(request, progress).await })))
}

pub(super) async fn gc(State(api): State<Api>) -> Result<Json<json::GcReport>, Refusal> {
    Ok(Json(api.platform.sweep_images().await?))
}

/// Answers with the progress of some work on an image and with how it ended.
fn events(work: impl FnOnce(mpsc::Sender<ImageEvent>) -> BoxFuture<'static, ImageResult>) -> Response {
    stream::lines(move |lines| {
        let work = work(lines.clone());
        async move {
            let last = match work.await {
                Ok(stored) => ImageEvent::Done {
                    image: stored.digest.to_string(),
                    reused: stored.reused,
                    size_bytes: stored.size_bytes,
                },
                Err(error) => ImageEvent::Error(error),
            };
            // A failed send means that the client has gone.
            let _ = lines.send(last).await;
        }
    })
}
