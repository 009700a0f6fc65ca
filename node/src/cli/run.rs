//! Commands that run a node, and the check whether one can run here.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::args::{Agent, Listen, Target};
use super::failure::Failure;
use super::output;
use crate::config::{Config, Layers};
use crate::daemon::{Daemon, Leave, StartError};
use crate::{data_dir, sandbox, telemetry};

/// Puts a node's configuration together: file, environment, flags.
pub(super) fn configure(
    target: &Target,
    file: Option<&Path>,
    name: Option<&str>,
    listen: &Listen,
) -> Result<Config, Failure> {
    let wrong = |error: crate::config::ConfigError| Failure::exit(2, error.to_string());
    let mut layers = Layers::new();
    if let Some(file) = file {
        layers.file(file).map_err(wrong)?;
    }
    // These are the client's, and of the commands' own flags.
    let own = ["HEARTH_DATA_DIR", "HEARTH_ADDR", "HEARTH_TOKEN", "HEARTH_LOG", "HEARTH_LOG_FORMAT"];
    let environment = std::env::vars().filter(|(name, _)| !own.contains(&name.as_str()));
    layers.environment(environment).map_err(wrong)?;
    let flags = [
        ("data-dir", target.data_dir.as_ref().map(|path| path.display().to_string())),
        ("name", name.map(str::to_owned)),
        ("bind", listen.bind.clone()),
        ("ports.gateway", listen.gateway_port.map(|port| port.to_string())),
        ("ports.api", listen.api_port.map(|port| port.to_string())),
    ];
    for (key, value) in flags {
        if let Some(value) = value {
            layers.set(key, &value).map_err(wrong)?;
        }
    }
    layers.finish().map_err(wrong)
}

/// Starts a daemon or tells in one message why not.
pub(super) async fn start(config: Config) -> Result<Daemon, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::exit(5, "containers need root").hint("run it with sudo"));
    }
    Daemon::start(config).await.map_err(|error| {
        let failure = Failure::of(&error);
        match &error {
            StartError::DataDir(data_dir::OpenError::Locked { .. }) => {
                failure.hint("talk to it with --data-dir, or choose another data directory")
            }
            StartError::DataDir(data_dir::OpenError::NewerFormat { .. }) => failure.hint("use a newer version"),
            StartError::Listen { .. } | StartError::Api(_) => {
                failure.hint("choose other ports with --gateway-port and --api-port")
            }
            StartError::Sandboxes(sandbox::StartError::NoCgroups) => failure.hint("mount cgroups, then try again"),
            StartError::Raft(_) => failure.hint("restore the data directory from a backup, or start with an empty one"),
            StartError::DataDir(_)
            | StartError::Token(_)
            | StartError::Index(_)
            | StartError::Logs(_)
            | StartError::Images(_)
            | StartError::Sandboxes(_)
            | StartError::Register(_)
            | StartError::Capacity(_)
            | StartError::Executable(_) => failure.hint("`hearth doctor` checks this machine"),
        }
    })
}

/// Begins to log as the environment says.
pub(super) fn trace(default: &str) -> Result<(), Failure> {
    let filter = std::env::var("HEARTH_LOG").unwrap_or_else(|_| default.to_owned());
    let format = std::env::var("HEARTH_LOG_FORMAT").ok();
    telemetry::start_tracing(Some(&filter), format.as_deref()).map_err(|error| Failure::exit(2, error.to_string()))
}

pub(super) async fn agent(target: &Target, arguments: Agent) -> Result<(), Failure> {
    trace("info,openraft=warn")?;
    let config = configure(target, arguments.config.as_deref(), arguments.name.as_deref(), &arguments.listen)?;
    let daemon = start(config).await?;
    tracing::info!(gateway = %daemon.gateway_address(), api = %daemon.api_address(), "serving");
    let outcome = tokio::select! {
        () = asked_to_stop() => Ok(()),
        reason = daemon.failed() => Err(Failure::new(format!("the node cannot go on: {reason}"))
            .hint("is the disk full? nothing acknowledged is lost; start it again")),
    };
    daemon.stop(Leave::Running).await;
    outcome
}

/// Waits for SIGTERM or Ctrl-C.
pub(super) async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Checks this machine, a line for each thing.
pub(super) fn doctor() -> Result<(), Failure> {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let namespaces = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let has = |program: &str| {
        let path = std::env::var("PATH").unwrap_or_default();
        path.split(':').any(|folder| Path::new(folder).join(program).exists())
    };
    let cgroups =
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new("/sys/fs/cgroup/memory").exists();
    let checks = [
        ("root", nix::unistd::geteuid().is_root(), "run as root: containers need it"),
        ("cgroups", cgroups, "mount cgroups at /sys/fs/cgroup"),
        ("overlay", filesystems.contains("overlay"), "modprobe overlay"),
        (
            "namespaces",
            namespaces.iter().all(|kind| Path::new("/proc/self/ns").join(kind).exists()),
            "the kernel needs all kinds of namespaces",
        ),
        ("tmpfs at /run", filesystems.contains("tmpfs"), "the kernel needs tmpfs"),
        ("python3", has("python3"), "install it to run functions in Python without a base image"),
        ("nodejs", has("node"), "install it to run functions in Node.js without a base image"),
    ];
    for (what, is_fine, _) in &checks {
        output::line(&format!("{} {what}", if *is_fine { "ok     " } else { "missing" }))?;
    }
    let missing: Vec<&str> = checks.iter().filter(|(_, is_fine, _)| !is_fine).map(|(_, _, hint)| *hint).collect();
    for hint in &missing {
        output::say(&format!("hint: {hint}"));
    }
    if missing.is_empty() { Ok(()) } else { Err(Failure::new("this machine lacks something")) }
}
