//! `hearth`: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Spawners are this same binary; they must begin before anything starts a thread.
    match node::sandbox::spawner::main_if_spawner() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => node::cli::main(),
    }
}
