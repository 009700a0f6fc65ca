//! Runs the tools of builds, such as pip, in sandboxes with a way out.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::image::{RunOutput, RunRequest, ToolSettings, Tools};
use crate::sandbox::{LaunchRequest, Limits, Network, Process, Sandboxes, Start};

/// What a tool may use: wheels are built here now and then.
const LIMITS: Limits = Limits { memory_bytes: 4 << 30, cpu_milli: 4_000, pids: 1024, tmp_bytes: 4 << 30 };

/// The user inside the sandbox.
const USER: u32 = 1000;

/// Bytes of standard error that are kept: its end says why a tool failed.
const ERRORS_MAX: usize = 8 * 1024;

/// Counts the runs of this process.
static RUNS: AtomicU64 = AtomicU64::new(1);

/// Tools in sandboxes of this node.
#[derive(Clone, Debug)]
pub struct SandboxTools {
    /// Where sandboxes come from.
    pub sandboxes: Sandboxes,
    /// How tools are run.
    pub settings: ToolSettings,
}

impl Tools for SandboxTools {
    fn run(&self, request: RunRequest) -> BoxFuture<'_, Result<RunOutput, String>> {
        self.run_tool(request).boxed()
    }

    fn settings(&self) -> &ToolSettings {
        &self.settings
    }
}

impl SandboxTools {
    async fn run_tool(&self, request: RunRequest) -> Result<RunOutput, String> {
        let launch = LaunchRequest {
            id: format!("build-{}", RUNS.fetch_add(1, Ordering::Relaxed)),
            layers: request.layers,
            process: Process {
                argv: request.argv,
                env: request.env.into_iter().collect(),
                cwd: "/tmp".to_owned(),
                uid: USER,
                gid: USER,
            },
            limits: LIMITS,
            network: Network::Host,
            channel: false,
            loopback_port: None,
            start: Start::Exec,
            label: String::new(),
        };
        let mut file = tokio::fs::File::create(&request.output).await.map_err(|error| error.to_string())?;
        let sandbox = self.sandboxes.launch(launch).await.map_err(|error| error.to_string())?;
        let mut output = sandbox.take_output().ok_or("the output of a tool was taken already")?;
        let mut errors = Vec::new();
        let exchange = async {
            let (mut out, mut err) = (vec![0; 1 << 16], vec![0; 1 << 12]);
            let mut exit = None;
            loop {
                tokio::select! {
                    biased;
                    count = output.stdout.read(&mut out) => {
                        let count = count?;
                        file.write_all(&out[..count]).await?;
                        if count == 0 {
                            break;
                        }
                    }
                    count = output.stderr.read(&mut err) => {
                        errors.extend_from_slice(&err[..count?]);
                        let surplus = errors.len().saturating_sub(ERRORS_MAX);
                        errors.drain(..surplus);
                    }
                    ended = sandbox.wait(), if exit.is_none() => exit = Some(ended),
                }
            }
            file.flush().await?;
            Ok::<_, std::io::Error>(match exit {
                Some(exit) => exit,
                None => sandbox.wait().await,
            })
        };
        let result = tokio::time::timeout(request.deadline, exchange).await;
        sandbox.destroy().await;
        let exit = result
            .map_err(|_| format!("it took longer than {:?}", request.deadline))?
            .map_err(|error| error.to_string())?;
        let errors = String::from_utf8_lossy(&errors).into_owned();
        Ok(RunOutput { is_success: exit.code == Some(0), errors })
    }
}
