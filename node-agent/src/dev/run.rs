//! `dev --pod NAME -- COMMAND`: runs a command as one pod.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use podmeta_service::signals::{Signals, StopSignal};
use tokio_util::sync::CancellationToken;

use crate::dev::listen::Listeners;
use crate::dev::state::State;
use crate::dev::world::{DevPod, World};
use crate::edge::{Edge, Server};

/// Tells the command where the certificate is that signed documents verify with.
const CERTIFICATE: &str = "PODMETA_IDENTITY_CERTIFICATE";

/// Runs the command to its end; its exit code is ours.
///
/// # Errors
/// If there is no such pod, or the command cannot be run.
pub(super) async fn command(
    pod: &str,
    command: &[OsString],
    world: &World,
    state: &State,
    edge: Arc<Edge>,
) -> Result<ExitCode> {
    let pod = world.pods.get(pod).with_context(|| {
        let names = world.pods.keys().map(String::as_str).collect::<Vec<_>>();
        format!("no pod {pod} in the files; there are: {}", names.join(", "))
    })?;
    let stop = CancellationToken::new();
    let listeners = Listeners::new(Server::new(edge, stop.clone()), stop.clone(), Vec::new());
    let code = run(pod, command, state, listeners, &stop).await;
    stop.cancel();
    code
}

#[cfg(target_os = "linux")]
async fn run(
    pod: &DevPod,
    command: &[OsString],
    state: &State,
    listeners: Listeners,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    let waiting = crate::dev::namespace::prepare(command, &[(CERTIFICATE, state.certificate().into())])?;
    let sockets = std::path::PathBuf::from(format!("/proc/{}/net", waiting.child.id()));
    for (dialect, family, listener) in &waiting.listeners {
        tracing::debug!(%dialect, ?family, "listening in the namespace");
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        listeners.accept(listener, pod.uid.clone(), *dialect, sockets.clone(), stop.clone())?;
    }
    let signals = Signals::listen()?;
    wait(waiting.go()?, signals).await
}

#[cfg(not(target_os = "linux"))]
async fn run(
    pod: &DevPod,
    command: &[OsString],
    state: &State,
    mut listeners: Listeners,
    _stop: &CancellationToken,
) -> Result<ExitCode> {
    let places = pod.dialects().map(|dialect| (("pod".to_owned(), dialect), pod.uid.clone()));
    listeners.set(places.collect()).await?;
    let (program, arguments) = command.split_first().context("there is no command")?;
    let mut child = std::process::Command::new(program);
    child.args(arguments).env(CERTIFICATE, state.certificate());
    for dialect in pod.dialects() {
        if let Some(address) = listeners.address("pod", dialect) {
            child.env(dialect.protocol().endpoint_variable(), format!("http://{address}"));
        }
    }
    let signals = Signals::listen()?;
    wait(child.spawn().with_context(|| format!("cannot run {}", program.display()))?, signals).await
}

/// Waits for the command. Ctrl-C reaches it by itself, and is its to answer; a request to end is passed on.
async fn wait(child: std::process::Child, mut signals: Signals) -> Result<ExitCode> {
    let id = child.id();
    let mut child = child;
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    let status = loop {
        tokio::select! {
            status = &mut ended => break status.context("cannot wait for the command")??,
            request = signals.next() => match request {
                StopSignal::Interrupt => {}
                StopSignal::Terminate => pass_on(id),
            },
        }
    };
    Ok(code(status))
}

#[cfg(unix)]
fn pass_on(id: u32) {
    use nix::sys::signal::{Signal, kill};
    if let Ok(id) = i32::try_from(id) {
        let _gone_already = kill(nix::unistd::Pid::from_raw(id), Signal::SIGTERM);
    }
}

#[cfg(not(unix))]
fn pass_on(_id: u32) {}

fn code(status: std::process::ExitStatus) -> ExitCode {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return ExitCode::from(u8::try_from(128 + signal).unwrap_or(255));
    }
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
}
