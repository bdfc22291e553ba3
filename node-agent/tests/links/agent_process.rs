//! A process of the node agent. It runs in a cgroup as in a pod, and gets its sockets from the link daemon's socket, which finds
//! that pod in a container runtime.

#[path = "pod_cgroup.rs"]
mod pod_cgroup;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podmeta_agent_api::WorkloadItem;
use podmeta_link::cri::AgentPods;
use podmeta_link::host_pods::NodePods;
use podmeta_link::host_pods::identity::HostPodFinder;
use podmeta_link::socket::{self, LinkSocketConfig};
use podmeta_node_agent::serve::{SavedState, StateFile};
use tokio::sync::oneshot;

use pod_cgroup::PodCgroup;

use crate::capabilities;
use crate::kit::Agent;
use crate::runtime::{FakeRuntime, FakeSandbox};

/// Name and namespace of the release.
pub(crate) const RELEASE: (&str, &str) = ("podmeta", "podmeta-system");

/// Maximum wait for a line of the agent's log.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);

/// A running agent. It is killed on drop.
pub(crate) struct LinkAgentProcess {
    pub(super) child: Child,
    log_rx: Mutex<Receiver<String>>,
    /// Ends the link daemon's socket on drop.
    pub(super) daemon: Option<oneshot::Sender<()>>,
    pub(super) link_socket: PathBuf,
    pub(super) runtime: Arc<Mutex<FakeRuntime>>,
    /// Pods that the agent leaves to the node's own metadata service.
    pub(crate) node_pods: Arc<NodePods>,
    _cgroup: PodCgroup,
    _directory: tempfile::TempDir,
}

impl LinkAgentProcess {
    /// Starts an agent in a pod of a namespace. The container runtime reports the labels of a node agent for this pod.
    pub(crate) fn start(agent: &Agent, items: &[WorkloadItem], namespace: &str) -> Self {
        Self::start_with_host_pods(agent, items, namespace, None)
    }

    /// Starts an agent that also serves pods on the host network, which a finder finds.
    pub(crate) fn start_with_host_pods(
        agent: &Agent,
        items: &[WorkloadItem],
        namespace: &str,
        host_pods: Option<HostPodFinder>,
    ) -> Self {
        let cgroup = PodCgroup::create();
        let runtime_socket = agent.path.with_file_name("runtime.sock");
        let sandbox = FakeSandbox { uid: cgroup.uid.clone(), labels: labels(namespace), ..FakeSandbox::host(1000) };
        let runtime = FakeRuntime { sandboxes: vec![sandbox], ..FakeRuntime::default() }.serve(&runtime_socket);
        let socket = agent.path.with_file_name("link").join("link.sock");
        let node_pods = Arc::<NodePods>::default();
        let daemon = serve_link_socket(LinkSocketConfig {
            path: socket.clone(),
            agent_namespace: agent.path.clone(),
            runtime_socket,
            agent_pods: AgentPods { namespace: RELEASE.1.to_owned(), release: RELEASE.0.to_owned() },
            counters: Arc::default(),
            findings: Arc::default(),
            checks: Arc::default(),
            host_pods: host_pods.map(Arc::new),
            node_pods: Arc::clone(&node_pods),
        });
        let directory = tempfile::tempdir().unwrap();
        let state = SavedState {
            resource_version: Some("e1:1".parse().unwrap()),
            items: items.iter().cloned().map(Arc::new).collect(),
            ..SavedState::default()
        };
        StateFile::in_dir(directory.path()).write(&state).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(cgroup.path.join("cgroup.procs"));
        command.arg(env!("CARGO_BIN_EXE_podmeta-node-agent"));
        command.args(["serve", "--operator", "https://127.0.0.1:1", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--log", "info,access=off", "--state-dir"]).arg(directory.path());
        command.arg("--operator-ca").arg(directory.path().join("ca.crt"));
        command.arg("--token").arg(directory.path().join("token")).arg("--link-socket").arg(&socket);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (log_tx, log_rx) = channel();
        let log = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| log_tx.send(line)));
        Self {
            child,
            log_rx: Mutex::new(log_rx),
            daemon: Some(daemon),
            link_socket: socket,
            runtime,
            node_pods,
            _cgroup: cgroup,
            _directory: directory,
        }
    }

    /// Waits until a line of the log contains a text, and returns the line.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let deadline = Instant::now() + LOG_TIMEOUT;
        let log_rx = self.log_rx.lock().unwrap();
        let next_line = || log_rx.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        loop {
            let line = next_line().unwrap_or_else(|error| panic!("the agent did not log {text:?}: {error}"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for LinkAgentProcess {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns the labels of a node agent of the release in a namespace.
fn labels(namespace: &str) -> HashMap<String, String> {
    let labels = [
        ("io.kubernetes.pod.namespace", namespace),
        ("app.kubernetes.io/name", "podmeta"),
        ("app.kubernetes.io/instance", RELEASE.0),
        ("app.kubernetes.io/component", "agent"),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Serves the link daemon's socket until the returned sender is dropped, in a thread with the capabilities of the daemon.
fn serve_link_socket(config: LinkSocketConfig) -> oneshot::Sender<()> {
    let (bound_tx, bound_rx) = std::sync::mpsc::channel();
    let (stop_tx, stop_rx) = oneshot::channel();
    std::thread::spawn(move || {
        capabilities::limit_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = socket::bind(&config.path).unwrap();
            bound_tx.send(()).unwrap();
            tokio::select! {
                () = socket::serve(listener, config) => {}
                _dropped = stop_rx => {}
            }
        });
        runtime.shutdown_background();
    });
    bound_rx.recv().unwrap();
    stop_tx
}
