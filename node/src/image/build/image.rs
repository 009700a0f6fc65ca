//! Images that are run as they are: named by `base`, or an OCI layout as the source.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::layout::is_layout;
use super::super::unpack::{UnpackLimits, unpack};
use super::super::{PullError, Store};
use super::{BuildError, BuildRequest, Built, Progress, blocking};

impl Store {
    /// Returns the image that a function runs; with a base and a source, the source lies over the base.
    pub(super) async fn image_to_run(
        &self,
        request: BuildRequest,
        progress: Progress<'_>,
    ) -> Result<Built, BuildError> {
        let has_source = fs::read_dir(&request.source)?.next().is_some();
        let built = match (request.base.is_some(), has_source) {
            (true, true) => {
                let (store, source) = (self.clone(), request.clone());
                let code = blocking(move || store.code_layer(&source)).await?;
                let base = self.base(&request, progress).await?;
                let (store, request) = (self.clone(), request.clone());
                blocking(move || store.assemble(&request, base, None, code)).await?
            }
            (true, false) => {
                let before = self.image_count()?;
                let image = self.base(&request, progress).await?.ok_or(BuildError::NoCommand(request.runtime))?;
                Built { image, reused: self.image_count()? == before, size_bytes: self.size(&image)? }
            }
            (false, _) => {
                progress("importing the layout");
                self.import_upload(&request.source, None, None, Arc::new(|_| ())).await?
            }
        };
        let (_, config) = self.image(&built.image)?;
        let is_silent = |argv: Option<Vec<String>>| argv.is_none_or(|argv| argv.is_empty());
        if request.command.is_empty() && is_silent(config.config.entrypoint) && is_silent(config.config.cmd) {
            return Err(BuildError::NoCommand(request.runtime));
        }
        Ok(built)
    }

    /// Brings an image of an uploaded layout into the store: the layout itself, a folder with it, or a tar of one of these.
    pub(in super::super) async fn import_upload(
        &self,
        upload: &Path,
        tag: Option<&str>,
        name: Option<&str>,
        progress: super::super::PullProgress,
    ) -> Result<Built, PullError> {
        let (given, work) = (upload.to_path_buf(), self.work_dir());
        let found =
            tokio::task::spawn_blocking(move || find_layout(given, &work)).await.map_err(io::Error::other)??;
        self.import_in_work(&found.folder, tag, name, progress).await
    }
}

/// A layout, and the folder it was unpacked into if it was.
struct FoundLayout {
    folder: PathBuf,
    _unpacked: Option<tempfile::TempDir>,
}

fn find_layout(folder: PathBuf, work: &Path) -> Result<FoundLayout, PullError> {
    if let Some(folder) = layout_in(&folder)? {
        return Ok(FoundLayout { folder, _unpacked: None });
    }
    if let Some(file) = only_entry(&folder)?.filter(|path| path.is_file()) {
        let unpacked = tempfile::Builder::new().prefix("layout-").tempdir_in(work)?;
        let archive = fs::File::open(file)?;
        unpack(&archive, unpacked.path(), &UnpackLimits::default())
            .map_err(|error| PullError::Invalid { reason: crate::error_chain::text(&error) })?;
        if let Some(folder) = layout_in(unpacked.path())? {
            return Ok(FoundLayout { folder, _unpacked: Some(unpacked) });
        }
    }
    Err(PullError::Invalid { reason: "there is no OCI layout in it: no oci-layout with an index.json".to_owned() })
}

/// Returns the layout that a folder is, or that is the only thing in it.
fn layout_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    if is_layout(folder) {
        return Ok(Some(folder.to_path_buf()));
    }
    Ok(only_entry(folder)?.filter(|inner| is_layout(inner)))
}

/// Returns the only thing in a folder, if it is a file or a folder and no link.
fn only_entry(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut entries = fs::read_dir(folder)?;
    let (Some(first), None) = (entries.next(), entries.next()) else { return Ok(None) };
    let first = first?;
    Ok((!first.file_type()?.is_symlink()).then(|| first.path()))
}
