//! The dev server: serves pods of YAML files on loopback ports, or to one command, as a cluster would serve them.

mod address;
mod args;
mod dev_state;
mod fair_listener;
mod host_rule;
mod input;
mod listen;
#[cfg(target_os = "linux")]
pub mod namespace;
mod print;
mod reload;
mod run;
mod server;
mod socket_table;
mod state_dir;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use podmeta_crds::manifests::ManifestError;
use podmeta_metadata::compile::UnlistedClaims;
use podmeta_service::limits;
use podmeta_service::log::{self, LogGuard};

pub use args::{DevArgs, ListenArg, Output};
pub use dev_state::{DevPod, DevState};
pub use input::InputFile;
pub use socket_table::SocketPair;

use crate::broker::{Broker, FileBroker};
use crate::dev::input::Inputs;
use crate::dev::server::DevServer;
use crate::dev::state_dir::StateDir;
use crate::edge::Edge;
use crate::keys;

/// Runs `dev`: serves the pods of the files, only checks them (`--check`), or runs a command as one pod (`--pod`) and returns
/// its exit code. Prints errors in the files and returns a failure code for them, and for warnings with `--check`.
///
/// # Errors
/// If the files or the state directory cannot be read, or the server or the command cannot run.
pub fn main(args: DevArgs) -> Result<ExitCode> {
    let inputs = Inputs::new(args.files.clone())?;
    let files = inputs.read()?;
    let state = match DevState::compile(&files, Timestamp::now(), &args.cluster.settings(UnlistedClaims::Signed)) {
        Ok(state) => state,
        Err(errors) => {
            print_errors(&errors);
            return Ok(ExitCode::FAILURE);
        }
    };
    print_notes(&state);
    if args.check {
        println!("checked: {}, {}", print::count(state.pods.len(), "pod"), print::count(state.warnings, "warning"));
        return Ok(if state.warnings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let _log = init_log(&args);
    limits::raise_open_files();
    keys::initialize_random();
    let state_dir = StateDir::open(args.state_dir.clone())?;
    let keys = state_dir.key_file().load(Timestamp::now())?;
    let broker = FileBroker::new(state_dir.signer()?);
    let edge = Edge::new(keys, Broker::Files(Arc::clone(&broker)), Arc::new(Timestamp::now));
    publish(&edge, &broker, &state);
    // With 16 connections, one worker serves more requests than two (docs/benchmarks.md). Documents are signed on blocking
    // threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match args.pod.clone() {
        None => runtime.block_on(DevServer { args, inputs, files, state, state_dir, edge, broker }.run()),
        Some(pod) => runtime.block_on(run::command(&args::qualified(&pod), &args.command, &state, &state_dir, edge)),
    }
}

fn print_errors(errors: &[ManifestError]) {
    for error in errors {
        eprintln!("error: {error}");
    }
}

fn print_notes(state: &DevState) {
    for note in &state.notes {
        eprintln!("note: {note}");
    }
}

fn init_log(args: &DevArgs) -> LogGuard {
    let level = args.log.unwrap_or(if args.pod.is_some() { tracing::Level::WARN } else { tracing::Level::DEBUG });
    let (writer, guard) = log::queued_writer(std::io::stderr);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .compact()
        .init();
    guard
}

fn publish(edge: &Edge, broker: &FileBroker, state: &DevState) {
    broker.set_secrets(state.secrets.clone());
    edge.publish(state.pods.values().map(|pod| (pod.uid.clone(), pod.view.clone())));
}
