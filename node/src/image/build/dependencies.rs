//! What a function depends on, resolved by its language's own tool in a sandbox, as a layer.

use std::fs;
use std::path::Path;

use control_plane::model::{Digest, Runtime};

use super::super::layer::{Content, Layer};
use crate::contract::DEFAULTS;

use super::super::unpack::{UnpackLimits, unpack};
use super::super::{Store, blob};
use super::tool::{INPUTS, ToolSettings, make_readable};
use super::{BuildError, BuildRequest, Progress, RunRequest, Tools, VERSION, blocking, source};
use super::{nodejs, python};

/// Whose tool resolves dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    Nodejs,
}

/// The layer that holds what a function depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dependencies {
    pub(super) layer: Digest,
    pub(super) language: Language,
}

/// What a tool is run with: files for it are already in the folder of inputs.
#[derive(Debug)]
pub(super) struct Recipe {
    /// Program and arguments.
    pub(super) argv: Vec<String>,
    /// Variables beside those of the base.
    pub(super) env: Vec<(String, String)>,
    /// The folder of the image that gets what the tool makes.
    pub(super) target: &'static str,
}

impl Language {
    /// Returns the language whose tool lies under a function.
    pub(super) fn under(request: &BuildRequest) -> Option<Self> {
        let program = request.command.first().map(String::as_str);
        match (request.base.as_deref(), request.runtime, program) {
            (Some("python3"), ..) | (_, Runtime::Python3, _) | (None, Runtime::Http, Some("python3" | "python")) => {
                Some(Self::Python)
            }
            (Some("nodejs"), ..) | (_, Runtime::Nodejs, _) | (None, Runtime::Http, Some("node")) => Some(Self::Nodejs),
            // Over another base, the name of what is run tells.
            (Some(_), Runtime::Http | Runtime::Provided, Some(program)) if program.starts_with("python") => {
                Some(Self::Python)
            }
            (Some(_), Runtime::Http | Runtime::Provided, Some("node")) => Some(Self::Nodejs),
            _ => None,
        }
    }

    /// Returns the files of the source by which dependencies are named, of which the first must be there.
    fn lists(self, listed: &str) -> Vec<String> {
        match self {
            Self::Python => vec![listed.to_owned()],
            Self::Nodejs => nodejs::lists(listed),
        }
    }

    fn recipe(self, settings: &ToolSettings, program: &str, inputs: &Path) -> std::io::Result<Recipe> {
        match self {
            Self::Python => python::recipe(settings, program, inputs),
            Self::Nodejs => nodejs::recipe(settings, program, inputs),
        }
    }

    /// Returns the name that a list of dependencies has among the inputs.
    fn input(self, listed: &str) -> &str {
        match self {
            Self::Python => python::LIST,
            Self::Nodejs => listed.rsplit('/').next().unwrap_or(listed),
        }
    }
}

impl Store {
    /// Resolves what the function depends on, if anything; what was resolved from the same lists before is found again.
    pub(super) async fn dependencies(
        &self,
        request: &BuildRequest,
        base: Option<Digest>,
        tools: &dyn Tools,
        progress: Progress<'_>,
    ) -> Result<Option<Dependencies>, BuildError> {
        let (Some(listed), Some(base)) = (&request.dependencies, base) else { return Ok(None) };
        let language = Language::under(request).ok_or(BuildError::NoResolver(request.runtime))?;
        let mut lists = Vec::new();
        for (number, path) in language.lists(listed).iter().enumerate() {
            match source::read(&request.source, path) {
                Ok(bytes) => lists.push((language.input(path).to_owned(), bytes)),
                Err(error) if number == 0 => return Err(error),
                // A lock need not be there.
                Err(_) => {}
            }
        }
        let mut key = format!("{VERSION} {base}");
        for (name, bytes) in &lists {
            key += &format!(" {name} {}", blob::of(bytes));
        }
        let key = blob::of(key.as_bytes()).to_string();
        if let Some(layer) = self.remembered(&key) {
            return Ok(Some(Dependencies { layer, language }));
        }
        progress("resolving dependencies");
        let rootfs = self.rootfs(&base).await?;
        let work = tempfile::Builder::new().prefix("build-").tempdir_in(self.work_dir())?;
        let root = work.path().join("inputs");
        let inputs = root.join(INPUTS);
        fs::create_dir_all(&inputs)?;
        for (name, bytes) in &lists {
            fs::write(inputs.join(name), bytes)?;
        }
        let settings = tools.settings();
        let recipe = language.recipe(settings, &self.interpreter(&base, language)?, &inputs)?;
        make_readable(&root)?;
        let of_base = rootfs.config.env.iter().filter_map(|variable| variable.split_once('='));
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let env = DEFAULTS.into_iter().chain(of_base).map(own).chain(recipe.env).collect();
        let mut layers = rootfs.layers;
        layers.push(root);
        let output = work.path().join("output.tar");
        let run = RunRequest { layers, argv: recipe.argv, env, output: output.clone(), deadline: settings.deadline };
        let result = tools.run(run).await.map_err(BuildError::Dependencies)?;
        if !result.is_success {
            return Err(BuildError::Dependencies(result.errors));
        }
        let store = self.clone();
        let layer = blocking(move || {
            // Unpacked with every check and packed again: what came out of a sandbox is taken for nothing else.
            let tree = work.path().join("tree");
            fs::create_dir(&tree)?;
            unpack(&fs::File::open(&output)?, &tree, &UnpackLimits::default())
                .map_err(|error| BuildError::Dependencies(crate::error_chain::text(&error)))?;
            let mut layer = Layer::default();
            layer.add_tree(&tree, Path::new(recipe.target), &|_| false)?;
            if layer.is_empty() {
                layer.add(recipe.target, Content::Folder, true);
            }
            let (digest, _) = store.put_layer(&layer)?;
            store.remember(&key, digest)?;
            Ok(digest)
        })
        .await?;
        Ok(Some(Dependencies { layer, language }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_under_a_function_is_known_by_base_runtime_or_command() {
        let language = |runtime, base: Option<&str>, program: &str| {
            Language::under(&BuildRequest {
                runtime,
                source: "source".into(),
                command: if program.is_empty() { Vec::new() } else { vec![program.to_owned()] },
                dependencies: None,
                base: base.map(str::to_owned),
            })
        };
        assert_eq!(language(Runtime::Python3, None, ""), Some(Language::Python));
        assert_eq!(language(Runtime::Nodejs, Some("registry.local/node:20"), ""), Some(Language::Nodejs));
        assert_eq!(language(Runtime::Provided, Some("python3"), "python3"), Some(Language::Python));
        assert_eq!(language(Runtime::Http, None, "node"), Some(Language::Nodejs));
        assert_eq!(language(Runtime::Http, Some("slim"), "python3.12"), Some(Language::Python));
        assert_eq!(language(Runtime::Provided, None, ""), None);
        assert_eq!(language(Runtime::Http, None, "./server"), None);
    }
}
