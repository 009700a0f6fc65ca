//! Dependencies of Python, resolved by pip in a sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use control_plane::model::{Digest, Runtime};

use super::super::layer::{Content, Layer};
use super::super::unpack::{UnpackLimits, unpack};
use super::super::{Store, blob};
use super::tool::make_readable;
use super::{BuildError, BuildRequest, Progress, RunRequest, Tools, VERSION, blocking};

/// Where Python's dependencies lie in an image.
const PYTHON_PACKAGES: &str = "opt/python";

/// How long resolving dependencies may take.
const DEPENDENCIES_MAX: Duration = Duration::from_secs(600);

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

impl Store {
    /// Resolves what the function depends on, if anything.
    pub(super) async fn dependency_layer(
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
        let interpreter = self.interpreter(base, request.runtime)?;
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
            unpack(&fs::File::open(&output)?, &tree, &UnpackLimits::default())
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
