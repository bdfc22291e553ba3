//! The node agent's program.

use std::process::ExitCode;

use clap::Parser;
use podmeta_node_agent::dev;
#[cfg(target_os = "linux")]
use podmeta_node_agent::{debug, serve};

/// Serves instance metadata to pods.
#[derive(Parser)]
#[command(version, about)]
enum AgentCommand {
    /// Serves pods of YAML files on loopback ports, without a cluster.
    Dev(Box<dev::DevArgs>),
    /// Serves the pods of this node with the operator's data. The chart runs it.
    #[cfg(target_os = "linux")]
    Serve(Box<serve::ServeArgs>),
    /// Queries the agent on this node as one of its pods, through the debug socket.
    #[cfg(target_os = "linux")]
    Query(debug::QueryArgs),
    /// Creates the namespace of `dev --pod`. For internal use.
    #[cfg(target_os = "linux")]
    #[command(hide = true)]
    InNamespace(dev::namespace::InNamespaceArgs),
}

fn main() -> ExitCode {
    let result = match AgentCommand::parse() {
        AgentCommand::Dev(args) => dev::main(*args),
        #[cfg(target_os = "linux")]
        AgentCommand::Serve(args) => serve::main(*args),
        #[cfg(target_os = "linux")]
        AgentCommand::Query(args) => debug::query(&args),
        #[cfg(target_os = "linux")]
        AgentCommand::InNamespace(args) => args.run().map(|never| match never {}),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
