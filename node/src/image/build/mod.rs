//! Code and dependencies into an image.
//!
//! An image has up to four layers: the base (captured once), our bootstrap for the runtimes that have one, dependencies, code.
//! Each is found again by what it was made from, so that an edited handler costs only the code layer.

mod assemble;
mod base;
mod code;
mod dependencies;
mod image;
mod nodejs;
mod python;
mod source;
mod tool;

use std::io;
use std::path::PathBuf;

use control_plane::model::{Digest, Runtime};

use super::capture::CaptureError;
use super::{PullError, ReferenceError, RootfsError, Store};

pub use self::code::SOURCE_MAX;
pub use self::tool::{RunOutput, RunRequest, ToolSettings, Tools};

/// Where the code lies in an image.
const TASK_ROOT: &str = "var/task";

/// Changes whenever the same source gives another image.
const VERSION: &str = "1";

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// The contract of the function.
    pub runtime: Runtime,
    /// The folder of its source, which is the caller's and does not change meanwhile.
    pub source: PathBuf,
    /// The argument vector, as its manifest has it.
    pub command: Vec<String>,
    /// The file that lists dependencies, as a path inside the source.
    pub dependencies: Option<String>,
    /// What lies under the code, if the manifest says.
    pub base: Option<String>,
}

/// An image that was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// The digest of its manifest.
    pub image: Digest,
    /// Nothing had to be done.
    pub reused: bool,
    /// The size of its blobs.
    pub size_bytes: u64,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The source lacks something.
    #[error("{path} is missing in the source")]
    Missing {
        /// What.
        path: String,
    },
    /// The source is over the limit.
    #[error("the source has {size} bytes, the most is {SOURCE_MAX}")]
    TooLarge {
        /// How large it is.
        size: u64,
    },
    /// A list of dependencies is over the limit.
    #[error("{path} has {size} bytes, the most is {limit}")]
    ListTooLarge {
        /// The list.
        path: String,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The base cannot be made.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// There is no such base.
    #[error("there is no base {0:?} in the store")]
    NoBase(String),
    /// A command is required and missing.
    #[error("runtime {0} needs a command")]
    NoCommand(Runtime),
    /// The tool that resolves dependencies failed; the text is its own.
    #[error("dependencies cannot be resolved:\n{0}")]
    Dependencies(String),
    /// Nothing under the function has a tool that resolves dependencies.
    #[error("nothing that resolves dependencies is known to lie under a function of runtime {0}")]
    NoResolver(Runtime),
    /// A base is named in a way that names none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// An image cannot be fetched or imported.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The store cannot be read or written.
    #[error("the image store failed")]
    Store(#[from] io::Error),
    /// The base cannot be used.
    #[error("the base cannot be used")]
    Base(#[from] RootfsError),
}

/// Told how far a build is.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

impl Store {
    /// Builds the image of a function; what was built from the same before is found again.
    pub async fn build(
        &self,
        request: BuildRequest,
        tools: &dyn Tools,
        progress: Progress<'_>,
    ) -> Result<Built, BuildError> {
        let _work = self.begin_work().await;
        if request.runtime == Runtime::Image {
            return self.image_to_run(request, progress).await;
        }
        self.layer(request, tools, progress).await
    }

    /// Lays code and dependencies over a base.
    async fn layer(
        &self,
        request: BuildRequest,
        tools: &dyn Tools,
        progress: Progress<'_>,
    ) -> Result<Built, BuildError> {
        let store = self.clone();
        let source = request.clone();
        let code = blocking(move || store.code_layer(&source)).await?;
        let base = self.base(&request, progress).await?;
        let dependencies = self.dependencies(&request, base, tools, progress).await?;
        let store = self.clone();
        blocking(move || store.assemble(&request, base, dependencies, code)).await
    }
}

/// Does something that reads and writes files aside from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BuildError::Store(io::Error::other(error)))?
}
