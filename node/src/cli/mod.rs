//! The command line: a client of the API like any other, and the two commands that run a node.

mod apply;
mod args;
mod args_bench;
mod args_cluster;
mod args_sim;
mod bench;
mod change;
mod client;
mod cluster;
mod dev;
mod doctor;
mod failure;
mod fmt;
mod image;
mod look;
mod output;
#[cfg(test)]
mod reference;
mod run;
mod sim;
mod snapshot;
mod upload;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command};
use self::args_bench::BenchKind;
use self::failure::Failure;
use crate::{heap, priority};

/// Runs the command that this process was started with and returns its exit code.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap knows which stream and which code is right.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let goes_first = match &arguments.command {
        Command::Dev(_) | Command::Agent(_) | Command::BenchVoter(_) => true,
        // A client that shares the machine with the voters it drives, all of which go first, would be starved by them.
        Command::Bench(bench) => matches!(bench.kind, BenchKind::Commits(_) | BenchKind::Reads(_)),
        _ => false,
    };
    if goes_first {
        priority::go_first();
        heap::keep_little();
    }
    let result = match arguments.command {
        // These two are the node, and this one makes sandboxes as a node does: they need all cores.
        Command::Dev(_) | Command::Agent(_) | Command::Bench(_) => runtime(true),
        _ => runtime(false),
    }
    .and_then(|runtime| runtime.block_on(execute(arguments)));
    crate::telemetry::flush_tracing();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::say(&failure.to_string());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn runtime(is_node: bool) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = if is_node {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build().map_err(|error| Failure::new(format!("no runtime: {error}")))
}

async fn execute(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { target, command } = arguments;
    match command {
        Command::Dev(dev) => dev::dev(&target, dev).await,
        Command::Agent(agent) => run::agent(&target, agent).await,
        Command::Init(init) => change::init(&init),
        Command::Validate { path } => apply::validate(&path),
        Command::Fmt(arguments) => fmt::fmt(&arguments),
        Command::Schema => output::json(&crate::manifest::schema()),
        Command::Plan(plan) => apply::plan(&target, plan).await,
        Command::Apply(apply) => apply::apply(&target, apply).await,
        Command::Invoke(invoke) => change::invoke(&target, invoke).await,
        Command::Logs(logs) => look::logs(&target, logs).await,
        Command::Get(get) => look::get(&target, get).await,
        Command::Describe(get) => look::describe(&target, get).await,
        Command::Versions { function, output } => look::versions(&target, &function, output).await,
        Command::Rollback { function, to } => change::rollback(&target, &function, to).await,
        Command::Scale(scale) => change::scale(&target, scale).await,
        Command::Delete(delete) => change::delete(&target, delete).await,
        Command::Cluster(command) => cluster::cluster(&target, command).await,
        Command::Node(command) => cluster::node(&target, command).await,
        Command::Token(command) => cluster::token(&target, command).await,
        Command::Snapshot(command) => snapshot::snapshot(&target, command).await,
        Command::Image(image) => image::image(&target, image).await,
        Command::Sim(command) => sim::sim(command),
        Command::Bench(arguments) => bench::bench(arguments).await,
        Command::BenchVoter(arguments) => bench::voter(arguments).await,
        Command::Doctor { output } => doctor::doctor(&target, output),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let mut command = <Arguments as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "hearth", &mut script);
            output::bytes(&script)
        }
        Command::Version { output } => version(output),
    }
}

/// Prints the version of this binary; a node's own is in `hearth describe node`.
fn version(format: args::Format) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        args::Format::Table => output::line(&format!("hearth {version}")),
        args::Format::Name => output::line(version),
        args::Format::Json | args::Format::Jsonl | args::Format::Yaml => {
            let arch = std::env::consts::ARCH;
            output::document(format, &serde_json::json!({"name": "hearth", "version": version, "arch": arch}))
        }
    }
}
