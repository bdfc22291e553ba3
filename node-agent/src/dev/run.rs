//! Runs the command of `dev --pod NAME -- COMMAND` as a pod.

use std::ffi::OsString;
use std::process::{Child, ExitCode, ExitStatus};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use podmeta_service::signals::{Signals, StopSignal};
use tokio_util::sync::CancellationToken;

use crate::dev::dev_state::{DevPod, DevState};
use crate::dev::listen::PodListeners;
use crate::dev::state_dir::StateDir;
use crate::edge::{Edge, EdgeServer};

/// Environment variable with the path of the certificate that verifies identity documents.
const CERTIFICATE_VARIABLE: &str = "PODMETA_IDENTITY_CERTIFICATE";

/// Runs the command and returns its exit code.
///
/// # Errors
/// If the pod does not exist, or the command cannot be run.
pub(super) async fn command(
    pod: &str,
    command: &[OsString],
    state: &DevState,
    state_dir: &StateDir,
    edge: Arc<Edge>,
) -> Result<ExitCode> {
    let pod = state.pods.get(pod).with_context(|| {
        let names = state.pods.keys().map(String::as_str).collect::<Vec<_>>();
        format!("no pod {pod} in the files; choose from: {}", names.join(", "))
    })?;
    let stop = CancellationToken::new();
    let listeners = PodListeners::new(EdgeServer::new(edge, stop.clone()), stop.clone(), Vec::new());
    let code = run(pod, command, state_dir, listeners, &stop).await;
    stop.cancel();
    code
}

#[cfg(target_os = "linux")]
async fn run(
    pod: &DevPod,
    command: &[OsString],
    state_dir: &StateDir,
    listeners: PodListeners,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    let environment = [(CERTIFICATE_VARIABLE, state_dir.certificate().into())];
    let prepared = crate::dev::namespace::prepare(command, &environment)?;
    let socket_tables = Arc::from(std::path::Path::new("/proc").join(prepared.child.id().to_string()).join("net"));
    for (dialect, listener) in &prepared.listeners {
        tracing::debug!(%dialect, address = ?listener.local_addr().ok(), "listening on a service address in the network namespace of the command");
        let listener = podmeta_service::listener::adopt(listener.try_clone()?)?;
        listeners.accept(listener, pod.uid.clone(), *dialect, Arc::clone(&socket_tables), stop.clone())?;
    }
    let signals = Signals::listen()?;
    wait(prepared.start()?, signals).await
}

#[cfg(not(target_os = "linux"))]
async fn run(
    pod: &DevPod,
    command: &[OsString],
    state_dir: &StateDir,
    mut listeners: PodListeners,
    _stop: &CancellationToken,
) -> Result<ExitCode> {
    let wanted = pod.dialects().map(|dialect| (("pod".to_owned(), dialect), pod.uid.clone()));
    listeners.set(wanted.collect()).await?;
    let (program, arguments) = command.split_first().context("there is no command")?;
    let mut child = std::process::Command::new(program);
    child.args(arguments).env(CERTIFICATE_VARIABLE, state_dir.certificate());
    for dialect in pod.dialects() {
        if let Some(address) = listeners.address("pod", dialect) {
            child.env(dialect.protocol().endpoint_variable(), format!("http://{address}"));
        }
    }
    let signals = Signals::listen()?;
    wait(child.spawn().with_context(|| format!("cannot run {}", program.display()))?, signals).await
}

/// Waits for the command. The terminal sends Ctrl-C to the command too. SIGTERM is forwarded.
async fn wait(mut child: Child, mut signals: Signals) -> Result<ExitCode> {
    let id = child.id();
    let mut exited = tokio::task::spawn_blocking(move || child.wait());
    let status = loop {
        tokio::select! {
            status = &mut exited => break status.context("cannot wait for the command")??,
            signal = signals.next() => match signal {
                StopSignal::Interrupt => {}
                StopSignal::Terminate => terminate(id),
            },
        }
    };
    Ok(exit_code(status))
}

#[cfg(unix)]
fn terminate(id: u32) {
    use nix::sys::signal::{Signal, kill};
    if let Ok(id) = i32::try_from(id) {
        let _has_exited = kill(nix::unistd::Pid::from_raw(id), Signal::SIGTERM);
    }
}

#[cfg(not(unix))]
fn terminate(_id: u32) {}

/// Returns the exit code as a shell does: 128 plus the signal number after a signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(255));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
}
