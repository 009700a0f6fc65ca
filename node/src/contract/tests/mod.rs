//! Runs real interpreters with the real bootstraps, as plain processes instead of in sandboxes.

mod nodejs;
mod python3;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::{
    Capture, Deadline, Framed, Identity, InitFailure, Invocation, LogSource, Outcome, OutputLimits, ReadyInfo,
    log_queue,
};

/// How long anything in these tests may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest answer the instances in these tests may give.
const ANSWER_MAX: usize = 1024 * 1024;

/// A language under test.
#[derive(Clone, Copy)]
enum Language {
    Python3,
    Nodejs,
}

/// One instance: an interpreter that runs a bootstrap, which listens on descriptor 3.
struct Instance {
    folder: TempDir,
    child: Child,
    pipes: Option<(pipe::Receiver, pipe::Receiver)>,
}

impl Instance {
    /// Starts an interpreter on a function made of the given files.
    fn start(language: Language, handler: &str, concurrency: usize, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("code");
        for (name, text) in files {
            let path = code.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let languages = Path::new(env!("CARGO_MANIFEST_DIR")).join("languages");
        let (program, bootstrap) = match language {
            Language::Python3 => ("python3", languages.join("python3/bootstrap.py")),
            Language::Nodejs => ("node", languages.join("nodejs/bootstrap.mjs")),
        };
        let listener = UnixListener::bind(folder.path().join("channel.sock")).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 0</dev/null"#, "sh", program])
            .arg(bootstrap)
            .env("HEARTH_HANDLER", handler)
            .env("HEARTH_CONCURRENCY", concurrency.to_string())
            .env("HEARTH_ANSWER_MAX", ANSWER_MAX.to_string())
            .env("LAMBDA_TASK_ROOT", &code)
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "stream-1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap().into_owned_fd().unwrap();
        let stderr = child.stderr.take().unwrap().into_owned_fd().unwrap();
        let pipes = (pipe::Receiver::from_owned_fd(stdout).unwrap(), pipe::Receiver::from_owned_fd(stderr).unwrap());
        Self { folder, child, pipes: Some(pipes) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("channel.sock")
    }

    /// Connects as a daemon does. Only the first daemon gets the pipes.
    async fn connect(&mut self) -> Daemon {
        let (stdout, stderr) = self.pipes.take().unzip();
        let (sink, lines) = log_queue();
        let capture = Capture::new(stdout, stderr, sink, OutputLimits::default(), now_us);
        let identity = Identity {
            function: "orders".to_owned(),
            version: "7".to_owned(),
            memory_mb: 256,
            arn: "arn:aws:lambda:local:0:function:orders:7".to_owned(),
            log_stream: "stream-1".to_owned(),
        };
        let framed = Framed::connect(&self.socket(), identity, Arc::clone(&capture), ANSWER_MAX).await.unwrap();
        Daemon { framed, capture, lines }
    }

    /// Waits for the process to end by itself and returns its exit code.
    async fn exit_code(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("the process ends").unwrap().code()
    }
}

/// The daemon's side of one instance.
struct Daemon {
    framed: Framed,
    capture: Arc<Capture>,
    lines: LogSource,
}

impl Daemon {
    async fn ready(&self) -> Result<ReadyInfo, InitFailure> {
        self.framed.ready(Instant::now() + PATIENCE).await
    }

    async fn invoke(&self, request_id: &str, event: &str) -> Outcome {
        self.framed.invoke(invocation(request_id, event, PATIENCE)).await
    }

    /// Invokes and returns the answer as JSON.
    async fn answer(&self, request_id: &str, event: &str) -> Value {
        match self.invoke(request_id, event).await {
            Outcome::Answer(bytes) => serde_json::from_slice(&bytes).unwrap(),
            other => panic!("no answer but {other:?}"),
        }
    }

    /// Invokes and returns the report of the function's failure.
    async fn failure(&self, request_id: &str, event: &str) -> Value {
        match self.invoke(request_id, event).await {
            Outcome::FunctionError(report) => serde_json::from_slice(&report.json).unwrap(),
            other => panic!("no failure but {other:?}"),
        }
    }

    /// Waits until the instance works on `count` invocations.
    async fn until_in_flight(&self, count: usize) {
        let mut in_flight = self.framed.in_flight();
        tokio::time::timeout(PATIENCE, in_flight.wait_for(|now| *now == count)).await.expect("it gets there").unwrap();
    }

    async fn line(&mut self) -> String {
        next_line(&mut self.lines, &self.capture).await
    }

    /// Hands over an invocation and goes away once the function has written its first line.
    async fn leave_behind(mut self, request_id: &str, event: &str) {
        self.ready().await.unwrap();
        let lost = self.framed.invoke(invocation(request_id, event, PATIENCE));
        tokio::select! {
            outcome = lost => panic!("it should take long, but {outcome:?}"),
            line = next_line(&mut self.lines, &self.capture) => assert!(line.starts_with(request_id), "{line}"),
        }
    }
}

/// Returns the next line, as `request-id stream text`.
async fn next_line(lines: &mut LogSource, capture: &Capture) -> String {
    let received = tokio::select! {
        received = tokio::time::timeout(PATIENCE, lines.recv()) => received,
        () = never_ends(capture) => unreachable!("the pipes were waited for"),
    };
    let line = received.expect("a line arrives").expect("the queue is open").line;
    format!("{} {:?} {}", line.request_id.as_deref().unwrap_or("-"), line.stream, line.text)
}

/// Reads the pipes for as long as somebody waits for it.
async fn never_ends(capture: &Capture) {
    capture.run().await;
    std::future::pending::<()>().await;
}

fn invocation(request_id: &str, event: &str, timeout: Duration) -> Invocation {
    let in_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    Invocation {
        request_id: Arc::from(request_id),
        event: Bytes::copy_from_slice(event.as_bytes()),
        deadline: Deadline { at: Instant::now() + timeout, epoch_ms: now_us() / 1000 + in_ms(timeout) },
        trace_id: Some("Root=1-2-3".to_owned()),
        client_context: Some(r#"{"custom":{"tier":"gold"},"client":{"app_title":"shop"}}"#.to_owned()),
    }
}

fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// Returns the middle of the samples, in microseconds.
fn median_us(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 2].as_secs_f64() * 1e6
}
