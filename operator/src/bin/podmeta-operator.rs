//! The operator's binary.

use std::process::ExitCode;

use clap::Parser as _;
use podmeta_operator::args::Args;
use podmeta_operator::operator;

fn main() -> ExitCode {
    match operator::main(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
