//! Other OCI runtimes that run the same container, and the bare exec below all of them.

use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{BenchError, PATIENCE, find, io_at};
use crate::sandbox::LaunchRequest;
use crate::sandbox::bundle::{Filter, equal_to};

/// Counts containers, so that no two have the same name.
static CONTAINERS: AtomicUsize = AtomicUsize::new(1);

/// An OCI runtime with bundles of the container that is compared.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    program: PathBuf,
    state: PathBuf,
    /// One for each container that runs at the same time.
    bundles: Vec<PathBuf>,
}

impl Peer {
    /// Prepares a runtime, if it is installed, to run containers equal to the sandbox of a request below `folder`.
    pub(super) fn prepare(
        runtime: &str,
        request: &LaunchRequest,
        filter: Filter,
        folder: &Path,
        at_once: usize,
    ) -> Result<Option<Self>, BenchError> {
        let Some(program) = find(runtime) else { return Ok(None) };
        let Some(root) = request.layers.first() else { return Ok(None) };
        let what = io_at("the bundle of another runtime cannot be written");
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = if filter == Filter::Equal { "filtered" } else { "open" };
        let place = folder.join(format!("{runtime}-{kind}"));
        let mut bundles = Vec::new();
        for number in 0..at_once {
            let bundle = place.join(number.to_string());
            fs::create_dir_all(&bundle).map_err(&what)?;
            let cgroup = format!("/{name}-{runtime}-{kind}-{number}");
            let config = equal_to(request, runtime, &cgroup, root, filter);
            fs::write(bundle.join("config.json"), config.to_string()).map_err(&what)?;
            bundles.push(bundle);
        }
        Ok(Some(Self { program, state: place.join("state"), bundles }))
    }

    /// Runs one container to its end and returns the time from the decision to its first byte.
    pub(super) fn first_byte(&self, bundle: usize) -> Result<Duration, BenchError> {
        let number = CONTAINERS.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).arg("run").arg("--bundle").arg(&self.bundles[bundle]);
        command.arg(format!("bench-{}-{number}", std::process::id()));
        first_byte(command)
    }
}

/// Starts a program and returns the time until the first byte of its output; waits for its end after that.
pub(super) fn first_byte(mut command: Command) -> Result<Duration, BenchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |reason: String| BenchError::Program { program: program.clone(), reason };
    let at = |error: io::Error| failed(error.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().map_err(at)?;
    let mut output = child.stdout.take().ok_or_else(|| failed("it has no output".to_owned()))?;
    let mut byte = [0];
    let read = wait_readable(&output).and_then(|()| output.read(&mut byte));
    let took = start.elapsed();
    if !matches!(read, Ok(1)) {
        let _ = child.kill();
    }
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What is no text says nothing to a person either.
        let _ = stderr.read_to_string(&mut errors);
    }
    child.wait().map_err(at)?;
    match read {
        Ok(1) => Ok(took),
        Ok(_) => Err(failed(errors.trim().to_owned())),
        Err(error) => Err(at(error)),
    }
}

fn wait_readable(descriptor: &impl AsFd) -> io::Result<()> {
    let timeout = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    let mut descriptors = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    match nix::poll::poll(&mut descriptors, timeout)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
