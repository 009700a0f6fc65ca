//! Tools that resolve dependencies, run in sandboxes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;

/// A run of a tool in a sandbox with a way out.
#[derive(Debug)]
pub struct RunRequest {
    /// Directories that make its root, lowest first.
    pub layers: Vec<PathBuf>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Where its standard output goes.
    pub output: PathBuf,
    /// How long it may take.
    pub deadline: Duration,
}

/// What became of a tool.
#[derive(Debug)]
pub struct RunOutput {
    /// Whether it exited with 0.
    pub is_success: bool,
    /// The end of what it wrote on standard error.
    pub errors: String,
}

/// Runs tools in sandboxes.
pub trait Tools: Send + Sync {
    /// Runs one to its end.
    fn run(&self, request: RunRequest) -> BoxFuture<'_, Result<RunOutput, String>>;
}

/// Lets the users of sandboxes read a folder of inputs.
pub(super) fn make_readable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        let mode = if entry.file_type().is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}
