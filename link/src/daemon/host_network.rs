//! Keeps pods on the host network from the node's metadata service, except pods of exempt namespaces, such as network plugins
//! and cloud controllers.

use std::collections::BTreeSet;

use podmeta_metadata::node_finding::NodeFindingKind;

use super::DaemonConfig;
use crate::cri::Sandbox;
use crate::findings::SharedFindings;
use crate::guard::uplink::cgroups::{CgroupEntries, CgroupUpdate, MAX_EXEMPT_PODS};

/// Writes the cgroups of the node's pods into the uplink guard. `may_be_on_host` are the running sandboxes that may use the
/// host's network. `entries` is the array as the last check wrote it. A failure is a finding.
pub(super) fn check(
    config: &DaemonConfig,
    findings: &SharedFindings,
    entries: &mut CgroupEntries,
    may_be_on_host: &[&Sandbox],
) {
    let is_exempt = |sandbox: &&&Sandbox| {
        let namespace = sandbox.pod_name.split('/').next().unwrap_or_default();
        config.node_metadata_namespaces.iter().any(|exempt| exempt == namespace)
    };
    let exempt = may_be_on_host.iter().filter(is_exempt).map(|sandbox| &sandbox.pod).collect::<BTreeSet<_>>();
    let Some(pins) = &config.guard_pins else { return };
    let update = entries.update(pins, &config.cgroup_root, &exempt);
    findings.set(NodeFindingKind::HostNetwork, finding(&update, !may_be_on_host.is_empty(), exempt.len()));
}

/// Returns the finding about an update, or `None` if it succeeded. `has_pods` is true if pods may be on the host network.
fn finding(update: &CgroupUpdate, has_pods: bool, exempt: usize) -> Option<String> {
    let of_pods = match &update.pods {
        Err(error) => Some(format!("{error:#}; pods on the host network can reach the node's metadata service")),
        Ok(false) if has_pods => Some(
            "the kubelet's cgroup of pods is not found, so pods on the host network can reach the node's metadata service; \
             use cgroup v2 and the kubelet's default cgroup root"
                .to_owned(),
        ),
        Ok(_) => None,
    };
    let of_exempt = match &update.exempt {
        Err(error) => Some(format!("exempt pods can lose the node's metadata service: {error:#}")),
        Ok(()) if exempt > MAX_EXEMPT_PODS => Some(format!(
            "{exempt} pods on the host network are exempt, and only {MAX_EXEMPT_PODS} of them reach the node's metadata service; \
             exempt fewer namespaces"
        )),
        Ok(()) => None,
    };
    let texts = of_pods.into_iter().chain(of_exempt).collect::<Vec<_>>();
    (!texts.is_empty()).then(|| texts.join("; "))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn finding_about_exempt_pods_does_not_claim_access_of_pods() {
        let update = CgroupUpdate { pods: Ok(true), exempt: Err(anyhow!("no memory")) };
        let text = finding(&update, true, 1).unwrap();
        assert_eq!(text, "exempt pods can lose the node's metadata service: no memory");
    }

    #[test]
    fn failures_of_pods_and_of_exempt_pods_are_one_finding() {
        let update = CgroupUpdate { pods: Err(anyhow!("no kubepods")), exempt: Err(anyhow!("no memory")) };
        let text = finding(&update, true, 1).unwrap();
        assert!(text.contains("no kubepods; pods on the host network can reach"), "{text}");
        assert!(text.contains("exempt pods can lose the node's metadata service: no memory"), "{text}");
    }

    #[test]
    fn node_without_pods_on_the_host_network_has_no_finding() {
        assert_eq!(finding(&CgroupUpdate { pods: Ok(false), exempt: Ok(()) }, false, 0), None);
    }
}
