//! Redirects pods on the host network to the node agent: keeps the node's link, the programs and their exempt pods in place.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::sync::oneshot;

use super::DaemonConfig;
use super::cgroup_changes::check_after_changes;
use crate::agent_ns;
use crate::cri::{RuntimeClient, Sandbox};
use crate::findings::SharedFindings;
use crate::host_pods::{HostPods, HostPodsRepairs, OtherPods, UnredirectedPods};
use crate::netns::Netns;

/// Minimum interval of checks of the link and the programs. They cost more than the exemption of a new pod.
const REPAIR_INTERVAL: Duration = Duration::from_secs(1);

struct Redirection<'a> {
    config: &'a DaemonConfig,
    host: Netns,
    runtime: RuntimeClient,
    pods: HostPods,
    /// Time of the last check of the link and the programs.
    repaired: Option<Instant>,
}

/// Keeps the redirection in place. A failure is a finding. Sends to `checked_tx` once, after the first check of the link and the
/// programs, or at once if the redirection is off. Does not return.
pub(super) async fn run(
    config: &DaemonConfig,
    host: Netns,
    findings: &SharedFindings,
    checked_tx: oneshot::Sender<()>,
) {
    let mut checked_tx = Some(checked_tx);
    let mut send_checked = || checked_tx.take().map(|checked_tx| checked_tx.send(()));
    let Some(pins) = config.host_pods_pins.clone() else {
        let _closed = send_checked();
        return std::future::pending().await;
    };
    let runtime = RuntimeClient::new(config.runtime_socket.clone());
    let pods = HostPods::new(pins, config.cgroup_root.clone());
    let mut redirection = Redirection { config, host, runtime, pods, repaired: None };
    check_after_changes(&config.cgroup_root, async || {
        let finding = redirection.check().await.err().map(|error| {
            format!("{error:#}; pods on the host network are not served, or reach the node's metadata service")
        });
        findings.set(NodeFindingKind::HostPods, finding);
        if redirection.repaired.is_some() {
            let _closed = send_checked();
        }
    })
    .await;
}

impl Redirection<'_> {
    /// Exempts new pods. Makes or repairs link and programs at most once per interval.
    async fn check(&mut self) -> Result<()> {
        let sandboxes = self.runtime.running_sandboxes().await;
        let exempt = exempt(self.config, &sandboxes.context("cannot list the pods of the node")?);
        // First, because the other steps are slow and can fail.
        let exempted = self.pods.exempt(&exempt.pods).context("cannot exempt new pods");
        if self.repaired.is_none_or(|repaired| repaired.elapsed() >= REPAIR_INTERVAL) {
            self.repair(&exempt).await?;
        }
        exempted
    }

    async fn repair(&mut self, exempt: &UnredirectedPods) -> Result<()> {
        let agent = agent_ns::open_pinned(&self.config.agent_namespace).await?;
        let result = self.pods.ensure(&self.host, &agent, self.config.settings.link_range, exempt).await;
        self.repaired = Some(Instant::now());
        let repairs = result?;
        if repairs != HostPodsRepairs::default() {
            let HostPodsRepairs { link, programs, ended_connections } = repairs;
            tracing::info!(
                link,
                programs,
                ended_connections,
                "made the node's link, or attached programs for pods on the host network"
            );
        }
        Ok(())
    }
}

/// Returns the pods that use the node's own metadata service: those of the exempt namespaces, and those that the operator leaves to it.
/// The result can contain pods with a network of their own, which the programs do not redirect.
fn exempt(config: &DaemonConfig, sandboxes: &[Sandbox]) -> UnredirectedPods {
    let is_listed = |sandbox: &&Sandbox| {
        let namespace = sandbox.pod_name.split('/').next().unwrap_or_default();
        config.node_metadata_namespaces.iter().any(|exempt| exempt == namespace)
    };
    let mut pods = sandboxes.iter().filter(is_listed).map(|sandbox| sandbox.pod.clone()).collect::<BTreeSet<_>>();
    let node_pods = config.node_pods.get();
    let others = if node_pods.is_none() { OtherPods::Keep } else { OtherPods::Redirect };
    pods.extend(node_pods.unwrap_or_default());
    UnredirectedPods { pods, others }
}
