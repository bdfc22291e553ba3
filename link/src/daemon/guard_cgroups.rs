//! Writes the cgroups of the node's pods into the map of the uplink guard, which then keeps pods on the host network from the
//! node's metadata service. Pods of the configured namespaces, such as network plugins and cloud controllers, are
//! exempt.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use anyhow::Error;
use podmeta_metadata::node_finding::NodeFindingKind;

use super::DaemonConfig;
use super::cgroup_changes::check_after_changes;
use crate::checks::SharedChecks;
use crate::cri::{NetworkMode, RuntimeClient, Sandbox};
use crate::findings::SharedFindings;
use crate::guard::uplink::cgroups::{self, CgroupUpdate, ExemptPods};

/// Writes the cgroups of the node's pods into the map of the uplink guard, after each new cgroup. Does nothing if the guard is off. A
/// failure is a finding.
pub(super) async fn run(config: &DaemonConfig, findings: &SharedFindings, checks: &SharedChecks) {
    if config.guard_pins.is_none() {
        std::future::pending::<()>().await;
    }
    let mut exemptions = Exemptions::new(config);
    check_after_changes(&config.cgroup_root, async || {
        let (update, errors) = exemptions.check().await;
        let pods = pods_error(&update);
        findings.set(NodeFindingKind::HostNetwork, finding(pods.clone(), &update, &errors));
        checks.record_pod_cgroups(pods.map_or(Ok(()), Err), Instant::now());
    })
    .await;
}

/// The exempt pods of the node.
struct Exemptions<'a> {
    config: &'a DaemonConfig,
    runtime: RuntimeClient,
    /// Networks of the running sandboxes in exempt namespaces, by sandbox ID.
    networks: HashMap<String, NetworkMode>,
    /// The exempt sandboxes of the last successful list.
    sandboxes: Vec<Sandbox>,
}

impl<'a> Exemptions<'a> {
    fn new(config: &'a DaemonConfig) -> Self {
        let runtime = RuntimeClient::new(config.runtime_socket.clone());
        Self { config, runtime, networks: HashMap::new(), sandboxes: Vec::new() }
    }

    /// Writes the current cgroups. Returns the result with the errors of the container runtime.
    async fn check(&mut self) -> (CgroupUpdate, Vec<Error>) {
        let errors = self.read_sandboxes().await;
        let is_on_host = |sandbox: &&Sandbox| self.networks.get(sandbox.id.as_str()) == Some(&NetworkMode::Node);
        let node_pods = self.config.node_pods.get();
        // After a restart of the daemon, those of before stay exempt. No agent reports pods if they are not redirected.
        let is_reported = node_pods.is_some() || self.config.host_pods_pins.is_none();
        let node_pods = node_pods.unwrap_or_default();
        let sandboxes = self.sandboxes.iter().filter(is_on_host).map(|sandbox| &sandbox.pod);
        let exempt = sandboxes.chain(&node_pods).collect::<BTreeSet<_>>();
        let is_complete = errors.is_empty() && is_reported;
        let exempt = if is_complete { ExemptPods::All(&exempt) } else { ExemptPods::Known(&exempt) };
        let pins = self.config.guard_pins.as_deref().unwrap_or_else(|| std::path::Path::new(""));
        (cgroups::update(pins, &self.config.cgroup_root, exempt), errors)
    }

    /// Lists the sandboxes of exempt namespaces, and reads the networks of new ones.
    async fn read_sandboxes(&mut self) -> Vec<Error> {
        if self.config.node_metadata_namespaces.is_empty() {
            return Vec::new();
        }
        let sandboxes = match self.runtime.running_sandboxes().await {
            Ok(sandboxes) => sandboxes,
            Err(error) => return vec![error],
        };
        let is_exempt = |sandbox: &Sandbox| {
            let namespace = sandbox.pod_name.split('/').next().unwrap_or_default();
            self.config.node_metadata_namespaces.iter().any(|exempt| exempt == namespace)
        };
        self.sandboxes = sandboxes.into_iter().filter(is_exempt).collect();
        let running = self.sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect::<HashSet<_>>();
        self.networks.retain(|id, _| running.contains(id.as_str()));
        let mut errors = Vec::new();
        for sandbox in &self.sandboxes {
            if self.networks.contains_key(sandbox.id.as_str()) {
                continue;
            }
            match self.runtime.details(&sandbox.id).await {
                Ok(details) => drop(self.networks.insert(sandbox.id.as_str().to_owned(), details.network)),
                Err(error) => {
                    errors.push(error.context(format!("cannot read the network of pod {}", sandbox.pod_name)))
                }
            }
        }
        errors
    }
}

/// Returns the reason why pods on the host network are not kept from the service, or `None`.
fn pods_error(update: &CgroupUpdate) -> Option<String> {
    match &update.pods {
        Err(error) => Some(format!("{error:#}; pods on the host network can reach the node's metadata service")),
        Ok(false) => Some(
            "the kubelet's cgroup of pods is not found, so pods on the host network can reach the node's metadata service; \
             use cgroup v2 and the kubelet's default cgroup root"
                .to_owned(),
        ),
        Ok(true) => None,
    }
}

/// Returns the finding about a check, or `None` if it succeeded.
fn finding(pods: Option<String>, update: &CgroupUpdate, runtime: &[Error]) -> Option<String> {
    let exempt = update.exempt.as_ref().err().into_iter().chain(runtime.first());
    let exempt = exempt.map(|error| format!("exempt pods can lose the node's metadata service: {error:#}"));
    let texts = pods.into_iter().chain(exempt).collect::<Vec<_>>();
    (!texts.is_empty()).then(|| texts.join("; "))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn finding_about(update: &CgroupUpdate, runtime: &[Error]) -> Option<String> {
        finding(pods_error(update), update, runtime)
    }

    #[test]
    fn finding_about_exempt_pods_does_not_claim_access_of_pods() {
        let update = CgroupUpdate { pods: Ok(true), exempt: Err(anyhow!("no memory")) };
        let text = finding_about(&update, &[]).unwrap();
        assert_eq!(text, "exempt pods can lose the node's metadata service: no memory");
        let text = finding_about(&CgroupUpdate { pods: Ok(true), exempt: Ok(()) }, &[anyhow!("no runtime")]).unwrap();
        assert_eq!(text, "exempt pods can lose the node's metadata service: no runtime");
    }

    #[test]
    fn failures_of_pods_and_of_exempt_pods_are_one_finding() {
        let update = CgroupUpdate { pods: Err(anyhow!("no kubepods")), exempt: Err(anyhow!("no memory")) };
        let text = finding_about(&update, &[]).unwrap();
        assert!(text.contains("no kubepods; pods on the host network can reach"), "{text}");
        assert!(text.contains("exempt pods can lose the node's metadata service: no memory"), "{text}");
    }

    #[test]
    fn node_without_a_cgroup_of_pods_is_a_finding() {
        let text = finding_about(&CgroupUpdate { pods: Ok(false), exempt: Ok(()) }, &[]).unwrap();
        assert!(text.contains("default cgroup root"), "{text}");
        assert_eq!(finding_about(&CgroupUpdate { pods: Ok(true), exempt: Ok(()) }, &[]), None);
    }
}
