//! The operator's binary.

use std::process::ExitCode;

use clap::Parser as _;
use podmeta_operator::args::{Cli, Command};
use podmeta_operator::{operator, uninstall};

fn main() -> ExitCode {
    let result = match Cli::parse().command() {
        Command::Run(args) => operator::main(*args),
        Command::Uninstall(args) => uninstall::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
