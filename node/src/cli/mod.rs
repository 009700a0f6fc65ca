//! The command line: a client of the API like any other, and the two commands that run a node.

mod apply;
mod args;
mod bench;
mod change;
mod client;
mod dev;
mod failure;
mod look;
mod output;
mod run;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command};
use self::failure::Failure;

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
    let result = match arguments.command {
        // These two are the node, and this one makes sandboxes as a node does: they need all cores.
        Command::Dev(_) | Command::Agent(_) | Command::Bench(_) => runtime(true),
        _ => runtime(false),
    }
    .and_then(|runtime| runtime.block_on(execute(arguments)));
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
        Command::Image(image) => change::image(&target, image).await,
        Command::Bench(arguments) => bench::bench(arguments).await,
        Command::Doctor => run::doctor(),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut <Arguments as clap::CommandFactory>::command(),
                "hearth",
                &mut std::io::stdout(),
            );
            Ok(())
        }
        Command::Version => output::line(&format!("hearth {}", env!("CARGO_PKG_VERSION"))),
    }
}
