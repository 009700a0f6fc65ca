//! What lies under the code: a base by its name, or one captured from this machine.

use std::path::{Path, PathBuf};

use control_plane::model::{Digest, Runtime};

use super::super::Store;
use super::super::capture::{Capture, Captured, gather};
use super::super::oci::Execution;
use super::{BuildError, BuildRequest, Progress, blocking};

impl Store {
    /// Returns the image under the code, captured where nothing else is named; none where a static executable needs none.
    pub(super) async fn base(
        &self,
        request: &BuildRequest,
        progress: Progress<'_>,
    ) -> Result<Option<Digest>, BuildError> {
        let (name, what) = match (&request.base, request.runtime) {
            // The languages of this machine are captured on first need, also when they are named.
            (Some(name), _) if name == "python3" => (name.clone(), Capture::Python3),
            (Some(name), _) if name == "nodejs" => (name.clone(), Capture::Nodejs),
            (Some(name), _) => {
                return self.named(name).map(Some).ok_or_else(|| BuildError::NoBase(name.clone()));
            }
            (None, Runtime::Python3) => ("python3".to_owned(), Capture::Python3),
            (None, Runtime::Nodejs) => ("nodejs".to_owned(), Capture::Nodejs),
            (None, Runtime::Provided) => return Ok(None),
            (None, Runtime::Http | Runtime::Image) => match request.command.first().map(String::as_str) {
                None => return Err(BuildError::NoCommand(request.runtime)),
                Some("python3" | "python") => ("python3".to_owned(), Capture::Python3),
                Some("node") => ("nodejs".to_owned(), Capture::Nodejs),
                Some(program) if program.starts_with('/') => {
                    (program.to_owned(), Capture::Executable(PathBuf::from(program)))
                }
                Some(_) => return Ok(None),
            },
        };
        if let Some(known) = self.named(&name) {
            return Ok(Some(known));
        }
        progress(&format!("capturing {name} of this machine as a base"));
        self.capture(what, name).await.map(Some)
    }

    /// Makes a base of what the machine has, under a name.
    pub async fn capture(&self, what: Capture, name: String) -> Result<Digest, BuildError> {
        let store = self.clone();
        blocking(move || {
            // One at a time: two functions of one language wait for one capture.
            let _capturing = store.capturing();
            if let Some(known) = store.named(&name) {
                return Ok(known);
            }
            let Captured { layer, program } = gather(&what)?;
            let (digest, _) = store.put_layer(&layer)?;
            store.mark_captured(&digest)?;
            let folder = program.parent().unwrap_or(Path::new("/usr/bin")).display();
            let path = format!("PATH={folder}:/opt/python/bin:/usr/local/bin:/usr/bin:/bin");
            let execution = Execution {
                env: Some(vec![path]),
                entrypoint: Some(vec![program.to_string_lossy().into_owned()]),
                ..Execution::default()
            };
            let image = store.put_image(&[digest], execution)?;
            store.name(&name, image)?;
            Ok(image)
        })
        .await
    }
}
