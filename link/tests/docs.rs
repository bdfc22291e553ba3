//! Checks the flags of `podmeta-link` in docs/command-line.md.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

use podmeta_markdown::{code, page};

/// Subcommands of the program.
const COMMANDS: [&str; 4] = ["install", "run", "ready", "uninstall"];

/// Returns the flags in the help of a subcommand.
fn offered(command: &str) -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_podmeta-link")).args([command, "--help"]).output().unwrap();
    assert!(help.status.success(), "podmeta-link {command} --help: {}", help.status);
    let help = String::from_utf8(help.stdout).unwrap();
    let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = options.flat_map(|line| line.split([' ', ',']).map(str::to_owned));
    let mut flags = words.filter(|word| word.starts_with("--")).collect::<BTreeSet<_>>();
    flags.remove("--help");
    flags
}

#[test]
fn documented_flags_are_those_of_the_help() {
    let rows = page("docs/command-line.md").rows("podmeta-link");
    for command in COMMANDS {
        let of_command = rows.iter().filter(|row| row[0] == "all" || code(&row[0]).contains(&command));
        let documented = of_command.flat_map(|row| code(&row[1])).map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(documented, offered(command), "flags of podmeta-link {command} in docs/command-line.md");
    }
}
