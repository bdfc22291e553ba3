//! Redirects pods on the host network to the node agent: keeps the node's link and the programs in place.

use std::collections::BTreeSet;

use anyhow::Result;
use podmeta_metadata::node_finding::NodeFindingKind;
use tokio::sync::oneshot;

use super::DaemonConfig;
use super::cgroup_changes::check_after_changes;
use crate::agent_ns;
use crate::cri::{RuntimeClient, Sandbox};
use crate::findings::SharedFindings;
use crate::host_pods::{HostPods, HostPodsRepairs, OtherPods, UnredirectedPods};
use crate::netns::Netns;

/// Keeps the node's link, the programs and their exempt pods in place. Sends to `checked_tx` once, after the first check, or at once if
/// the redirection is off. Does not return.
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
    let mut runtime = RuntimeClient::new(config.runtime_socket.clone());
    let mut pods = HostPods::new(pins, config.cgroup_root.clone());
    check_after_changes(&config.cgroup_root, async || {
        match check(&mut pods, config, &mut runtime, &host, findings).await {
            Ok(()) => drop(send_checked()),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot check pods on the host network; retrying");
            }
        }
    })
    .await;
}

/// Makes or repairs the node's link and the programs. A failure of this is a finding.
///
/// # Errors
/// If the running pods or the agent namespace cannot be read. Then nothing is changed.
async fn check(
    pods: &mut HostPods,
    config: &DaemonConfig,
    runtime: &mut RuntimeClient,
    host: &Netns,
    findings: &SharedFindings,
) -> Result<()> {
    let exempt = exempt(config, &runtime.running_sandboxes().await?);
    let agent = agent_ns::open_pinned(&config.agent_namespace).await?;
    let result = pods.ensure(host, &agent, config.settings.link_range, &exempt).await;
    let finding = |error: &anyhow::Error| {
        format!("{error:#}; pods on the host network are not served, or reach the node's metadata service")
    };
    findings.set(NodeFindingKind::HostPods, result.as_ref().err().map(finding));
    match result {
        Ok(repairs) if repairs != HostPodsRepairs::default() => {
            let HostPodsRepairs { link, programs, ended_connections } = repairs;
            tracing::info!(
                link,
                programs,
                ended_connections,
                "made the node's link, or attached programs for pods on the host network"
            );
        }
        _ => {}
    }
    Ok(())
}

/// Returns the pods that use the node's own metadata service: those of the exempt namespaces, and those that the operator leaves to it.
/// The programs do not redirect pods with their own network, so these may be among them.
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
