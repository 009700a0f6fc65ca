//! Images: building a function's, pulling, capturing, listing and sweeping.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use proto::json::{self, BUILD_HEADER, ImageEvent};
use tokio::sync::mpsc;

use super::error::Refusal;
use super::platform::{Build, ImageResult};
use super::request::{BODY_MAX_BYTES, read, segment, upload};
use super::{Api, body, stream};

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<json::Image>>, Refusal> {
    let mut images = api.platform.images().await?;
    api.platform.read(|state| {
        for (name, function) in &state.functions {
            for (number, revision) in &function.revisions {
                let digest = revision.spec.image.to_string();
                for image in images.iter_mut().filter(|image| image.digest == digest) {
                    image.used_by.push(format!("{name}@{number}"));
                }
            }
        }
    });
    Ok(Json(images))
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
