//! The process that calls the link daemon. Only node agents of the release may call.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use podmeta_metadata::names::PodUid;

use super::LinkSocketConfig;
use crate::cri::RuntimeClient;
use crate::peer::pod_of_cgroups;

/// Maximum number of pods in the cache of node agents. A node has two at a time.
const MAX_KNOWN_AGENTS: usize = 16;

/// Pods that the container runtime has reported as node agents. A UID never belongs to another pod, and only processes of the
/// pod are in its cgroup. So a pod is checked once, and an agent can restart while the runtime is too busy to respond.
#[derive(Debug, Default)]
pub(super) struct KnownAgents(Mutex<Vec<PodUid>>);

impl KnownAgents {
    /// Returns success if a pod is a node agent of the release.
    ///
    /// # Errors
    /// If it is not, or if the container runtime does not respond for a pod that is not known yet.
    pub(super) async fn authorize(&self, pod: &PodUid, config: &LinkSocketConfig) -> Result<()> {
        if self.contains(pod) {
            return Ok(());
        }
        if !RuntimeClient::new(config.runtime_socket.clone()).is_running(pod, &config.agent_pods).await? {
            bail!("pod {pod} is not a node agent of this release");
        }
        self.add(pod.clone());
        Ok(())
    }

    fn contains(&self, pod: &PodUid) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(pod)
    }

    /// Adds a pod. Removes the oldest one if there are too many.
    pub(super) fn add(&self, pod: PodUid) {
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

/// Returns the pod of the process that connected.
///
/// # Errors
/// If the process belongs to no pod, or has exited: another process could have its ID now.
pub(super) fn pod(stream: &tokio::net::UnixStream) -> Result<PodUid> {
    let peer = stream.peer_cred().context("cannot read the credentials of the client")?;
    let pid = peer.pid().filter(|pid| *pid > 0).context("the client is in another PID namespace")?;
    let process = peer_process(stream).context("cannot identify the client's process")?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let cgroups = cgroups.with_context(|| format!("cannot read the cgroup of process {pid}"))?;
    // While the process runs, its ID is not assigned to another one.
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    /// A program that connects to a socket and stays connected. Drop ends it.
    struct ClientProcess(Child);

    impl ClientProcess {
        fn start(path: &Path) -> Self {
            Self(
                Command::new("curl").args(["--silent", "--unix-socket"]).arg(path).arg("http://link/").spawn().unwrap(),
            )
        }
    }

    impl Drop for ClientProcess {
        fn drop(&mut self) {
            let _exited = self.0.kill();
            let _status = self.0.wait();
        }
    }

    /// The process ID of the client could belong to a node agent now.
    #[tokio::test]
    async fn client_that_has_exited_is_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("link.sock");
        let listener = crate::private_socket::bind(&path).unwrap();
        let mut client = ClientProcess::start(&path);
        let (stream, _) = listener.accept().await.unwrap();
        let process = peer_process(&stream).unwrap().unwrap();
        assert!(!has_exited(&process).unwrap());
        client.0.kill().unwrap();
        let exited = nix::poll::poll(
            &mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)],
            PollTimeout::try_from(Duration::from_secs(10)).unwrap(),
        );
        // The process is not waited for yet, so its cgroup can be read.
        let error = pod(&stream).unwrap_err();
        assert_eq!(exited, Ok(1));
        assert!(error.to_string().contains("has exited"), "{error:#}");
    }

    #[test]
    fn oldest_known_agent_is_removed_when_there_are_too_many() {
        let agents = KnownAgents::default();
        let uid = |number: usize| PodUid::try_from(format!("agent-{number}")).unwrap();
        for number in 0..=MAX_KNOWN_AGENTS {
            agents.add(uid(number));
            agents.add(uid(number));
        }
        assert!(!agents.contains(&uid(0)));
        assert!((1..=MAX_KNOWN_AGENTS).all(|number| agents.contains(&uid(number))));
    }
}
