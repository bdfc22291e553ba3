//! The operator's binary.

use std::process::ExitCode;

use clap::Parser as _;
use podmeta_operator::args::Cli;
use podmeta_operator::{operator, uninstall};

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Run(args) => operator::main(*args),
        Cli::Uninstall(args) => uninstall::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
