//! Builds, captures and sweeps as the API asks for them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use control_plane::model::{Digest, Runtime};
use proto::json::{self, ErrorBody, ErrorCode, ImageEvent};
use tokio::sync::mpsc;

use crate::agent::SandboxTools;
use crate::api::{Build, ImageResult, StoredImage};
use crate::image::{self, BuildError, BuildRequest, Capture, CaptureError, Store, UnpackLimits};

/// Builds the image of a function from its upload.
pub(super) async fn build(
    images: &Store,
    tools: &SandboxTools,
    work: &Path,
    build: Build,
    progress: mpsc::Sender<ImageEvent>,
) -> ImageResult {
    let (upload, parent) = (build.source.path().to_path_buf(), work.to_path_buf());
    let unpacked = tokio::task::spawn_blocking(move || unpack_source(&upload, &parent)).await;
    let source = match unpacked {
        Ok(Ok(source)) => source,
        Ok(Err(error)) => return Err(failed(format!("the source cannot be unpacked: {error}"), None)),
        Err(error) => return Err(failed(error.to_string(), None)),
    };
    let request = BuildRequest {
        runtime: runtime(build.request.runtime),
        source: source.path().to_path_buf(),
        command: build.request.command,
        dependencies: build.request.dependencies,
        base: build.request.base,
    };
    let tell = |step: &str| {
        // Progress that finds the channel full is lost.
        let _ = progress.try_send(ImageEvent::Progress { step: step.to_owned(), done: 0, total: None });
    };
    let built = images.build(request, tools, &tell).await.map_err(|error| explain(&error))?;
    Ok(StoredImage { digest: built.image, reused: built.reused, size_bytes: built.size_bytes })
}

/// Captures a base from this machine.
pub(super) async fn capture(
    images: &Store,
    request: json::CaptureRequest,
    progress: mpsc::Sender<ImageEvent>,
) -> ImageResult {
    let what = match request.what.as_str() {
        "python3" => Capture::Python3,
        "nodejs" => Capture::Nodejs,
        path if path.starts_with('/') => Capture::Executable(PathBuf::from(path)),
        other => {
            let hint = Some("it is python3, nodejs, or the absolute path of an executable".to_owned());
            let error = format!("{other:?} cannot be captured");
            return Err(ErrorBody { error, hint, code: ErrorCode::BadRequest });
        }
    };
    let name = request.name.unwrap_or(request.what);
    // Progress that finds the channel full is lost.
    let _ = progress.try_send(ImageEvent::Progress { step: format!("capturing {name}"), done: 0, total: None });
    let digest = images.capture(what, name).await.map_err(|error| explain(&error))?;
    let known = images.list().into_iter().find(|image| image.digest == digest);
    Ok(StoredImage { digest, reused: false, size_bytes: known.map_or(0, |image| image.size_bytes) })
}

/// Deletes what nothing refers to.
pub(super) async fn sweep(images: &Store, live: BTreeSet<Digest>) -> Result<json::GcReport, ErrorBody> {
    let images = images.clone();
    let swept = tokio::task::spawn_blocking(move || images.sweep(&live)).await;
    let report = swept.map_err(io::Error::other).flatten().map_err(|error| ErrorBody {
        error: error.to_string(),
        hint: None,
        code: ErrorCode::Internal,
    })?;
    Ok(json::GcReport { images: report.images, blobs: report.blobs, freed_bytes: report.freed_bytes })
}

/// Unpacks an upload with every check that any archive gets.
fn unpack_source(upload: &Path, work: &Path) -> Result<tempfile::TempDir, image::UnpackError> {
    let folder = tempfile::Builder::new().prefix("source-").tempdir_in(work)?;
    image::unpack(io::BufReader::new(File::open(upload)?), folder.path(), &UnpackLimits::default())?;
    Ok(folder)
}

fn runtime(runtime: json::Runtime) -> Runtime {
    match runtime {
        json::Runtime::Python3 => Runtime::Python3,
        json::Runtime::Nodejs => Runtime::Nodejs,
        json::Runtime::Provided => Runtime::Provided,
        json::Runtime::Http => Runtime::Http,
        json::Runtime::Image => Runtime::Image,
    }
}

fn failed(error: String, hint: Option<&str>) -> ErrorBody {
    ErrorBody { error, hint: hint.map(str::to_owned), code: ErrorCode::BuildFailed }
}

/// Returns a failed build with everything that caused it, and what helps.
fn explain(error: &BuildError) -> ErrorBody {
    let text = crate::error_chain::text(error);
    match error {
        BuildError::Capture(CaptureError::LanguageMissing { hint, .. }) => {
            ErrorBody { error: text, hint: Some((*hint).to_owned()), code: ErrorCode::LanguageMissing }
        }
        BuildError::Dependencies(_) => failed(text, Some("the reason is the tool's own; check names and versions")),
        BuildError::NoResolver(_) => {
            failed(text, Some("name base = \"python3\" or \"nodejs\", or ship what it needs with the source"))
        }
        BuildError::NoBase(_) => failed(text, Some("`hearth image ls` shows what there is")),
        BuildError::Store(error) if error.kind() == io::ErrorKind::StorageFull => {
            let hint = Some("make room: hearth image gc".to_owned());
            ErrorBody { error: text, hint, code: ErrorCode::DiskFull }
        }
        BuildError::Missing { .. }
        | BuildError::TooLarge { .. }
        | BuildError::ListTooLarge { .. }
        | BuildError::Capture(_)
        | BuildError::NoCommand(_)
        | BuildError::Store(_)
        | BuildError::Base(_) => failed(text, None),
    }
}
