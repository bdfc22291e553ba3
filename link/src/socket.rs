//! The socket of the link daemon. It serves calls of the node agents of this release, and of no other process.

mod caller;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podmeta_metadata::names::PodUid;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::checks::SharedChecks;
use crate::counters::Counters;
use crate::cri::AgentPods;
use crate::findings::SharedFindings;
use crate::host_pods::NodePods;
use crate::host_pods::identity::{HostClient, HostPodFinder, HostQuery};
use crate::netns::Netns;
use crate::owner::OwnerFinder;
use crate::private_socket;
use crate::protocol::{Call, CallResponse, HostPodsMode, LinkNodeStatus};
use crate::sockets::AgentSockets;
use crate::sys::send_line;
use caller::KnownAgents;

/// Timeout of reading the call and of writing the response.
const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a call in bytes.
pub(crate) const MAX_CALL_BYTES: u64 = 64 * 1024;

/// Maximum number of concurrent calls. A node has one agent, and two during an update.
const MAX_CALLS: usize = 8;

/// Error of calls about pods on the host network.
const NOT_SERVED: &str = "the redirection of pods on the host network is off";

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
    /// Results of the daemon's checks.
    pub checks: Arc<SharedChecks>,
    /// Finder of pods on the host network, or `None` if they are not served.
    pub host_pods: Option<Arc<HostPodFinder>>,
    /// Pods on the host network that the operator leaves to the node's own metadata service.
    pub node_pods: Arc<NodePods>,
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
    let permits = Arc::new(Semaphore::new(MAX_CALLS));
    let owners = OwnerFinder::new(config.runtime_socket.clone(), Arc::clone(&config.findings));
    let server = Arc::new(CallServer { config, agents: KnownAgents::default(), owners });
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
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            if let Err(error) = server.serve_call(stream).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot serve a call on the link socket; closed the connection"
                );
            }
            drop(permit);
        });
    }
}

/// The state that all calls share.
struct CallServer {
    config: LinkSocketConfig,
    agents: KnownAgents,
    owners: OwnerFinder,
}

impl CallServer {
    /// Authorizes the client of one connection, reads its call and responds. Sends a failure to the client, and returns it for
    /// the log.
    async fn serve_call(self: Arc<Self>, stream: tokio::net::UnixStream) -> Result<()> {
        let pod = caller::pod(&stream);
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        let stream = Arc::new(stream);
        let outcome = self.authorize_and_respond(pod, &stream).await;
        if let Err(error) = &outcome {
            let _closed = send(stream, CallResponse::Failed(format!("{error:#}"))).await;
        }
        outcome
    }

    /// Reads the call of a node agent and sends its response.
    async fn authorize_and_respond(self: &Arc<Self>, pod: Result<PodUid>, stream: &Arc<UnixStream>) -> Result<()> {
        let pod = pod?;
        self.agents.authorize(&pod, &self.config).await?;
        let reader = Arc::clone(stream);
        match spawn_blocking(move || read_call(&reader)).await?? {
            Call::WhoIs(query) => {
                // The agent logs failures, with the pod.
                let owner = self.owners.find(query).await;
                let failed = |error: anyhow::Error| CallResponse::Failed(format!("{error:#}"));
                send(Arc::clone(stream), owner.map_or_else(failed, CallResponse::Owner)).await
            }
            Call::HostPod(query) => {
                let client = self.find_host_pod(query).await;
                let failed = |error: anyhow::Error| CallResponse::Failed(format!("{error:#}"));
                send(Arc::clone(stream), client.map_or_else(failed, CallResponse::HostClient)).await
            }
            Call::NodePods(pods) => {
                // Without the redirection, no pod has a mode: the pods would be exempt from the uplink guard.
                ensure!(self.config.host_pods.is_some(), "cannot exempt pods on the host network: {NOT_SERVED}");
                self.config.node_pods.set(pods);
                send(Arc::clone(stream), CallResponse::Done).await
            }
            Call::Sockets => {
                let (server, stream) = (Arc::clone(self), Arc::clone(stream));
                spawn_blocking(move || server.pass_sockets(&stream, &pod)).await?
            }
            Call::Status => {
                let (server, stream) = (Arc::clone(self), Arc::clone(stream));
                spawn_blocking(move || server.send_status(&stream)).await?
            }
        }
    }

    async fn find_host_pod(&self, query: HostQuery) -> Result<HostClient> {
        let finder = self.config.host_pods.clone().context(NOT_SERVED)?;
        spawn_blocking(move || finder.find(&query)).await?
    }

    /// Opens sockets in the agent namespace and sends them to a node agent.
    fn pass_sockets(&self, stream: &UnixStream, pod: &PodUid) -> Result<()> {
        let agent = self.agent_namespace()?;
        let sockets = AgentSockets::open(&agent).context("cannot open sockets in the agent namespace")?;
        let response = serde_json::to_string(&CallResponse::Sockets { namespace: agent.id()? })?;
        send_line(stream, &response, &sockets.fds()).context("cannot send the sockets")?;
        tracing::info!(agent_pod_uid = %pod, "passed sockets to a node agent");
        Ok(())
    }

    /// Sends the state of the node.
    fn send_status(&self, stream: &UnixStream) -> Result<()> {
        self.owners.update_findings();
        let namespace = self.agent_namespace()?.id()?;
        let (counters, findings) = (self.config.counters.snapshot(), self.config.findings.snapshot());
        let guard = self.config.checks.state(Instant::now());
        let host_pods = match &self.config.host_pods {
            Some(_) => HostPodsMode::Served,
            None => HostPodsMode::NotServed,
        };
        let response = CallResponse::Status(LinkNodeStatus { namespace, counters, findings, guard, host_pods });
        send_line(stream, &serde_json::to_string(&response)?, &[]).context("cannot send the status")
    }

    fn agent_namespace(&self) -> Result<Netns> {
        let path = &self.config.agent_namespace;
        Netns::open(path).with_context(|| format!("cannot open the agent namespace {}", path.display()))
    }
}

/// Reads the call. Blocks.
fn read_call(stream: &UnixStream) -> Result<Call> {
    let mut line = String::new();
    // A plain read, so that descriptors of the client are not received.
    BufReader::new(stream.take(MAX_CALL_BYTES)).read_line(&mut line).context("cannot read the call")?;
    serde_json::from_str(&line).context("cannot parse the call")
}

/// Sends a response without sockets.
async fn send(stream: Arc<UnixStream>, response: CallResponse) -> Result<()> {
    let response = serde_json::to_string(&response)?;
    spawn_blocking(move || send_line(&stream, &response, &[])).await?.context("cannot send the response")
}
