//! The node agent's program: parse, run, return the error.

use std::process::ExitCode;

use clap::Parser;
use podmeta_node_agent::{dev, serve};

/// Answers the metadata requests of pods as if each pod were an instance.
#[derive(Parser)]
#[command(version, about)]
enum Args {
    /// Serves pods from YAML files on loopback ports, without a cluster.
    Dev(Box<dev::Args>),
    /// Answers the pods of this node, as the operator says. The chart runs it.
    Serve(Box<serve::Args>),
    /// Asks the agent on this node as one of its pods, with a session token.
    #[cfg(unix)]
    Ask(serve::ask::Args),
    /// Makes the namespace of `dev --pod`; not for people.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    InNamespace(dev::namespace::InNamespace),
}

fn main() -> ExitCode {
    let ran = match Args::parse() {
        Args::Dev(args) => dev::main(*args),
        Args::Serve(args) => serve::main(*args),
        #[cfg(unix)]
        Args::Ask(args) => serve::ask::main(&args),
        #[cfg(target_os = "linux")]
        Args::InNamespace(args) => args.run().map(|never| match never {}),
    };
    ran.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
