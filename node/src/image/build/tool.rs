//! Tools that resolve dependencies, run in sandboxes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;

/// Where a tool finds its inputs, in its sandbox.
pub(super) const INPUTS: &str = "opt/hearth-build";

/// Variables by which programs find their way out, whatever the tool.
const PROXIES: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];

/// How an operator wants tools to be run; what is empty is as the machine's own tool is configured.
#[derive(Clone, Debug)]
pub struct ToolSettings {
    /// The package index of pip.
    pub pip_index: String,
    /// Directories or pages that pip also looks for wheels in.
    pub pip_find_links: Vec<String>,
    /// pip asks no index at all.
    pub pip_offline: bool,
    /// The registry of npm.
    pub npm_registry: String,
    /// Certificates, in PEM, that tools trust.
    pub ca_file: Option<PathBuf>,
    /// How long one run may take.
    pub deadline: Duration,
}

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

    /// Returns how they are to be run.
    fn settings(&self) -> &ToolSettings;
}

/// Returns the machine's own variables for a tool: those with a prefix, whatever their case, and the ways out.
pub(super) fn machine(prefix: &str, not_taken: &[&str]) -> Vec<(String, String)> {
    let is_wanted = |name: &str| {
        let is_of_tool = name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        is_of_tool && !not_taken.iter().any(|other| name.eq_ignore_ascii_case(other))
            || PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
    };
    let mut variables: Vec<_> = std::env::vars().filter(|(name, _)| is_wanted(name)).collect();
    variables.push(("HOME".to_owned(), "/tmp".to_owned()));
    variables
}

/// Returns a path below the home directory of the daemon's user.
pub(super) fn home(path: &str) -> Option<PathBuf> {
    std::env::home_dir().map(|home| home.join(path))
}

/// Puts a file or folder of the machine among the inputs and returns its path there; anything else is returned as it is.
pub(super) fn hand_over(path: &str, inputs: &Path) -> io::Result<String> {
    let plain = Path::new(path.strip_prefix("file://").unwrap_or(path));
    if !plain.is_absolute() || !plain.exists() {
        return Ok(path.to_owned());
    }
    let name = (0..).map(|number| format!("given-{number}")).find(|name| !inputs.join(name).exists());
    let name = name.expect("numbers do not end");
    let target = inputs.join(&name);
    if plain.is_dir() {
        fs::create_dir(&target)?;
        for entry in fs::read_dir(plain)? {
            let entry = entry?;
            if entry.path().is_file() {
                fs::copy(entry.path(), target.join(entry.file_name()))?;
            }
        }
    } else {
        fs::copy(plain, target)?;
    }
    Ok(format!("/{INPUTS}/{name}"))
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
