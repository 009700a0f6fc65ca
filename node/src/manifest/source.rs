//! Whether a function's source is there, and its handler in it.

use std::path::{Component, Path, PathBuf};

use control_plane::model::Runtime;

use super::function::Function;
use super::problem::Collector;

use std::ops::Range;

/// What a module of Python may be, after its path without ending.
const PYTHON_ENDINGS: [&str; 4] = [".py", "/__init__.py", ".pyc", ".so"];

/// What a module of Node.js may be, after its path without ending.
const NODEJS_ENDINGS: [&str; 7] = ["", ".js", ".mjs", ".cjs", "/index.js", "/index.mjs", "/index.cjs"];

/// Where the keys of a function that name files stand.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) source: Range<usize>,
    pub(super) handler: Range<usize>,
    pub(super) dependencies: Range<usize>,
    pub(super) command: Range<usize>,
}

/// Notes what is missing in the file system.
pub(super) fn check(function: &Function, places: &Places, problems: &mut Collector) {
    let Some(source) = &function.source else { return };
    if !source.exists() {
        problems.add(&places.source, format!("there is no {}", source.display()), "");
        problems.hint("the source is a path from the manifest's folder");
        return;
    }
    if function.runtime == Runtime::Image {
        return;
    }
    if let Some(dependencies) = &function.dependencies
        && !inside(source, dependencies).is_file()
    {
        let message = format!("there is no file {dependencies} in {}", source.display());
        problems.add(&places.dependencies, message, "");
        problems.hint("dependencies names a file inside the source");
    }
    if let Some(handler) = &function.handler {
        check_handler(function, source, handler, places, problems);
    }
    if function.runtime == Runtime::Provided {
        check_executable(function, source, places, problems);
    }
}

fn check_handler(function: &Function, source: &Path, handler: &str, places: &Places, problems: &mut Collector) {
    let Some((module, name)) = handler.rsplit_once('.') else { return };
    let found = match function.runtime {
        Runtime::Python3 => {
            // A module may also come with a dependency; then only the start of an instance can tell.
            let path = module.trim_start_matches(['.', '/']).replace('.', "/");
            function.dependencies.is_some() || has_module(source, &path, &PYTHON_ENDINGS)
        }
        // A property of what a module exports may follow the module: every point may be the end of its name.
        Runtime::Nodejs => {
            handler.match_indices('.').any(|(at, _)| has_module(source, &handler[..at], &NODEJS_ENDINGS))
        }
        Runtime::Provided | Runtime::Http | Runtime::Image => true,
    };
    if !found {
        let file = if function.runtime == Runtime::Nodejs { "mjs or .js" } else { "py" };
        let message = format!("there is no module {module} in {}", source.display());
        problems.add(&places.handler, message, "");
        problems.hint(format!("{handler} is {name}() in {module}.{file}"));
    }
}

fn has_module(source: &Path, path: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| inside(source, &format!("{path}{ending}")).is_file())
}

fn check_executable(function: &Function, source: &Path, places: &Places, problems: &mut Collector) {
    use std::os::unix::fs::PermissionsExt;

    let Some(program) = function.command.first() else { return };
    // What is not inside the source comes from the base.
    if !program.starts_with("./") {
        return;
    }
    let place = if places.command.is_empty() { &places.source } else { &places.command };
    let path = inside(source, program);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {}
        Ok(_) => {
            problems.add(place, format!("{} is not executable", path.display()), "");
            problems.hint(format!("chmod +x {}", path.display()));
        }
        Err(_) => {
            problems.add(place, format!("there is no executable {}", path.display()), "");
            problems.hint("build it first: a provided function runs an executable that polls the Lambda Runtime API");
        }
    }
}

/// Returns a path inside the source; where the source is one file, that file under its own name.
fn inside(source: &Path, path: &str) -> PathBuf {
    let plain: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if source.is_file() {
        let folder = source.parent().unwrap_or(Path::new(""));
        let file = folder.join(&plain);
        return if file == source { file } else { PathBuf::new() };
    }
    source.join(plain)
}
