//! A link daemon that a test runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use podmeta_link::checks::SharedChecks;
use podmeta_link::cni::conflist::{FILE_NAME, LinkSettings};
use podmeta_link::counters::{CounterSnapshot, Counters};
use podmeta_link::daemon::{self, DaemonConfig};
use podmeta_link::findings::SharedFindings;
use podmeta_link::host_pods::NodePods;
use podmeta_link::netns::Netns;
use tokio::sync::oneshot;

use crate::bpf_pins::Pins;
use crate::capabilities;
use crate::cgroup_root::CgroupRoot;
use crate::kit::{Agent, pod, run, wait_until};

/// A running daemon with the capabilities of its container, stopped on drop.
pub(crate) struct Daemon {
    pub(crate) node: Arc<Netns>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) findings: Arc<SharedFindings>,
    pub(crate) checks: Arc<SharedChecks>,
    /// Pods that a node agent leaves to the node's own metadata service.
    pub(crate) node_pods: Arc<NodePods>,
    is_ready: Arc<AtomicBool>,
    optional_parts: OptionalParts,
    pub(crate) cni: PathBuf,
    stop_tx: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) agent: Agent,
    pub(crate) pins: Pins,
    pub(crate) cgroups: CgroupRoot,
}

/// The parts of a daemon that can be off.
#[derive(Clone, Copy)]
struct OptionalParts {
    /// The uplink guard.
    uplink: bool,
    /// The redirection of pods on the host network.
    host_pods: bool,
}

impl Daemon {
    /// Starts a daemon with an empty directory of CNI configurations. The caller must have created the socket of the container
    /// runtime at [`runtime_socket`].
    pub(crate) async fn start(agent: Agent) -> Self {
        Self::start_on(agent, pod(), CgroupRoot::with_pods()).await
    }

    /// Starts a daemon on a node. The cgroups of its pods are below `cgroups`. Pods of the namespace `shop` are exempt from the
    /// uplink guard.
    pub(crate) async fn start_on(agent: Agent, node: Netns, cgroups: CgroupRoot) -> Self {
        Self::start_with(agent, node, cgroups, OptionalParts { uplink: true, host_pods: false }).await
    }

    /// Starts a daemon as [`Daemon::start`] does, without the uplink guard.
    pub(crate) async fn start_without_uplink_guard(agent: Agent) -> Self {
        Self::start_with(agent, pod(), CgroupRoot::with_pods(), OptionalParts { uplink: false, host_pods: false }).await
    }

    /// Starts a daemon as [`Daemon::start_on`] does. It redirects pods on the host network.
    pub(crate) async fn start_redirecting(agent: Agent, node: Netns, cgroups: CgroupRoot) -> Self {
        Self::start_with(agent, node, cgroups, OptionalParts { uplink: true, host_pods: true }).await
    }

    async fn start_with(agent: Agent, node: Netns, cgroups: CgroupRoot, optional_parts: OptionalParts) -> Self {
        let (pins, cni) = (Pins::new(), agent.path.with_file_name("net.d"));
        std::fs::create_dir(&cni).unwrap();
        let mut daemon = Self {
            node: Arc::new(node),
            counters: Arc::default(),
            findings: Arc::default(),
            checks: Arc::default(),
            node_pods: Arc::default(),
            is_ready: Arc::default(),
            optional_parts,
            cni,
            stop_tx: None,
            thread: None,
            agent,
            pins,
            cgroups,
        };
        daemon.spawn();
        wait_until("the guards exist", || daemon.guards().2.contains("podmeta")).await;
        daemon
    }

    /// Stops the daemon, and starts another one that knows nothing of the first one.
    pub(crate) fn restart(&mut self) {
        self.stop().unwrap().unwrap();
        (self.counters, self.findings, self.checks) = Default::default();
        (self.node_pods, self.is_ready) = Default::default();
        self.spawn();
    }

    fn spawn(&mut self) {
        let config = DaemonConfig {
            agent_namespace: self.agent.path.clone(),
            guard_pins: self.optional_parts.uplink.then(|| self.pins.path.clone()),
            host_pods_pins: self.optional_parts.host_pods.then(|| self.pins.path.clone()),
            node_pods: Arc::clone(&self.node_pods),
            cgroup_root: self.cgroups.0.clone(),
            node_metadata_namespaces: vec!["shop".to_owned()],
            cni_config_dir: self.cni.clone(),
            runtime_socket: runtime_socket(&self.agent),
            settings: LinkSettings::default(),
        };
        let (stop_tx, stop_rx) = oneshot::channel();
        let (node, counters, is_ready) =
            (Arc::clone(&self.node), Arc::clone(&self.counters), Arc::clone(&self.is_ready));
        let (findings, checks) = (Arc::clone(&self.findings), Arc::clone(&self.checks));
        let thread = std::thread::spawn(move || {
            let daemon = node.run(|| {
                capabilities::limit_thread();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let set_ready = || is_ready.store(true, Ordering::Relaxed);
                runtime.block_on(async {
                    tokio::select! {
                        result = daemon::run(config, counters, findings, checks, set_ready) => panic!("the daemon ended: {result:?}"),
                        _ = stop_rx => {}
                    }
                });
                runtime.shutdown_background();
                Ok(())
            });
            daemon.unwrap();
        });
        (self.stop_tx, self.thread) = (Some(stop_tx), Some(thread));
    }

    /// Stops the daemon. Returns the result of its thread.
    fn stop(&mut self) -> Option<std::thread::Result<()>> {
        drop(self.stop_tx.take());
        self.thread.take().map(JoinHandle::join)
    }

    /// Returns true if the daemon has completed its first pass.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Returns the routing rules of both families, and the tables.
    pub(super) fn guards(&self) -> (String, String, String) {
        let tables = run(&self.node, "nft -s list ruleset");
        (run(&self.node, "ip rule"), run(&self.node, "ip -6 rule"), tables)
    }

    /// Waits until a condition is met, and returns the time since `start`.
    pub(super) async fn repair_time(&self, start: Instant, is_repaired: impl Fn(CounterSnapshot) -> bool) -> Duration {
        wait_until("the repair", || is_repaired(self.counters.snapshot())).await;
        start.elapsed()
    }

    /// Returns podmeta's configuration once it contains a text, and the time since `start`.
    pub(crate) async fn wait_for_conflist(&self, start: Instant, text: &str) -> Duration {
        let content = || std::fs::read_to_string(self.cni.join(FILE_NAME)).unwrap_or_default();
        wait_until(&format!("{FILE_NAME} contains {text}"), || content().contains(text)).await;
        start.elapsed()
    }
}

/// Returns the path of the container runtime's socket.
pub(crate) fn runtime_socket(agent: &Agent) -> PathBuf {
    agent.path.with_file_name("runtime.sock")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let result = self.stop();
        if !std::thread::panicking() {
            result.unwrap().unwrap();
        }
    }
}
