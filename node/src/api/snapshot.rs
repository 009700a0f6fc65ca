//! Backups: what users have defined, out of a cluster and into a new one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use control_plane::codec;
use control_plane::state::{Command, Rejection};
use futures_util::stream;
use proto::json::{self, ErrorBody, ErrorCode, EventKind};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::error::Refusal;
use super::request::{drain, parameters, upload};
use super::{Api, Upload};
use crate::backup::{self, Backup, Counts, DEFINITIONS_MAX_BYTES, Header, ImageNote, ReadError, Writer};
use crate::image::ImageFile;
use crate::pieces::{PIECES_MAX, Pieces};

/// How large a backup may be that is restored, with all its images.
const BACKUP_MAX_BYTES: u64 = 256 << 30;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SaveParameters {
    images: u8,
}

pub(super) async fn save(State(api): State<Api>, uri: Uri) -> Result<Response, Refusal> {
    let SaveParameters { images } = parameters(&uri)?;
    api.catch_up().await?;
    let (definitions, nodes) = api.platform.read(|state| (state.definitions(), state.nodes.len()));
    // There may be megabytes of them.
    let encoding = tokio::task::spawn_blocking(move || (codec::encode_definitions(&definitions), definitions));
    let (encoded, definitions) = encoding.await.map_err(|error| failed(&io::Error::other(error)))?;
    if encoded.len() as u64 > DEFINITIONS_MAX_BYTES {
        let told = format!("what is defined takes more than {DEFINITIONS_MAX_BYTES} bytes: it could not be restored");
        return Err(Refusal::new(ErrorCode::LimitReached, told).hint("delete functions that nobody needs"));
    }
    // An image that is taken along is measured by its files.
    let known = if images == 0 { api.platform.images().await? } else { Vec::new() };
    let sizes: BTreeMap<String, u64> = known.into_iter().map(|image| (image.digest, image.size_bytes)).collect();
    let (mut notes, mut files) = (BTreeMap::new(), BTreeMap::new());
    for image in backup::images_of(&definitions).into_keys() {
        let found = if images == 0 { None } else { api.platform.image_files(image).await? };
        let size_bytes = match &found {
            Some(found) => Some(found.iter().map(|file| file.size_bytes).sum()),
            None => sizes.get(&image.to_string()).copied(),
        };
        notes.insert(image, ImageNote { size_bytes, is_included: found.is_some() });
        // Images share layers.
        files.extend(found.into_iter().flatten().map(|file| (file.digest, file)));
    }
    let header = Header {
        created_at: api.clock.now(),
        cluster: api.platform.standing().cluster.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        index: definitions.index,
        counts: Counts::of(&definitions),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
        images: notes,
    };
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let broken = pieces.clone();
        if let Err(error) = write(Pieces::new(pieces), &header, &encoded, files.into_values()) {
            tracing::warn!(%error, "a backup broke off");
            // Whoever reads it sees that it broke off, if they still read.
            let _ = broken.blocking_send(Err(error));
        }
    });
    let pieces = stream::unfold(body, |mut body| async {
        let piece = body.recv().await?;
        if piece.is_err() {
            // The connection ends with it. What came before goes out first: without the head of the answer nobody could tell
            // that the backup broke off from a node that did not answer.
            tokio::task::yield_now().await;
        }
        Some((piece, body))
    });
    let body = Body::from_stream(pieces);
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

fn write(
    out: impl Write,
    header: &Header,
    definitions: &[u8],
    files: impl Iterator<Item = ImageFile>,
) -> io::Result<()> {
    let mut writer = Writer::begin(out, header, definitions)?;
    for file in files {
        writer.blob(&file.digest, file.size_bytes, File::open(&file.path)?)?;
    }
    writer.finish().map(drop)
}

pub(super) async fn restore(State(api): State<Api>, mut body: Body) -> Result<Json<json::Restored>, Refusal> {
    // Gigabytes are not to be kept for nothing.
    if let Err(refusal) = check_fresh(&api).await {
        drain(&mut body, BACKUP_MAX_BYTES).await;
        return Err(refusal);
    }
    let file = upload(body, BACKUP_MAX_BYTES, &api.uploads).await?;
    // Sending it may have taken an hour.
    check_fresh(&api).await?;
    let folder = tempfile::tempdir_in(&*api.uploads).map_err(|error| failed(&error))?;
    let layout = folder.path().to_path_buf();
    let Backup { header, definitions, .. } = unpack(file, &layout).await?;
    for (image, _) in header.images.iter().filter(|(_, note)| note.is_included) {
        api.platform.take_image(layout.clone(), *image).await?;
    }
    let images = backup::images_of(&definitions);
    let index = api.change(Command::Restore(Box::new(definitions))).await?;
    let Counts { apps, functions, revisions } = header.counts;
    let told = format!("{functions} functions were restored from a backup of cluster {}", header.cluster);
    api.tell(EventKind::Restored, None, told);
    let mut missing = Vec::new();
    for (image, revisions) in images {
        if !api.platform.has_image(image).await {
            let used_by = revisions.iter().map(ToString::to_string).collect();
            missing.push(json::MissingImage { image: image.to_string(), used_by });
        }
    }
    Ok(Json(json::Restored { index, apps, functions, revisions, missing }))
}

/// Refuses what only a cluster takes in which nothing was ever deployed.
async fn check_fresh(api: &Api) -> Result<(), Refusal> {
    api.catch_up().await?;
    if api.platform.read(|state| !state.is_fresh()) {
        return Err(Rejection::NotFresh.into());
    }
    Ok(())
}

/// Reads an upload whole; its blobs are an OCI layout in `folder` afterwards.
async fn unpack(file: Upload, folder: &Path) -> Result<Backup, Refusal> {
    let folder = folder.to_path_buf();
    let reading = move || {
        let content = File::open(file.path()).map_err(ReadError::Io)?;
        backup::unpack(io::BufReader::new(content), &folder)
    };
    let read = tokio::task::spawn_blocking(reading).await.map_err(|error| failed(&io::Error::other(error)))?;
    Ok(read?)
}

fn failed(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull => Refusal::new(ErrorCode::DiskFull, "the disk has no room for the backup")
            .hint("make room there: `hearth image gc`, `hearth delete`"),
        _ => Refusal::new(ErrorCode::Internal, format!("the backup cannot be kept: {error}")),
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        if let ReadError::Io(source) = &error {
            return failed(source);
        }
        let code = error.code();
        let hint = error.hint().map(str::to_owned);
        Self(ErrorBody { error: crate::error_chain::text(&error), hint, code })
    }
}
