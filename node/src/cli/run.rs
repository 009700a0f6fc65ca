//! Commands that run a node.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{Agent, Listen, Target};
use super::failure::Failure;
use crate::config::{Config, ConfigError, Layers};
use crate::daemon::{Daemon, Leave};
use crate::telemetry;

/// What only one of the two commands that run a node sets.
#[derive(Debug, Default)]
pub(super) struct Settings<'a> {
    /// A configuration file.
    pub(super) file: Option<&'a Path>,
    /// Keys and values above the environment.
    pub(super) flags: Vec<(&'static str, String)>,
    /// Keys and values below the environment.
    pub(super) defaults: Vec<(&'static str, &'static str)>,
}

/// Puts a node's configuration together: file, environment, flags.
pub(super) fn configure(target: &Target, listen: &Listen, settings: Settings<'_>) -> Result<Config, Failure> {
    let wrong = |error: crate::config::ConfigError| {
        let hint = match error {
            ConfigError::Unreadable { .. } => "--config names a file in TOML",
            ConfigError::TooNew { .. } => "leave it out, or start a newer version",
            ConfigError::TooLong { .. }
            | ConfigError::File(_)
            | ConfigError::Override { .. }
            | ConfigError::OutOfRange { .. } => "docs/reference/configuration.md lists every key",
        };
        Failure::exit(2, crate::error_chain::text(&error)).hint(hint)
    };
    let mut layers = Layers::new();
    if let Some(file) = settings.file {
        layers.file(file).map_err(wrong)?;
    }
    for (key, value) in settings.defaults {
        layers.set(key, value).map_err(wrong)?;
    }
    // These are flags of the commands already.
    let own = ["HEARTH_DATA_DIR", "HEARTH_ADDR", "HEARTH_TOKEN", "HEARTH_LOG", "HEARTH_JOIN_TOKEN"];
    let environment = std::env::vars().filter(|(name, _)| !own.contains(&name.as_str()));
    layers.environment(environment).map_err(wrong)?;
    let flags = [
        ("data-dir", target.data_dir.as_ref().map(|path| path.display().to_string())),
        ("bind", listen.bind.clone()),
        ("ports.gateway", listen.gateway_port.map(|port| port.to_string())),
        ("ports.api", listen.api_port.map(|port| port.to_string())),
        ("ports.peers", listen.peers_port.map(|port| port.to_string())),
        ("log.filter", listen.log.clone()),
        ("log.format", listen.log_format.clone()),
    ];
    let flags = flags.into_iter().filter_map(|(key, value)| Some((key, value?)));
    for (key, value) in flags.chain(settings.flags) {
        layers.set(key, &value).map_err(wrong)?;
    }
    layers.finish().map_err(wrong)
}

/// Starts a daemon or tells in one message why not.
pub(super) async fn start(config: Config) -> Result<Daemon, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::exit(5, "containers need root").hint("run it with sudo"));
    }
    Daemon::start(config).await.map_err(|error| {
        let hint = error.hint().unwrap_or_else(|| "`hearth doctor` checks this machine".to_owned());
        Failure::of(&error).hint(hint)
    })
}

/// Begins to log as it is configured.
pub(super) fn trace(config: &Config) -> Result<(), Failure> {
    telemetry::start_tracing(&config.log.filter, config.log.format).map_err(|error| {
        Failure::exit(2, crate::error_chain::text(&error)).hint("for example --log info,hearth::access=off")
    })
}

pub(super) async fn agent(target: &Target, arguments: Agent) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut flags = Vec::new();
    flags.extend(arguments.name.map(|name| ("name", name)));
    let zone = arguments.zone.map(|zone| format!("zone={zone}"));
    flags.extend(arguments.labels.into_iter().chain(zone).map(|label| ("labels", label)));
    flags.extend(arguments.advertise.map(|advertise| ("advertise", advertise)));
    flags.extend(arguments.feature_level.map(|level| ("feature-level", level.to_string())));
    // A token without a cluster to join is passed over, so that it may stay in the environment.
    if let (Some(address), Some(token)) = (arguments.join, arguments.token) {
        flags.extend([("join.address", address), ("join.token", token)]);
    }
    let settings = Settings { file: arguments.config.as_deref(), flags, defaults: Vec::new() };
    let config = configure(target, &arguments.listen, settings)?;
    trace(&config)?;
    let Some(started) = signals.unless_asked(start(config)).await else { return Ok(()) };
    let daemon = started?;
    tracing::info!(gateway = %daemon.gateway_address(), api = %daemon.api_address(), "serving");
    let outcome = tokio::select! {
        () = signals.asked() => Ok(()),
        error = daemon.failed() => Err(Failure::of(&error).hint(error.hint())),
    };
    daemon.stop(Leave::Running, signals.asked()).await;
    outcome
}

/// SIGTERM and Ctrl-C, from the moment this is made: before that they end the process at once.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("signals cannot be awaited: {error}")));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for the next of them; the second one means that whoever asked is in a hurry.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Does something that may be given up; returns nothing if it was.
    pub(super) async fn unless_asked<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.asked() => None,
        }
    }
}
