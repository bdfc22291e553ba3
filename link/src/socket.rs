//! The socket of the link daemon. It passes sockets of the agent namespace to the node agents of this release, and to no
//! other process.

mod caller;

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::counters::Counters;
use crate::cri::AgentPods;
use crate::findings::SharedFindings;
use crate::netns::Netns;
use crate::private_socket;
use crate::protocol::{Call, CallResponse, LinkNodeStatus};
use crate::sockets::AgentSockets;
use crate::sys::send_line;
use caller::KnownAgents;

/// Timeout of reading the call and of writing the response.
const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a call in bytes.
const MAX_CALL_BYTES: u64 = 64;

/// Calls that are served at once. A node has one agent, and two during an update.
const MAX_CALLS: usize = 8;

/// Delay after an accept error.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Paths, allowed pods and shared state of the link socket's server.
#[derive(Clone, Debug)]
pub struct LinkSocketConfig {
    /// Path of the socket.
    pub path: PathBuf,
    /// Path of the pinned agent namespace.
    pub agent_namespace: PathBuf,
    /// Socket of the container runtime.
    pub runtime_socket: PathBuf,
    /// The pods whose processes may call.
    pub agent_pods: AgentPods,
    /// Counters of the daemon.
    pub counters: Arc<Counters>,
    /// Findings of the daemon.
    pub findings: Arc<SharedFindings>,
}

/// Binds the socket with [`private_socket::bind`]. Creates a missing directory with mode 0700. Must be called in a tokio
/// runtime.
///
/// # Errors
/// If the socket cannot be created.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let bind = || -> io::Result<UnixListener> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        private_socket::bind(path)
    };
    bind().with_context(|| format!("cannot create the socket {}", path.display()))
}

/// Serves calls until the task is cancelled.
pub async fn serve(listener: UnixListener, config: LinkSocketConfig) {
    let (config, permits) = (Arc::new(config), Arc::new(Semaphore::new(MAX_CALLS)));
    let agents = Arc::new(KnownAgents::default());
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection on the link socket; retrying");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let (config, agents) = (Arc::clone(&config), Arc::clone(&agents));
        tokio::spawn(async move {
            if let Err(error) = serve_call(stream, &config, &agents).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot serve a call on the link socket; closed the connection"
                );
            }
            drop(permit);
        });
    }
}

async fn serve_call(stream: tokio::net::UnixStream, config: &LinkSocketConfig, agents: &KnownAgents) -> Result<()> {
    let pod = caller::pod(&stream);
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let authorized = match pod {
        Ok(pod) => agents.authorize(pod, config).await,
        Err(error) => Err(error),
    };
    let config = config.clone();
    tokio::task::spawn_blocking(move || {
        let outcome = authorized.and_then(|()| respond(&stream, &config));
        if let Err(error) = &outcome {
            let response = serde_json::to_string(&CallResponse::Failed(format!("{error:#}")))?;
            let _closed = send_line(&stream, &response, &[]);
        }
        outcome
    })
    .await?
}

/// Reads the call and sends its response.
fn respond(stream: &UnixStream, config: &LinkSocketConfig) -> Result<()> {
    let mut line = String::new();
    // A plain read, so that descriptors of the client are not received.
    BufReader::new(stream.take(MAX_CALL_BYTES)).read_line(&mut line).context("cannot read the call")?;
    let call = serde_json::from_str(&line).context("cannot parse the call")?;
    let path = &config.agent_namespace;
    let agent = Netns::open(path).with_context(|| format!("cannot open the agent namespace {}", path.display()))?;
    let namespace = agent.id()?;
    match call {
        Call::Sockets => {
            let sockets = AgentSockets::open(&agent).context("cannot open sockets in the agent namespace")?;
            let response = serde_json::to_string(&CallResponse::Sockets { namespace })?;
            send_line(stream, &response, &sockets.fds()).context("cannot send the sockets")?;
            tracing::info!("passed sockets to a node agent");
        }
        Call::Status => {
            let (counters, findings) = (config.counters.snapshot(), config.findings.snapshot());
            let response =
                serde_json::to_string(&CallResponse::Status(LinkNodeStatus { namespace, counters, findings }))?;
            send_line(stream, &response, &[]).context("cannot send the status")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_and_its_directory_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link/link.sock");
        let first = bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(first);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let _second = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600, "a socket that was left behind is replaced");
    }
}
