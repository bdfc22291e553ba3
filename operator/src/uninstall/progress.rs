//! Tracks which nodes are clean: podmeta is removed from them. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;

use super::link_daemon_set::UNINSTALL;

/// The nodes that had or have a pod of the link DaemonSet, and those that are clean.
#[derive(Debug, Default)]
pub(super) struct UninstallProgress {
    nodes: BTreeSet<String>,
    clean: BTreeSet<String>,
    /// Number of nodes that need a pod, or `None` if it is not known for the current template.
    desired: Option<usize>,
}

impl UninstallProgress {
    /// Adds what the API server reports now.
    pub(super) fn observe(&mut self, links: &DaemonSet, pods: &[Pod]) {
        self.nodes.extend(nodes(pods).map(str::to_owned));
        self.clean = nodes(pods.iter().filter(|pod| is_clean(pod))).map(str::to_owned).collect();
        let status = links.status.as_ref().filter(|status| status.observed_generation >= links.metadata.generation);
        self.desired = status.and_then(|status| usize::try_from(status.desired_number_scheduled).ok());
    }

    /// Returns true if all nodes that need a pod are clean. A node that left the cluster needs none.
    pub(super) fn is_complete(&self) -> bool {
        self.desired.is_some_and(|desired| self.clean.len() >= desired)
    }

    /// Returns the names of these nodes that never had a pod of the link DaemonSet.
    pub(super) fn other_nodes(&self, nodes: impl IntoIterator<Item = String>) -> Vec<String> {
        nodes.into_iter().filter(|node| !self.nodes.contains(node)).collect()
    }

    /// Returns the number of nodes from which podmeta is removed.
    pub(super) fn clean_nodes(&self) -> usize {
        self.clean.len()
    }

    /// Describes the nodes that are not clean.
    pub(super) fn remaining(&self) -> String {
        let named = self.nodes.difference(&self.clean).map(String::as_str).collect::<Vec<_>>().join(", ");
        let unnamed = self.desired.map_or(0, |desired| desired.saturating_sub(self.nodes.len()));
        match (named.as_str(), unnamed) {
            ("", 0) => "all nodes: the state of the link DaemonSet is unknown".to_owned(),
            ("", unnamed) => format!("nodes without a pod of the link DaemonSet: {unnamed}"),
            (named, 0) => format!("these nodes: {named}"),
            (named, unnamed) => {
                format!("these nodes: {named}; nodes without a pod of the link DaemonSet: {unnamed}")
            }
        }
    }
}

/// Returns the names of the nodes of these pods.
pub(super) fn nodes<'p>(pods: impl IntoIterator<Item = &'p Pod>) -> impl Iterator<Item = &'p str> {
    pods.into_iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref())
}

/// Returns true if a pod has removed podmeta from its node.
fn is_clean(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let commands = containers.filter_map(|container| container.args.as_ref()?.first());
    let uninstalls = commands.into_iter().any(|command| command == UNINSTALL);
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    uninstalls && is_ready && pod.metadata.deletion_timestamp.is_none()
}
