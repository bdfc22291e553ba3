//! Checks the flags of `podmeta-link` in docs/command-line.md.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

use podmeta_markdown::{code, page};

/// Returns the help that the program prints for these arguments.
fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_podmeta-link")).args(arguments).output().unwrap();
    assert!(output.status.success(), "podmeta-link {arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the subcommands in the help of the program.
fn subcommands() -> Vec<String> {
    let help = help(&["-h"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Returns the flags in the help of a subcommand.
fn flags_in_help(command: &str) -> BTreeSet<String> {
    let help = help(&[command, "--help"]);
    let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = options.flat_map(|line| line.split([' ', ',']).map(str::to_owned));
    let mut flags = words.filter(|word| word.starts_with("--")).collect::<BTreeSet<_>>();
    flags.remove("--help");
    flags
}

#[test]
fn documented_flags_of_each_subcommand_are_those_of_its_help() {
    let rows = page("docs/command-line.md").rows("podmeta-link");
    let documented = rows.iter().flat_map(|row| code(&row[0])).collect::<BTreeSet<_>>();
    let commands = subcommands();
    let in_help = commands.iter().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(documented, in_help, "subcommands in docs/command-line.md");
    for command in &commands {
        let of_command = rows.iter().filter(|row| row[0] == "all" || code(&row[0]).contains(&command.as_str()));
        let documented = of_command.flat_map(|row| code(&row[1])).map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(documented, flags_in_help(command), "flags of podmeta-link {command} in docs/command-line.md");
    }
}
