//! The layer of a function's own source.

use std::path::Path;

use control_plane::model::{Digest, Runtime};

use super::super::Store;
use super::super::capture::add_libraries;
use super::super::layer::{Content, Layer};
use super::dependencies::Language;
use super::{BuildError, BuildRequest, TASK_ROOT, source};

/// Bytes of source that a function may have.
pub const SOURCE_MAX: u64 = 512 << 20;

/// Names that are never part of a source.
const SKIPPED: [&str; 4] = [".git", "__pycache__", ".DS_Store", ".hearthignore"];

impl Store {
    /// Packs the source.
    pub(super) fn code_layer(&self, request: &BuildRequest) -> Result<Digest, BuildError> {
        let mut layer = Layer::default();
        let skip = |inner: &Path| inner.file_name().is_some_and(|name| SKIPPED.contains(&&*name.to_string_lossy()));
        let is_resolved = request.dependencies.is_some() && Language::under(request) == Some(Language::Nodejs);
        let skip = |inner: &Path| skip(inner) || is_resolved && inner == Path::new("node_modules");
        layer.add_tree(&request.source, Path::new(TASK_ROOT), &skip)?;
        let size = layer.size()?;
        if size > SOURCE_MAX {
            return Err(BuildError::TooLarge { size });
        }
        if let Some(program) = own_program(request) {
            let path = source::file(&request.source, &program)?;
            let mut known = std::collections::BTreeSet::new();
            if request.base.is_none() {
                add_libraries(&mut layer, &path, &mut known)?;
            }
            layer.add(Path::new(TASK_ROOT).join(&program), Content::Host(path), true);
        }
        Ok(self.put_layer(&layer)?.0)
    }
}

/// Returns the executable of the source that the function runs, if it brings its own.
fn own_program(request: &BuildRequest) -> Option<String> {
    let program = match request.command.first() {
        Some(program) => program.as_str(),
        None if request.runtime == Runtime::Provided => "./bootstrap",
        None => return None,
    };
    program.strip_prefix("./").map(str::to_owned)
}
