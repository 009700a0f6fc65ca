//! Makes base images of what the machine has: an interpreter, or an executable, with the libraries it needs.
//!
//! Files keep their absolute paths, so that an interpreter finds its library where it always was.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::layer::{Content, Layer};

/// What to capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// The Python interpreter on the path, with its standard library and pip.
    Python3,
    /// Node.js on the path, with npm.
    Nodejs,
    /// One executable and the libraries it links.
    Executable(PathBuf),
}

/// Why nothing was captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The machine does not have the language.
    #[error("this machine has no {language}: {hint}")]
    LanguageMissing {
        /// The language.
        language: &'static str,
        /// What helps.
        hint: &'static str,
    },
    /// The interpreter does not say where it lives.
    #[error("{program} did not say where it lives: {reason}")]
    Silent {
        /// The interpreter.
        program: String,
        /// What it said instead.
        reason: String,
    },
    /// The executable is not there, or cannot be read.
    #[error("{path} cannot be captured")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was captured, on its way into a layer.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) layer: Layer,
    /// The program, by its path inside.
    pub(super) program: PathBuf,
}

/// Asks a Python interpreter where it lives; a `python3` on the path may be a script that finds one.
const ASK_PYTHON: &str = "import os,sys,sysconfig,json;print(json.dumps([os.path.realpath(sys.executable),sysconfig.get_path('stdlib'),sysconfig.get_path('purelib'),sys.implementation.cache_tag]))";

/// Folders of Python's library that no function needs.
const PYTHON_SKIPPED: [&str; 8] =
    ["test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages", "ensurepip"];

/// Bytes of the head of a compiled Python file: magic, flags, and two words that depend on the flags.
const PYC_HEAD: usize = 16;

/// Libraries that wheels for any Linux count on finding (PEP 599), and those by which the C library resolves names.
const WHEEL_LIBRARIES: [&str; 11] = [
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libm.so.6",
    "libdl.so.2",
    "librt.so.1",
    "libpthread.so.0",
    "libutil.so.1",
    "libresolv.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libz.so.1",
];

/// Where distributions keep their libraries.
const LIBRARY_FOLDERS: [&str; 5] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64"];

/// Where the certificates of public authorities usually are.
pub(super) const CERTIFICATES: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Gathers what a base is made of.
pub(super) fn gather(what: &Capture) -> Result<Captured, CaptureError> {
    match what {
        Capture::Python3 => python(),
        Capture::Nodejs => nodejs(),
        Capture::Executable(path) => {
            let mut layer = Layer::default();
            let program = path.canonicalize().map_err(io_at(path))?;
            add_program(&mut layer, &program, &mut BTreeSet::new())?;
            Ok(Captured { layer, program })
        }
    }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> CaptureError + '_ {
    |source| CaptureError::Io { path: path.to_path_buf(), source }
}

fn python() -> Result<Captured, CaptureError> {
    let missing = CaptureError::LanguageMissing { language: "python3", hint: "install it, or name a base image" };
    let Ok(output) = Command::new("python3").args(["-c", ASK_PYTHON]).output() else { return Err(missing) };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let silent = || CaptureError::Silent {
        program: "python3".to_owned(),
        reason: format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    };
    if !output.status.success() {
        return Err(silent());
    }
    let [program, library, packages, tag]: [String; 4] = serde_json::from_str(said.trim()).map_err(|_| silent())?;
    let (program, library) = (PathBuf::from(program), PathBuf::from(library));
    let mut layer = Layer::default();
    let mut libraries = BTreeSet::new();
    add_program(&mut layer, &program, &mut libraries)?;
    let skip = |inner: &Path| {
        let name = inner.file_name().unwrap_or_default().to_string_lossy();
        PYTHON_SKIPPED.contains(&&*name) || name.starts_with("config-") || name == "__pycache__"
    };
    add_python_tree(&mut layer, &library, &tag, &skip)?;
    let pip = Path::new(&packages).join("pip");
    if pip.is_dir() {
        add_python_tree(&mut layer, &pip, &tag, &|inner: &Path| {
            inner.file_name().is_some_and(|name| name == "__pycache__")
        })?;
    }
    let extensions = library.join("lib-dynload");
    if let Ok(entries) = std::fs::read_dir(&extensions) {
        for entry in entries.flatten() {
            add_libraries(&mut layer, &entry.path(), &mut libraries)?;
        }
    }
    for name in WHEEL_LIBRARIES {
        let found = LIBRARY_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
        if let Some(library) = found
            && libraries.insert(library.clone())
        {
            layer.add_file(&library, &library).map_err(io_at(&library))?;
            add_libraries(&mut layer, &library, &mut libraries)?;
        }
    }
    // Found as `python3` by whatever a function starts.
    layer.add("usr/bin/python3", Content::Link(program.clone()), false);
    add_certificates(&mut layer)?;
    Ok(Captured { layer, program })
}

