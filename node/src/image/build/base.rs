//! What lies under the code: a base by its name, or one captured from this machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control_plane::model::{Digest, Runtime};

use super::super::Store;
use super::super::capture::{Capture, Captured, gather};
use super::super::oci::Execution;
use super::super::reference::{Reference, is_reference};
use super::dependencies::Language;
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
            (Some(name), _) => return self.named_base(name, progress).await.map(Some),
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
        self.capture_in_work(what, name).await.map(Some)
    }

    /// Returns the base of a name in the store, or of a digest there, or fetches the one that a registry has.
    async fn named_base(&self, name: &str, progress: Progress<'_>) -> Result<Digest, BuildError> {
        if let Some(known) = self.named(name) {
            return Ok(known);
        }
        if let Some(known) = name.parse().ok().filter(|digest| self.has(digest)) {
            return Ok(known);
        }
        if !is_reference(name) {
            return Err(BuildError::NoBase(name.to_owned()));
        }
        let reference: Reference = name.parse()?;
        // The tag was resolved once, and stays what it was until somebody pulls it again.
        if let Some(known) = self.named(&reference.to_string()) {
            return Ok(known);
        }
        progress(&format!("fetching {reference}"));
        Ok(self.pull_in_work(&reference, Arc::new(|_| ())).await?.image)
    }

    /// Returns what runs a language in a base: a captured one says so, any other has it on its path.
    pub(super) fn interpreter(&self, base: &Digest, language: Language) -> io::Result<String> {
        let (manifest, config) = self.image(base)?;
        let own = config.config.entrypoint.and_then(|entrypoint| entrypoint.into_iter().next());
        let is_captured = manifest.layers.iter().any(|layer| self.is_captured(&layer.digest));
        let usual = match language {
            Language::Python => "python3",
            Language::Nodejs => "node",
        };
        Ok(own.filter(|_| is_captured).unwrap_or_else(|| usual.to_owned()))
    }

    /// Makes a base of what the machine has, under a name.
    pub async fn capture(&self, what: Capture, name: String) -> Result<Digest, BuildError> {
        let _work = self.begin_work().await;
        self.capture_in_work(what, name).await
    }

    async fn capture_in_work(&self, what: Capture, name: String) -> Result<Digest, BuildError> {
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
            let image = store.put_image(vec![store.own(digest)?], execution)?;
            store.name(&name, image)?;
            Ok(image)
        })
        .await
    }
}
