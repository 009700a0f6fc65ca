//! What comes in with a request: bodies under their limits, parameters, names in paths.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Query;
use axum::http::Uri;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use proto::json::ErrorCode;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;

use super::error::Refusal;
use super::platform::Upload;
use crate::error_chain;

/// The largest body that describes an app, in bytes: one entry of the log holds it.
pub const DEPLOY_BODY_MAX_BYTES: u64 = 4 << 20;

/// The largest body of any other request in JSON, in bytes.
pub const BODY_MAX_BYTES: u64 = 64 << 10;

/// How much of a body that is refused is read all the same, in bytes: a client that is cut off in the middle of sending may never
/// see the answer that says why.
const REFUSED_BODY_READ_MAX_BYTES: u64 = 4 << 20;

/// How long that may take, or each piece of what is read to its end.
const REFUSED_BODY_WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a client may take to send its next piece of a body.
pub const BODY_PIECE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Returns the valid name or id that a segment of the path holds.
pub(super) fn segment<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error: T::Err| Refusal::bad_request(error.to_string()))
}

/// Returns the parameters behind the `?`.
pub(super) fn parameters<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refusal> {
    Query::<T>::try_from_uri(uri)
        .map(|Query(parameters)| parameters)
        .map_err(|error| Refusal::bad_request(error_chain::text(&error)))
}

/// Reads a whole body of at most `limit` bytes.
pub(super) async fn read(body: Body, limit: u64) -> Result<Bytes, Refusal> {
    let mut pieces = Pieces::new(body, limit).await?;
    let mut whole = BytesMut::new();
    while let Some(piece) = pieces.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Writes a body of at most `limit` bytes to a file of its own in `folder`.
pub(super) async fn upload(body: Body, limit: u64, folder: &Path) -> Result<Upload, Refusal> {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut pieces = Pieces::new(body, limit).await?;
    let name = format!("{}-{}.tar", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path: PathBuf = folder.join(name);
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => Refusal::new(ErrorCode::DiskFull, "the disk has no room for the upload")
            .hint("make room there: `hearth image gc`, `hearth delete`"),
        _ => Refusal::new(ErrorCode::Internal, format!("cannot keep the upload: {error}")),
    };
    let mut file = tokio::fs::File::create(&path).await.map_err(failed)?;
    // From here on the file goes away with this, whatever happens.
    let mut upload = Upload::new(path, 0);
    let mut length = 0;
    while let Some(piece) = pieces.next().await? {
        length += piece.len() as u64;
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    upload.set_length(length);
    Ok(upload)
}

/// Reads what a client is still sending of a body that is refused, within limits, and keeps nothing of it.
///
/// Who sends more, or sends slowly, is cut off.
pub(super) async fn discard(body: &mut Body) {
    let _ = tokio::time::timeout(REFUSED_BODY_WAIT_MAX, drain(body, REFUSED_BODY_READ_MAX_BYTES)).await;
}

/// Reads a body of at most `limit` bytes that is refused to its end, and keeps nothing of it.
///
/// For bodies that are large by nature: a client that is cut off while it sends does not hear why.
pub(super) async fn drain(body: &mut Body, limit: u64) {
    let mut left = limit;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(REFUSED_BODY_WAIT_MAX, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// The data of a body piece by piece, counted.
struct Pieces {
    body: Body,
    limit: u64,
    left: u64,
}

impl Pieces {
    /// Refuses a body that announces more than `limit` bytes before anything of it is read.
    async fn new(body: Body, limit: u64) -> Result<Self, Refusal> {
        let mut pieces = Self { body, limit, left: limit };
        if pieces.body.size_hint().lower() > limit { Err(pieces.too_large().await) } else { Ok(pieces) }
    }

    async fn too_large(&mut self) -> Refusal {
        discard(&mut self.body).await;
        Refusal::new(ErrorCode::TooLarge, format!("the body is over its limit of {} bytes", self.limit))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = tokio::time::timeout(BODY_PIECE_WAIT_MAX, self.body.frame())
                .await
                .map_err(|_| Refusal::new(ErrorCode::Timeout, "the rest of the body did not come"))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame
                .map_err(|error| Refusal::bad_request(format!("the body broke off: {}", error_chain::text(&error))))?;
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => return Err(self.too_large().await),
            }
            return Ok(Some(data));
        }
    }
}
