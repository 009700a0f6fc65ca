//! Builds, pulls, imports, captures and sweeps as the API asks for them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control_plane::model::{Digest, Runtime};
use proto::json::{self, ErrorBody, ErrorCode, ImageEvent};
use tokio::sync::mpsc;

use super::image_failure;
use crate::agent::SandboxTools;
use crate::api::{Build, ImageResult, Import, StoredImage, Upload};
use crate::image::{
    self, BuildRequest, Built, Capture, ImageFile, ImagePeers, ImageSummary, PullError, PullProgress, PullStep,
    Reference, ReferenceError, Store, UnpackLimits,
};

/// Builds the image of a function from its upload.
pub(super) async fn build(
    images: &Store,
    tools: &SandboxTools,
    work: &Path,
    build: Build,
    progress: mpsc::Sender<ImageEvent>,
) -> ImageResult {
    let source = unpacked(&build.source, work).await?;
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
    let built = images.build(request, tools, &tell).await.map_err(|error| image_failure::of_build(&error))?;
    Ok(stored(built))
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
    let digest = images.capture(what, name).await.map_err(|error| image_failure::of_build(&error))?;
    let known = images.list().into_iter().find(|image| image.digest == digest);
    Ok(StoredImage { digest, reused: false, size_bytes: known.map_or(0, |image| image.size_bytes) })
}

/// Fetches an image from a registry.
pub(super) async fn pull(images: &Store, reference: String, progress: mpsc::Sender<ImageEvent>) -> ImageResult {
    let reference: Reference = reference.parse().map_err(|error: ReferenceError| ErrorBody {
        error: error.to_string(),
        hint: Some(error.hint),
        code: ErrorCode::BadRequest,
    })?;
    let built = images.pull(&reference, tell(progress)).await.map_err(|error| image_failure::of_pull(&error))?;
    Ok(stored(built))
}

/// Imports an OCI layout from its upload.
pub(super) async fn import(
    images: &Store,
    work: &Path,
    import: Import,
    progress: mpsc::Sender<ImageEvent>,
) -> ImageResult {
    let folder = unpacked(&import.layout, work).await?;
    let (tag, name) = (import.tag.as_deref(), import.name.as_deref());
    let imported = images.import(folder.path(), tag, name, tell(progress)).await;
    Ok(stored(imported.map_err(|error| image_failure::of_pull(&error))?))
}

/// Lists the images, each with the revisions that run it or what is laid over it.
pub(super) fn list(images: &Store, revisions: &[(String, Digest)]) -> Vec<json::Image> {
    let known = images.list();
    let is_under = |below: &ImageSummary, image: &Digest| {
        below.digest == *image
            || known.iter().any(|above| {
                above.digest == *image && !below.layers.is_empty() && above.layers.starts_with(&below.layers)
            })
    };
    let shown = known.iter().map(|image| json::Image {
        digest: image.digest.to_string(),
        names: image.names.clone(),
        size_bytes: image.size_bytes,
        used_by: revisions.iter().filter(|(_, used)| is_under(image, used)).map(|(name, _)| name.clone()).collect(),
    });
    shown.collect()
}

/// Deletes what nothing refers to.
pub(super) async fn sweep(images: &Store, live: BTreeSet<Digest>) -> Result<json::GcReport, ErrorBody> {
    let report = images.sweep(live).await.map_err(|error| image_failure::of_sweep(&error))?;
    Ok(json::GcReport { images: report.images, blobs: report.blobs, freed_bytes: report.freed_bytes })
}

/// Returns the files of an image, which is fetched from peers if it is not here, or not whole; none if nobody has it.
pub(super) async fn files(
    images: &Store,
    peers: &dyn ImagePeers,
    image: Digest,
) -> Result<Option<Vec<ImageFile>>, ErrorBody> {
    let look = |store: Store| async move {
        let looked = tokio::task::spawn_blocking(move || store.files(&image)).await;
        looked.map_err(io::Error::other).and_then(|files| files)
    };
    let failed = |error: &PullError| image_failure::of_saving(&image, error);
    match look(images.clone()).await {
        Ok(files) => return Ok(Some(files)),
        Err(error) if image::is_damage(&error) => {}
        Err(error) => return Err(failed(&PullError::Store(error))),
    }
    if let Err(error) = images.fetch(&image, peers, Arc::new(|_| ())).await {
        return match &*error {
            PullError::Peers { is_nowhere: true, .. } => {
                tracing::debug!(%image, %error, "an image is nowhere");
                Ok(None)
            }
            error => Err(failed(error)),
        };
    }
    look(images.clone()).await.map(Some).map_err(|error| failed(&PullError::Store(error)))
}

