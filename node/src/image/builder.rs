//! Code and dependencies into an image.
//!
//! An image has up to four layers: the base (captured once), our bootstrap for the runtimes that have one, dependencies, code.
//! Each is found again by what it was made from, so that an edited handler costs only the code layer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_plane::model::{Digest, Runtime};
use futures_util::future::BoxFuture;

use super::blob;
use super::capture::{Capture, CaptureError, Captured, add_libraries, gather};
use super::layer::{Content, Layer};
use super::oci::{self, Config, Descriptor, Execution, Manifest, RootFs};
use super::{RootfsError, Store};

/// Where the code lies in an image.
const TASK_ROOT: &str = "var/task";

/// Where Python's dependencies lie in an image.
const PYTHON_PACKAGES: &str = "opt/python";

/// Bytes of source that a function may have.
pub const SOURCE_MAX: u64 = 512 << 20;

/// How long resolving dependencies may take.
const DEPENDENCIES_MAX: Duration = Duration::from_secs(600);

/// Changes whenever the same source gives another image.
const VERSION: &str = "1";

/// Names that are never part of a source.
const SKIPPED: [&str; 4] = [".git", "__pycache__", ".DS_Store", ".hearthignore"];

const PYTHON_BOOTSTRAP: &str = include_str!("../../languages/python3/bootstrap.py");
const NODEJS_BOOTSTRAP: &str = include_str!("../../languages/nodejs/bootstrap.mjs");

/// Resolves Python dependencies into a folder and writes that as a tar to standard output; pip speaks on standard error.
const PIP: &str = r#"
import subprocess, sys, tarfile
code = subprocess.call([sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir",
    "--target", "/tmp/out", "-r", sys.argv[1]], stdout=sys.stderr)
if code: sys.exit(code)
def plain(entry):
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return None if "__pycache__" in entry.name.split("/") else entry
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
    tar.add("/tmp/out", arcname=".", filter=plain)
