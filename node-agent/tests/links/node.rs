//! A node agent whose pods connect through links. It runs in a cgroup as in a pod, and gets its sockets from the link daemon's
//! socket, which finds that pod in a container runtime.

#[path = "pod_cgroup.rs"]
mod pod_cgroup;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podmeta_agent_api::WorkloadItem;
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_link::cri::AgentPods;
use podmeta_link::host_pods::NodePods;
use podmeta_link::host_pods::identity::HostPodFinder;
use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_link::socket::{self, LinkSocketConfig};
use podmeta_metadata::compile::{ConfigMapValues, Outcome, Settings, compile};
use podmeta_metadata::dialect::Dialect;
use podmeta_node_agent::serve::{SavedState, StateFile};
use tokio::sync::oneshot;

use pod_cgroup::PodCgroup;

use crate::capabilities;
use crate::kit::{Agent, alias, block_until};
use crate::runtime::{FakeRuntime, FakeSandbox};

/// Name and namespace of the release.
pub(crate) const RELEASE: (&str, &str) = ("podmeta", "podmeta-system");

/// Maximum wait for a line of the agent's log.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);

/// Profile and policy of all pods: no token, IPv6, and limits over any load of these tests. A test can add metadata options and a
/// field of the profile.
const MANIFEST: &str = r"apiVersion: podmeta.dev/v1alpha1
kind: MetadataPolicy
metadata: {name: high}
spec: {maxRequestsPerSecond: 100000, maxConnections: 4096}
---
apiVersion: podmeta.dev/v1alpha1
kind: MetadataProfile
metadata: {name: web}
spec:
  podSelector: {}
  dialects: [ec2, ecs]
  limits: {requestsPerSecond: 100000, burst: 200000, connections: 4096}
  metadataOptions: {httpTokens: optional, httpProtocolIpv6: enabled, OPTIONS}
  SPEC
";

/// A node whose agent does not run yet.
pub(crate) struct StoppedNode {
    items: Vec<WorkloadItem>,
    pub(crate) agent: Agent,
}

impl StoppedNode {
    /// Creates a node whose pods have these metadata options and this field of their profile.
    pub(crate) async fn new(pods: usize, options: &str, field: &str) -> Self {
        Self { items: workloads(pods, options, field), agent: Agent::new().await }
    }

    /// Starts the agent, and waits until it serves links.
    pub(crate) fn start(self) -> ServingNode {
        let process = LinkAgentProcess::start(&self.agent, &self.items, RELEASE.1);
        process.wait_for_log("serving the links of the node's pods");
        ServingNode { items: self.items, process, agent: self.agent }
    }
}

/// A node agent that serves links.
pub(crate) struct ServingNode {
    /// Workloads of the pods. Pod `n` has the UID `uid-n`.
    items: Vec<WorkloadItem>,
    process: LinkAgentProcess,
    pub(crate) agent: Agent,
}

impl ServingNode {
    /// Starts an agent that knows `pods` pods, and waits until it serves links.
    pub(crate) async fn start(pods: usize) -> Self {
        Self::start_with_options(pods, "httpPutResponseHopLimit: 1").await
    }

    /// Starts an agent whose pods have these metadata options.
    pub(crate) async fn start_with_options(pods: usize, options: &str) -> Self {
        Self::start_with_profile(pods, options, "").await
    }

    /// Starts an agent whose pods have these metadata options and this field of their profile.
    pub(crate) async fn start_with_profile(pods: usize, options: &str, field: &str) -> Self {
        StoppedNode::new(pods, options, field).await.start()
    }

    /// Makes the link of pod `n`.
    pub(crate) async fn make_link(&self, pod: &Netns, n: usize, range: LinkRange) {
        pod_link::ensure(&self.agent.netns, pod, &alias(n), range).await.unwrap();
    }

    /// Adds the sandbox of pod `n` to the container runtime. `users` are the ranges of its user namespace.
    pub(crate) fn add_sandbox(&self, pod: &Netns, n: usize, users: Option<Vec<(u32, u32, u32)>>) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd());
        let sandbox = FakeSandbox { netns: Some(path.into()), users, ..FakeSandbox::host(n) };
        self.process.runtime.lock().unwrap().sandboxes.push(sandbox);
    }

    /// Ends the link daemon's socket. Returns when nothing accepts connections.
    pub(crate) fn stop_daemon(&mut self) {
        let socket = &self.process.link_socket;
        drop(self.process.daemon.take());
        block_until("the daemon's socket is closed", || UnixStream::connect(socket).is_err());
    }

    /// Waits until a line of the agent's log contains a text, and returns the line.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        self.process.wait_for_log(text)
    }

    /// Returns the instance ID of pod `n` at a service address.
    pub(crate) fn instance_id(&self, n: usize, address: IpAddr) -> &str {
        let is_at = |dialect: &Dialect| dialect.protocol().selection().addresses.contains(&address);
        let dialect = Dialect::ALL.into_iter().find(is_at).unwrap();
        &self.items[n].outcome.workload().unwrap().part(dialect).unwrap().instance_id
    }

    /// Stops the agent's process until the returned value is dropped.
    pub(crate) fn pause(&self) -> PausedAgent {
        let process = Pid::from_raw(self.process.child.id().try_into().unwrap());
        kill(process, Signal::SIGSTOP).unwrap();
        PausedAgent(process)
    }

    /// Returns true if the agent's process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.child.try_wait().unwrap().is_none()
    }
}

/// A stopped agent. It continues on drop.
pub(crate) struct PausedAgent(Pid);

impl Drop for PausedAgent {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

/// Compiles pods with the UIDs `uid-0` and following.
fn workloads(pods: usize, options: &str, field: &str) -> Vec<WorkloadItem> {
    let pod = |n| format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web-{n}, uid: uid-{n}}}\nspec: {{}}\n");
    let text = MANIFEST.replace("OPTIONS", options).replace("SPEC", field) + &(0..pods).map(pod).collect::<String>();
    let (objects, errors) = load(&[ManifestFile { name: "pods".to_owned(), text }], Timestamp::UNIX_EPOCH);
    assert!(errors.is_empty(), "{errors:?}");
    let compile = |pod: &podmeta_crds::manifests::LoadedPod| {
        let (profiles, policies) = (&objects.profiles, &objects.policies);
        let outcome =
            compile(&pod.facts, profiles, policies, &ConfigMapValues::default(), &Settings::default()).outcome;
        assert!(matches!(outcome, Outcome::Served(_)), "{outcome:?}");
        WorkloadItem { outcome, addresses: Vec::new() }
    };
    objects.pods.iter().map(compile).collect()
}

/// A running agent. It is killed on drop.
pub(crate) struct LinkAgentProcess {
    child: Child,
    log_rx: Mutex<Receiver<String>>,
    /// Ends the link daemon's socket on drop.
    daemon: Option<oneshot::Sender<()>>,
    link_socket: PathBuf,
    runtime: Arc<Mutex<FakeRuntime>>,
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