/// Brings an image into the store out of an OCI layout in which its digest is its tag.
pub(super) async fn take(images: &Store, layout: PathBuf, image: Digest) -> Result<(), ErrorBody> {
    let taken = images.import(&layout, Some(&image.to_string()), None, Arc::new(|_| ())).await;
    let built = taken.map_err(|error| image_failure::of_pull(&error))?;
    if built.image == image {
        return Ok(());
    }
    Err(ErrorBody::new(ErrorCode::VerificationFailed, format!("{image} is an index and no image")))
}

/// Passes on how far a pull is.
fn tell(progress: mpsc::Sender<ImageEvent>) -> PullProgress {
    Arc::new(move |step: PullStep| {
        // Progress that finds the channel full is lost.
        let _ = progress.try_send(ImageEvent::Progress { step: step.text, done: step.done, total: step.total });
    })
}

fn stored(built: Built) -> StoredImage {
    StoredImage { digest: built.image, reused: built.reused, size_bytes: built.size_bytes }
}

/// Unpacks an upload into a folder of its own.
async fn unpacked(upload: &Upload, work: &Path) -> Result<tempfile::TempDir, ErrorBody> {
    let (path, parent) = (upload.path().to_path_buf(), work.to_path_buf());
    match tokio::task::spawn_blocking(move || unpack_source(&path, &parent)).await {
        Ok(Ok(folder)) => Ok(folder),
        Ok(Err(error)) => {
            let text = crate::error_chain::text(&error);
            Err(image_failure::failed(format!("the upload cannot be unpacked: {text}"), None))
        }
        Err(error) => Err(image_failure::failed(error.to_string(), None)),
    }
}

/// Unpacks an upload with every check that any archive gets.
fn unpack_source(upload: &Path, work: &Path) -> Result<tempfile::TempDir, image::UnpackError> {
    let folder = tempfile::Builder::new().prefix("source-").tempdir_in(work)?;
    image::unpack(&File::open(upload)?, folder.path(), &UnpackLimits::default())?;
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

#[cfg(test)]
mod tests {
    use control_plane::model::NodeId;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::image::tests::layer;
    use crate::image::tests::scripted::{Known, Peer, Script};
    use crate::image::{ImagePeer, Settings};

    /// A peer that does not answer.
    #[derive(Debug)]
    struct Gone;

    impl ImagePeers for Gone {
        fn peers(&self) -> Vec<ImagePeer> {
            vec![ImagePeer { node: NodeId(2), channel: Endpoint::from_static("http://127.0.0.1:1").connect_lazy() }]
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Settings::default()).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn files_come_from_a_peer_and_an_image_that_nobody_has_is_none() {
        let peer = Peer::start(1, &Arc::new(Script::default())).await;
        let image = peer.image(&[layer(b"text")]);
        let (_folder, store) = store();
        assert_eq!(files(&store, &Known::default(), image).await, Ok(None));
        let found = files(&store, &Known::from([&peer]), image).await.unwrap().expect("a peer has it");
        assert_eq!(found.len(), 3, "manifest, config and layer: {found:?}");
        assert_eq!(files(&store, &Known::default(), image).await, Ok(Some(found)), "it is here by now");
    }

    #[tokio::test]
    async fn an_image_that_cannot_be_read_or_fetched_is_an_error() {
        let peer = Peer::start(1, &Arc::new(Script::default())).await;
        let (_folder, store) = store();
        let image = peer.image(&[layer(b"text")]);
        let peers = Known::from([&peer]);
        let path = files(&store, &peers, image).await.unwrap().expect("a peer has it").remove(0).path;
        let blob = path.parent().unwrap().join(image.hex());
        std::fs::remove_file(&blob).unwrap();
        std::fs::create_dir(&blob).unwrap();
        let error = files(&store, &peers, image).await.unwrap_err();
        assert!(error.error.starts_with(&format!("image {image} cannot be taken along: ")), "{error:?}");
        assert_eq!(error.code, ErrorCode::Internal);
        std::fs::remove_dir(&blob).unwrap();
        let error = files(&store, &Gone, image).await.unwrap_err();
        assert_eq!((error.code, error.hint.is_some()), (ErrorCode::Unavailable, true), "{error:?}");
    }
}