"#;

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
    /// This version resolves dependencies for Python alone.
    #[error("dependencies of runtime {0} are not resolved yet")]
    NoResolver(Runtime),
    /// The store cannot be read or written.
    #[error("the image store failed")]
    Store(#[from] io::Error),
    /// The base cannot be used.
    #[error("the base cannot be used")]
    Base(#[from] RootfsError),
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
        let store = self.clone();
        let source = request.clone();
        let code = blocking(move || store.code_layer(&source)).await?;
        let base = self.base(&request, progress).await?;
        let dependencies = self.dependency_layer(&request, &base, tools, progress).await?;
        let store = self.clone();
        blocking(move || store.assemble(&request, base, dependencies, code)).await
    }

    /// Packs the source.
    fn code_layer(&self, request: &BuildRequest) -> Result<Digest, BuildError> {
        let mut layer = Layer::default();
        let skip = |inner: &Path| inner.file_name().is_some_and(|name| SKIPPED.contains(&&*name.to_string_lossy()));
        layer.add_tree(&request.source, Path::new(TASK_ROOT), &skip)?;
        let size = layer.size()?;
        if size > SOURCE_MAX {
            return Err(BuildError::TooLarge { size });
        }
        if let Some(program) = own_program(request) {
            let path = request.source.join(&program);
            if !path.is_file() {
                return Err(BuildError::Missing { path: program });
            }
            let mut known = std::collections::BTreeSet::new();
            if request.base.is_none() {
                add_libraries(&mut layer, &path, &mut known)?;
            }
            layer.add(Path::new(TASK_ROOT).join(&program), Content::Host(path), true);
        }
        Ok(self.put_layer(&layer)?.0)
    }

    /// Returns the image under the code, captured where nothing else is named; none where a static executable needs none.
    async fn base(&self, request: &BuildRequest, progress: Progress<'_>) -> Result<Option<Digest>, BuildError> {
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

    /// Resolves what the function depends on, if anything.
    async fn dependency_layer(
        &self,
        request: &BuildRequest,
        base: &Option<Digest>,
        tools: &dyn Tools,
        progress: Progress<'_>,
    ) -> Result<Option<Digest>, BuildError> {
        let (Some(listed), Some(base)) = (&request.dependencies, base) else { return Ok(None) };
        if !base_is_python(request) {
            return Err(BuildError::NoResolver(request.runtime));
        }
        let path = request.source.join(listed);
        let bytes = fs::read(&path).map_err(|_| BuildError::Missing { path: listed.clone() })?;
        let key = blob::of(format!("{VERSION} {base} {}", blob::of(&bytes)).as_bytes()).to_string();
        if let Some(known) = self.remembered(&key) {
            return Ok(Some(known));
        }
        progress("resolving dependencies");
        let rootfs = self.rootfs(base).await?;
        let work = tempfile::Builder::new().prefix("build-").tempdir_in(self.work_dir())?;
        let inputs = work.path().join("inputs");
        fs::create_dir_all(inputs.join("opt/hearth-build"))?;
        fs::write(inputs.join("opt/hearth-build/requirements.txt"), &bytes)?;
        make_readable(&inputs)?;
        let output = work.path().join("output.tar");
        let mut env: BTreeMap<String, String> = std::env::vars().filter(|(name, _)| name.starts_with("PIP_")).collect();
        for variable in &rootfs.config.env {
            if let Some((name, value)) = variable.split_once('=') {
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        env.insert("HOME".to_owned(), "/tmp".to_owned());
        let interpreter = rootfs.config.entrypoint.first().cloned().unwrap_or_else(|| "python3".to_owned());
        let mut layers = rootfs.layers;
        layers.push(inputs);
        let run = RunRequest {
            layers,
            argv: [&interpreter, "-c", PIP, "/opt/hearth-build/requirements.txt"].map(str::to_owned).to_vec(),
            env,
            output: output.clone(),
            deadline: DEPENDENCIES_MAX,
        };
        let result = tools.run(run).await.map_err(BuildError::Dependencies)?;
        if !result.is_success {
            return Err(BuildError::Dependencies(result.errors));
        }
        let store = self.clone();
        let digest = blocking(move || {
            // Unpacked with every check and packed again: what came out of a sandbox is taken for nothing else.
            let tree = work.path().join("tree");
            fs::create_dir(&tree)?;
            super::unpack::unpack(fs::File::open(&output)?, &tree, &super::unpack::UnpackLimits::default())
                .map_err(|error| BuildError::Dependencies(error.to_string()))?;
            let mut layer = Layer::default();
            layer.add_tree(&tree, Path::new(PYTHON_PACKAGES), &|_| false)?;
            if layer.is_empty() {
                layer.add(PYTHON_PACKAGES, Content::Folder, true);
            }
            let (digest, _) = store.put_layer(&layer)?;
            store.remember(&key, digest)?;
            Ok(digest)
        })
        .await?;
        Ok(Some(digest))
    }

    /// Puts the layers together.
    fn assemble(
        &self,
        request: &BuildRequest,
        base: Option<Digest>,
        dependencies: Option<Digest>,
        code: Digest,
    ) -> Result<Built, BuildError> {
        let mut layers = Vec::new();
        let mut execution = Execution::default();
        let mut interpreter = None;
        if let Some(base) = base {
            let (manifest, config) = self.image(&base)?;
            for layer in &manifest.layers {
                layers.push(layer.digest.parse().map_err(io::Error::other)?);
            }
            interpreter = config.config.entrypoint.as_ref().and_then(|entrypoint| entrypoint.first().cloned());
            execution = config.config;
        }
        let bootstrap = match request.runtime {
            Runtime::Python3 => Some(("bootstrap.py", PYTHON_BOOTSTRAP)),
            Runtime::Nodejs => Some(("bootstrap.mjs", NODEJS_BOOTSTRAP)),
            Runtime::Provided | Runtime::Http | Runtime::Image => None,
        };
        if let Some((name, text)) = bootstrap {
            let mut layer = Layer::default();
            layer.add(Path::new("opt/hearth").join(name), Content::Bytes(text.as_bytes().to_vec()), false);
            layers.push(self.put_layer(&layer)?.0);
            let interpreter = interpreter.unwrap_or_else(|| "python3".to_owned());
            execution.entrypoint = Some(vec![interpreter, format!("/opt/hearth/{name}")]);
            execution.cmd = None;
        } else if !request.command.is_empty() || request.runtime == Runtime::Provided {
            let command =
                if request.command.is_empty() { vec!["./bootstrap".to_owned()] } else { request.command.clone() };
            execution.entrypoint = Some(command);
            execution.cmd = None;
        }
        if let Some(dependencies) = dependencies {
            layers.push(dependencies);
            execution.env.get_or_insert_default().push("PYTHONPATH=/opt/python".to_owned());
        }
        layers.push(code);
        execution.working_dir = Some(format!("/{TASK_ROOT}"));
        let manifest_before = self.image_count()?;
        let image = self.put_image(&layers, execution)?;
        let reused = self.image_count()? == manifest_before;
        Ok(Built { image, reused, size_bytes: self.size(&image)? })
    }

    /// Keeps an image of layers that are in the store.
    fn put_image(&self, layers: &[Digest], execution: Execution) -> io::Result<Digest> {
        let config = Config {
            architecture: oci::architecture().to_owned(),
            os: "linux".to_owned(),
            config: execution,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: layers.iter().map(Digest::to_string).collect() },
        };
        let config = serde_json::to_vec(&config)?;
        let config_digest = self.blobs().put(&config)?;
        let size = u64::try_from(config.len()).map_err(io::Error::other)?;
        let layers = layers
            .iter()
            .map(|digest| {
                let size = fs::metadata(self.blobs().path(digest))?.len();
                Ok(Descriptor::new(oci::LAYER, digest, size))
            })
            .collect::<io::Result<_>>()?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(oci::MANIFEST.to_owned()),
            config: Descriptor::new(oci::CONFIG, &config_digest, size),
            layers,
        };
        let image = self.blobs().put(&serde_json::to_vec(&manifest)?)?;
        self.list_image(image)?;
        Ok(image)
    }

    fn put_layer(&self, layer: &Layer) -> io::Result<(Digest, u64)> {
        let mut blob = self.blobs().create()?;
        let mut buffered = io::BufWriter::new(&mut blob);
        layer.write(&mut buffered)?;
        drop(buffered);
        blob.finish()
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

/// Returns whether what lies under the function has pip.
fn base_is_python(request: &BuildRequest) -> bool {
    if request.base.as_deref() == Some("python3") {
        return true;
    }
    match request.runtime {
        Runtime::Python3 => true,
        Runtime::Http => request.command.first().is_some_and(|program| program.starts_with("python")),
        Runtime::Nodejs | Runtime::Provided | Runtime::Image => false,
    }
}

/// Lets the users of sandboxes read a folder of inputs.
fn make_readable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
        let mode = if entry.file_type().is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Does something that reads and writes files aside from the threads that serve.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| BuildError::Store(io::Error::other(error)))?
}
