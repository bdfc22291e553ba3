//! A node whose pods connect to the node agent through links.

#[path = "agent_process.rs"]
mod agent_process;

use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixStream;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podmeta_agent_api::WorkloadItem;
use podmeta_crds::manifests::{ManifestFile, load};
use podmeta_link::netns::Netns;
use podmeta_link::pod_link;
use podmeta_link::range::LinkRange;
use podmeta_metadata::compile::{ConfigMapValues, Outcome, Settings, compile};
use podmeta_metadata::dialect::Dialect;

use crate::kit::{Agent, alias, block_until};
use crate::runtime::FakeSandbox;

pub(crate) use agent_process::{LinkAgentProcess, RELEASE};

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