/// Adds a tree of Python's with its compiled files, which are made to need no look at their sources: times are not kept
/// in a layer, and a sandbox cannot write what it compiles.
fn add_python_tree(
    layer: &mut Layer,
    source: &Path,
    tag: &str,
    skip: &dyn Fn(&Path) -> bool,
) -> Result<(), CaptureError> {
    layer.add_tree(source, source, skip).map_err(io_at(source))?;
    for entry in walkdir::WalkDir::new(source).sort_by_file_name().into_iter().flatten() {
        let path = entry.path();
        let inner = path.strip_prefix(source).unwrap_or(path);
        let is_skipped = inner.ancestors().any(|part| {
            !part.as_os_str().is_empty() && skip(part) && part.file_name().is_some_and(|name| name != "__pycache__")
        });
        let Some(stem) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".py"))
        else {
            continue;
        };
        if is_skipped {
            continue;
        }
        let Some(folder) = path.parent() else { continue };
        let compiled = folder.join("__pycache__").join(format!("{stem}.{tag}.pyc"));
        if let Some(head) = unchecked(path, &compiled) {
            layer.add(&compiled, Content::Reheaded(compiled.clone(), head), false);
        }
    }
    Ok(())
}

/// Returns the head with which Python takes a compiled file without looking at its source, if it was compiled from the source that is there.
///
/// See "Cached bytecode invalidation" in the Python reference: flags 1 means by hash, unchecked.
fn unchecked(source: &Path, compiled: &Path) -> Option<Vec<u8>> {
    let metadata = std::fs::metadata(source).ok()?;
    let mut head = vec![0; PYC_HEAD];
    std::fs::File::open(compiled).ok()?.read_exact(&mut head).ok()?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let modified = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let is_current = word(4) == 0
        && u64::from(word(8)) == modified & 0xffff_ffff
        && u64::from(word(12)) == metadata.len() & 0xffff_ffff;
    if !is_current && word(4) & 1 == 0 {
        return None;
    }
    head[4..].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Some(head)
}

fn nodejs() -> Result<Captured, CaptureError> {
    let missing = CaptureError::LanguageMissing { language: "nodejs", hint: "install it, or name a base image" };
    let Ok(output) = Command::new("node").args(["-p", "process.execPath"]).output() else { return Err(missing) };
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(CaptureError::Silent { program: "node".to_owned(), reason });
    }
    let said = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let program = said.canonicalize().map_err(io_at(&said))?;
    let mut layer = Layer::default();
    add_program(&mut layer, &program, &mut BTreeSet::new())?;
    let shared = program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
    let npm = shared.join("lib/node_modules/npm");
    if npm.is_dir() {
        layer.add_tree(&npm, &npm, &|inner| inner.ends_with("docs") || inner.ends_with("man")).map_err(io_at(&npm))?;
        layer.add("usr/bin/npm", Content::Link(npm.join("bin/npm-cli.js")), false);
    }
    if program != Path::new("/usr/bin/node") {
        layer.add("usr/bin/node", Content::Link(program.clone()), false);
    }
    add_certificates(&mut layer)?;
    Ok(Captured { layer, program })
}

fn add_certificates(layer: &mut Layer) -> Result<(), CaptureError> {
    for path in CERTIFICATES.map(Path::new) {
        if path.exists() {
            layer.add_file(path, path).map_err(io_at(path))?;
        }
    }
    Ok(())
}

/// Adds an executable and the libraries it links.
pub(super) fn add_program(
    layer: &mut Layer,
    program: &Path,
    known: &mut BTreeSet<PathBuf>,
) -> Result<(), CaptureError> {
    layer.add_file(program, program).map_err(io_at(program))?;
    add_libraries(layer, program, known)
}

/// Adds the shared libraries of a file of the host, as the loader finds them, and the loader itself.
pub(super) fn add_libraries(
    layer: &mut Layer,
    program: &Path,
    known: &mut BTreeSet<PathBuf>,
) -> Result<(), CaptureError> {
    let Some(loader) = loader() else { return Ok(()) };
    let output = Command::new(&loader).arg("--list").arg(program).output().map_err(io_at(&loader))?;
    if !output.status.success() {
        // Static, or a script: nothing is linked.
        return Ok(());
    }
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries = listed.lines().filter_map(|line| {
        let line = line.split_once(" => ").map_or(line, |(_, path)| path).trim();
        let path = line.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    for library in libraries.chain([loader.clone()]) {
        if known.insert(library.clone()) && library.exists() {
            layer.add_file(&library, &library).map_err(io_at(&library))?;
        }
    }
    Ok(())
}

/// Returns the loader of dynamic executables.
fn loader() -> Option<PathBuf> {
    ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}
