//! The manifest `hearth.toml`: what one app consists of, read into valid values or into errors that show their place.
//!
//! TOML is the format of the documentation; YAML and JSON become the same tree ([`tree`]) and are read by the same code.
//! Reading goes on after a problem, so one run tells all of them. A key that does not exist is never passed over, and
//! neither is one that a later version will honour: what a manifest asks for happens, or the manifest is refused.

mod function;
mod placement;
mod problem;
mod quantity;
mod schema;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod trigger;

use std::io::Read;
use std::path::{Path, PathBuf};

use control_plane::model::AppName;

pub use function::Function;
pub use problem::Problems;
pub use schema::schema;
pub use tree::Format;

use problem::{Collector, get};

/// The names under which a folder may hold its manifest, first found first taken.
pub const FILE_NAMES: [&str; 4] = ["hearth.toml", "hearth.yaml", "hearth.yml", "hearth.json"];

/// The largest manifest, in bytes.
pub const MANIFEST_MAX_BYTES: u64 = 1024 * 1024;

/// The most functions of one app.
pub const FUNCTIONS_MAX: usize = 256;

/// One app as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The name of the app.
    pub app: AppName,
    /// Its functions in the order of the text; at least one, at most [`FUNCTIONS_MAX`].
    pub functions: Vec<Function>,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The folder has none.
    #[error("there is no {} in {}", FILE_NAMES[0], folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is over [`MANIFEST_MAX_BYTES`].
    #[error("{} is over {MANIFEST_MAX_BYTES} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Something in the file is wrong; the text shows every place, over several lines.
    #[error(transparent)]
    Invalid(#[from] Problems),
}

impl Manifest {
    /// Reads the manifest of a folder, or the manifest at `path` itself, and checks its sources in the file system.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let file = find(path)?;
        let unreadable = |source| ManifestError::Unreadable { path: file.clone(), source };
        let mut text = Vec::new();
        std::fs::File::open(&file)
            .and_then(|file| file.take(MANIFEST_MAX_BYTES + 1).read_to_end(&mut text))
            .map_err(unreadable)?;
        if text.len() > usize::try_from(MANIFEST_MAX_BYTES).unwrap_or(usize::MAX) {
            return Err(ManifestError::TooLong { path: file });
        }
        let text = String::from_utf8(text)
            .map_err(|error| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, error)))?;
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        let format = match file.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => Format::Yaml,
            Some("json") => Format::Json,
            Some(_) | None => Format::Toml,
        };
        read(&file.display().to_string(), &text, format, Some(&folder)).map_err(ManifestError::from)
    }

    /// Reads the text of a manifest that errors call `name`, without looking at any source.
    pub fn parse(name: &str, text: &str, format: Format) -> Result<Self, Problems> {
        read(name, text, format, None)
    }
}

/// Returns the manifest of a folder, or `path` itself where it is no folder.
pub fn find(path: &Path) -> Result<PathBuf, ManifestError> {
    if !path.is_dir() {
        if path.exists() {
            return Ok(path.to_owned());
        }
        return Err(ManifestError::Unreadable {
            path: path.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        });
    }
    let candidates = FILE_NAMES.iter().map(|name| if path == Path::new(".") { name.into() } else { path.join(name) });
    candidates
        .into_iter()
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| ManifestError::Missing { folder: path.to_owned() })
}

fn read(name: &str, text: &str, format: Format, folder: Option<&Path>) -> Result<Manifest, Problems> {
    let show = |problems| Problems::show(name, text, problems);
    let root = tree::parse(text, format).map_err(show)?;
    let mut problems = Collector::default();
    let manifest = app(&root, folder, &mut problems);
    match (manifest, problems.finish()) {
        (Some(manifest), problems) if problems.is_empty() => Ok(manifest),
        (_, problems) => Err(show(problems)),
    }
}

fn app(root: &tree::Node, folder: Option<&Path>, problems: &mut Collector) -> Option<Manifest> {
    let entries = problems.table("a manifest", root)?;
    problems.check_keys("", entries, &["app", "function"], &[]);
    let top = 0..0;
    let app = match get(entries, "app") {
        Some(node) => problems.text("app", node, "shop").and_then(|text| match text.parse::<AppName>() {
            Ok(app) => Some(app),
            Err(error) => {
                problems.add(&node.span, error, "");
                None
            }
        }),
        None => {
            problems.add(&top, "the manifest has no app", "add app = \"NAME\" as its first line");
            None
        }
    };
    let functions = match get(entries, "function") {
        Some(node) => problems.table("function", node)?,
        None => &[],
    };
    if functions.is_empty() {
        problems.add(&top, "the manifest has no function", "add a table [function.NAME]");
    }
    if functions.len() > FUNCTIONS_MAX {
        let place = &functions[FUNCTIONS_MAX].key_span;
        problems.add(place, format!("the app has {} functions", functions.len()), format!("at most {FUNCTIONS_MAX}"));
        return None;
    }
    // Each is read even if an earlier one is wrong: the collector decides in the end.
    let functions: Vec<Option<Function>> =
        functions.iter().map(|entry| function::read(entry, folder, problems)).collect();
    Some(Manifest { app: app?, functions: functions.into_iter().collect::<Option<_>>()? })
}
