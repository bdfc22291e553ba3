//! Redirects pods on the host network to the node agent: keeps the node's link and the programs in place.

use std::collections::BTreeSet;

use podmeta_metadata::node_finding::NodeFindingKind;

use super::DaemonConfig;
use crate::cri::Sandbox;
use crate::findings::SharedFindings;
use crate::host_pods::{HostPods, HostPodsRepairs, OtherPods, UnredirectedPods};
use crate::netns::Netns;

/// Makes or repairs the node's link and the programs. `may_be_on_host` contains the running sandboxes that are not known to have
/// their own network namespace. A failure is a finding.
pub(super) async fn check(
    pods: &mut HostPods,
    config: &DaemonConfig,
    findings: &SharedFindings,
    [host, agent]: [&Netns; 2],
    may_be_on_host: &[&Sandbox],
) {
    let exempt = exempt(config, may_be_on_host);
    let result = pods.ensure(host, agent, config.settings.link_range, &exempt).await;
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
}

/// Returns the pods that use the node's own metadata service: those of the exempt namespaces, and those that the operator leaves to it.
fn exempt(config: &DaemonConfig, may_be_on_host: &[&Sandbox]) -> UnredirectedPods {
    let is_listed = |sandbox: &&&Sandbox| {
        let namespace = sandbox.pod_name.split('/').next().unwrap_or_default();
        config.node_metadata_namespaces.iter().any(|exempt| exempt == namespace)
    };
    let mut pods = may_be_on_host.iter().filter(is_listed).map(|sandbox| sandbox.pod.clone()).collect::<BTreeSet<_>>();
    let node_pods = config.node_pods.get();
    let others = if node_pods.is_none() { OtherPods::Keep } else { OtherPods::Redirect };
    pods.extend(node_pods.unwrap_or_default());
    UnredirectedPods { pods, others }
}
