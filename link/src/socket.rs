//! The socket of the link daemon. It passes sockets of the agent namespace to the node agents of this release, and to no
//! other process.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use podmeta_metadata::names::PodUid;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::counters::Counters;
use crate::cri::{AgentPods, RuntimeClient};
use crate::findings::SharedFindings;
use crate::netns::Netns;
use crate::peer::pod_of_cgroups;
use crate::private_socket;
use crate::protocol::{Call, CallResponse, LinkNodeStatus};
use crate::sockets::AgentSockets;
use crate::sys::send_line;

/// Timeout of reading the call and of writing the response.
const IO_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a call in bytes.
const MAX_CALL_BYTES: u64 = 64;

/// Calls that are served at once. A node has one agent, and two during an update.
const MAX_CALLS: usize = 8;

/// Maximum number of pods in the cache of node agents. A node has two at a time.
const MAX_KNOWN_AGENTS: usize = 16;

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

/// Pods that the container runtime has reported as node agents. A UID never belongs to another pod, and only processes of the
/// pod are in its cgroup. So a pod is checked once, and an agent can restart while the runtime is too busy to respond.
#[derive(Debug, Default)]
struct KnownAgents(Mutex<Vec<PodUid>>);

impl KnownAgents {
    fn contains(&self, pod: &PodUid) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(pod)
    }

    /// Adds a pod. Removes the oldest one if there are too many.
    fn add(&self, pod: PodUid) {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.contains(&pod) {
            return;
        }
        if pods.len() >= MAX_KNOWN_AGENTS {
            pods.remove(0);
        }
        pods.push(pod);
    }
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
    let pod = peer_pod(&stream);
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let authorized = match pod {
        Ok(pod) => authorize(pod, config, agents).await,
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

/// Returns success if a pod is a node agent of the release.
///
/// # Errors
/// If it is not, or if the container runtime does not respond for a pod that is not known yet.
async fn authorize(pod: PodUid, config: &LinkSocketConfig, agents: &KnownAgents) -> Result<()> {
    if agents.contains(&pod) {
        return Ok(());
    }
    if !RuntimeClient::new(config.runtime_socket.clone()).is_running(&pod, &config.agent_pods).await? {
        bail!("pod {pod} is not a node agent of this release");
    }
    agents.add(pod);
    Ok(())
}

/// Returns the pod of the process that connected.
///
/// # Errors
/// If the process belongs to no pod, or has exited: another process could have its ID now.
fn peer_pod(stream: &tokio::net::UnixStream) -> Result<PodUid> {
    let peer = stream.peer_cred().context("cannot read the credentials of the client")?;
    let pid = peer.pid().filter(|pid| *pid > 0).context("the client is in another PID namespace")?;
    let process = peer_process(stream).context("cannot identify the client's process")?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let cgroups = cgroups.with_context(|| format!("cannot read the cgroup of process {pid}"))?;
    // The ID was not assigned again before the process ended.
    if let Some(process) = process {
        ensure!(!has_exited(&process)?, "process {pid} has exited");
    }
    pod_of_cgroups(&cgroups).with_context(|| format!("process {pid} belongs to no pod"))
}

/// Returns a descriptor of the process that connected, or `None` before Linux 6.5, which has no `SO_PEERPIDFD`.
fn peer_process(stream: &impl AsFd) -> nix::Result<Option<OwnedFd>> {
    match getsockopt(stream, sockopt::PeerPidfd) {
        Err(Errno::ENOPROTOOPT) => Ok(None),
        result => result.map(Some),
    }
}

/// Returns true if a process has exited. Its descriptor becomes readable then. Source: pidfd_open(2).
fn has_exited(process: &OwnedFd) -> nix::Result<bool> {
    let mut descriptors = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::ZERO).map(|ready| ready > 0)
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
    use std::process::{Child, Command};

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

    /// Starts a program that connects to a socket and stays connected.
    fn client(path: &Path) -> Child {
        Command::new("curl").args(["--silent", "--unix-socket"]).arg(path).arg("http://link/").spawn().unwrap()
    }

    /// Its process ID could belong to a node agent now.
    #[tokio::test]
    async fn client_that_has_exited_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = bind(&path).unwrap();
        let mut client = client(&path);
        let (stream, _) = listener.accept().await.unwrap();
        let process = peer_process(&stream).unwrap().unwrap();
        assert!(!has_exited(&process).unwrap());
        client.kill().unwrap();
        let exited = nix::poll::poll(
            &mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)],
            PollTimeout::try_from(Duration::from_secs(10)).unwrap(),
        );
        // The process is not waited for yet, so its cgroup can be read.
        let error = peer_pod(&stream).unwrap_err();
        client.wait().unwrap();
        assert_eq!(exited, Ok(1));
        assert!(error.to_string().contains("has exited"), "{error:#}");
    }

    #[test]
    fn oldest_known_agent_is_removed_when_there_are_too_many() {
        let agents = KnownAgents::default();
        let pod = |number: usize| PodUid::try_from(format!("agent-{number}")).unwrap();
        for number in 0..=MAX_KNOWN_AGENTS {
            agents.add(pod(number));
            agents.add(pod(number));
        }
        assert!(!agents.contains(&pod(0)));
        assert!((1..=MAX_KNOWN_AGENTS).all(|number| agents.contains(&pod(number))));
    }
}
