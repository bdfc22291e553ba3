//! The socket of the link daemon. It passes sockets of the agent namespace to the node agents of this release, and to no
//! other process.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use podmeta_metadata::names::PodUid;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::counters::{CounterSnapshot, Counters};
use crate::cri::{AgentPods, RuntimeClient};
use crate::netns::Netns;
use crate::peer::pod_of_cgroups;
use crate::protocol::{Call, CallResponse, NodeStatus};
use crate::sockets::AgentSockets;
use crate::sys::send_line;

/// Timeout of reading the call and of writing the response.
const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a call in bytes.
const MAX_CALL_BYTES: u64 = 64;

/// Calls that are served at once. A node has one agent, and two during an update.
const MAX_CALLS: usize = 8;

/// Delay after an accept error.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Configuration of the socket.
#[derive(Clone, Debug)]
pub struct SocketConfig {
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
}

/// Binds the socket with mode 0600. Replaces a socket that an earlier process left behind. Must be called in a tokio
/// runtime.
///
/// # Errors
/// If the socket cannot be created.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let bind = || -> io::Result<UnixListener> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().with_context(|| format!("cannot create the socket {}", path.display()))
}

/// Serves calls until the task is cancelled.
pub async fn serve(listener: UnixListener, config: SocketConfig) {
    let (config, permits) = (Arc::new(config), Arc::new(Semaphore::new(MAX_CALLS)));
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
        let config = Arc::clone(&config);
        tokio::spawn(async move {
            if let Err(error) = serve_call(stream, &config).await {
                tracing::warn!(error = format!("{error:#}"), "cannot serve a call on the link socket");
            }
            drop(permit);
        });
    }
}

async fn serve_call(stream: tokio::net::UnixStream, config: &SocketConfig) -> Result<()> {
    let peer = stream.peer_cred().context("cannot read the credentials of the client")?;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let authorized = authorize(peer.pid(), config).await;
    let (agent_namespace, counters) = (config.agent_namespace.clone(), config.counters.snapshot());
    tokio::task::spawn_blocking(move || {
        let outcome = authorized.and_then(|()| respond(&stream, &agent_namespace, counters));
        if let Err(error) = &outcome {
            let response = serde_json::to_string(&CallResponse::Failed(format!("{error:#}")))?;
            let _closed = send_line(&stream, &response, &[]);
        }
        outcome
    })
    .await?
}

/// Returns success if the process belongs to a node agent's pod.
///
/// # Errors
/// If it belongs to another pod or to none, or if the container runtime does not respond.
async fn authorize(pid: Option<i32>, config: &SocketConfig) -> Result<()> {
    let pid = pid.filter(|pid| *pid > 0).context("the client is in another PID namespace")?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let cgroups = cgroups.with_context(|| format!("cannot read the cgroup of process {pid}"))?;
    let pod: PodUid = pod_of_cgroups(&cgroups).with_context(|| format!("process {pid} belongs to no pod"))?;
    if !RuntimeClient::new(config.runtime_socket.clone()).is_running(&pod, &config.agent_pods).await? {
        bail!("pod {pod} is not a node agent of this release");
    }
    Ok(())
}

/// Reads the call and sends its response.
fn respond(stream: &UnixStream, agent_namespace: &Path, counters: CounterSnapshot) -> Result<()> {
    let mut line = String::new();
    // A plain read, so that descriptors of the client are not received.
    BufReader::new(stream.take(MAX_CALL_BYTES)).read_line(&mut line).context("cannot read the call")?;
    let call = serde_json::from_str(&line).context("cannot parse the call")?;
    let agent = Netns::open(agent_namespace)
        .with_context(|| format!("cannot open the agent namespace {}", agent_namespace.display()))?;
    let namespace = agent.id()?;
    match call {
        Call::Sockets => {
            let sockets = AgentSockets::open(&agent).context("cannot open sockets in the agent namespace")?;
            let response = serde_json::to_string(&CallResponse::Sockets { namespace })?;
            send_line(stream, &response, &sockets.fds()).context("cannot send the sockets")?;
            tracing::info!("passed sockets to a node agent");
        }
        Call::Status => {
            let response = serde_json::to_string(&CallResponse::Status(NodeStatus { namespace, counters }))?;
            send_line(stream, &response, &[]).context("cannot send the status")?;
        }
    }
    Ok(())
}
