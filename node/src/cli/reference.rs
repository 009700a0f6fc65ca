//! The page about the command line, made out of what clap knows. `UPDATE_EXPECT=1 cargo test -p node reference` writes it anew.

use clap::{Arg, Command, CommandFactory};
use expect_test::expect_file;

use super::args::Arguments;

#[test]
fn the_page_is_what_the_command_line_takes() {
    let mut command = Arguments::command();
    command.build();
    let mut page = String::from(
        "# The command line\n\n\
         Data goes to standard output, everything else to standard error; `docs/reference/errors.md` lists the exit codes.\n\
         Commands that print data take `-o table|json|jsonl|yaml|name`; the JSON is stable.\n\
         A command talks to the one node of this machine, to the one that `--data-dir` names, or to `--addr` with `--token`.\n",
    );
    page +=
        &section("Every command takes", &command.get_arguments().filter(|arg| arg.is_global_set()).collect::<Vec<_>>());
    for inner in command.get_subcommands() {
        describe(&mut page, &format!("hearth {}", inner.get_name()), inner);
    }
    expect_file!["../../../docs/reference/cli.md"].assert_eq(&page);
}

/// Every command of its own has examples, because they stand first in its help.
#[test]
fn every_command_opens_with_examples() {
    fn check(path: &str, command: &Command) {
        if command.has_subcommands() {
            command.get_subcommands().filter(|inner| is_for_people(inner)).for_each(|inner| {
                check(&format!("{path} {}", inner.get_name()), inner);
            });
            return;
        }
        let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples.starts_with("Examples:\n"), "{path} has no examples");
        assert!(examples.contains(path), "the examples of {path} are not about it");
    }
    check("hearth", &Arguments::command());
}

/// Returns whether a command is documented: not clap's own, and none that this program starts itself with.
fn is_for_people(command: &Command) -> bool {
    command.get_name() != "help" && !command.is_hide_set()
}

fn describe(page: &mut String, path: &str, command: &Command) {
    if !is_for_people(command) {
        return;
    }
    if command.has_subcommands() {
        for inner in command.get_subcommands() {
            describe(page, &format!("{path} {}", inner.get_name()), inner);
        }
        return;
    }
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    *page += &format!("\n## `{path}`\n\n{about}.\n");
    if let Some(examples) = command.get_before_help() {
        let text = examples.to_string();
        let lines = text.lines().skip(1).map(str::trim);
        *page += &format!("\n```sh\n{}\n```\n", lines.collect::<Vec<_>>().join("\n"));
    }
    let own: Vec<&Arg> = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help").collect();
    if !own.is_empty() {
        *page += &section("Takes", &own);
    }
}

fn section(title: &str, arguments: &[&Arg]) -> String {
    let mut text = format!("\n| {} | |\n|---|---|\n", title.to_lowercase());
    for argument in arguments {
        let value = argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
        let value = value.filter(|_| argument.get_action().takes_values());
        let mut name = match (argument.get_short(), argument.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (None, Some(long)) => format!("--{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, None) => value.clone().unwrap_or_default(),
        };
        if let (true, Some(value)) = (argument.get_long().is_some(), value) {
            name = format!("{name} {value}");
        }
        let mut help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let default: Vec<String> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        if !default.is_empty() && argument.get_action().takes_values() {
            help = format!("{help} (default `{}`)", default.join(" "));
        }
        text += &format!("| `{name}` | {help} |\n");
    }
    text
}
