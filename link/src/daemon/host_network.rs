//! Keeps pods on the host network from the node's metadata service, except pods of exempt namespaces, such as network plugins
//! and cloud controllers.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use podmeta_metadata::node_finding::NodeFindingKind;

use super::DaemonConfig;
use crate::cri::Sandbox;
use crate::findings::SharedFindings;
use crate::guard::uplink::cgroups::{CgroupEntries, MAX_EXEMPT_PODS};

/// The array of cgroups as the last check wrote it. A process runs one daemon.
static ENTRIES: Mutex<CgroupEntries> = Mutex::new(CgroupEntries::new());

/// Writes the cgroups of the node's pods into the uplink guard. `may_be_on_host` are the running sandboxes that may use the
/// host's network. A failure is a finding.
pub(super) fn check(config: &DaemonConfig, findings: &SharedFindings, may_be_on_host: &[&Sandbox]) {
    let is_exempt = |sandbox: &&&Sandbox| {
        let namespace = sandbox.pod_name.split('/').next().unwrap_or_default();
        config.node_metadata_namespaces.iter().any(|exempt| exempt == namespace)
    };
    let exempt = may_be_on_host.iter().filter(is_exempt).map(|sandbox| &sandbox.pod).collect::<BTreeSet<_>>();
    let Some(pins) = &config.guard_pins else { return };
    let finding = match entries.update(pins, &config.cgroup_root, &exempt) {
        Err(error) => Some(format!("{error:#}; pods on the host network can reach the node's metadata service")),
        Ok(false) if !may_be_on_host.is_empty() => Some(
            "the kubelet's cgroup of pods is not found, so pods on the host network can reach the node's metadata service; \
             use cgroup v2 and the kubelet's default cgroup root"
                .to_owned(),
        ),
        Ok(_) if exempt.len() > MAX_EXEMPT_PODS => Some(format!(
            "{} pods on the host network are exempt, and only {MAX_EXEMPT_PODS} of them reach the node's metadata service; \
             exempt fewer namespaces",
            exempt.len()
        )),
        Ok(_) => None,
    };
    findings.set(NodeFindingKind::HostNetwork, finding);
}
