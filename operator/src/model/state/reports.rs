//! The reports of node agents, in the operator's state. A report changes the status of the profiles of its pods.

use podmeta_agent_api::calls::Report;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};
use tokio::time::Instant;

use super::OperatorState;
use crate::model::compiled_pod::ProfileKey;
use crate::model::node_guard::ReportedGuard;
use crate::text::replace_control_characters;

/// Maximum length of a message of an agent, in characters. A longer one is cut.
pub(super) const MAX_REPORT_MESSAGE_LENGTH: usize = 512;

impl OperatorState {
    /// Removes the report of a node.
    pub(super) fn remove_report(&mut self, node: &str) {
        self.node_guards.remove(node);
        self.node_findings.remove(node);
        let report = self.reports.remove(node).unwrap_or_default();
        if report.host_pods {
            self.mark_host_network_profiles(node);
        }
        let profiles = report.pods.keys().filter_map(|uid| self.pod_on_node(node, uid)?.profile());
        let profiles: Vec<ProfileKey> = profiles.map(ProfileKey::of).collect();
        self.index.mark_changed(profiles);
    }

    /// Records a report and returns true, or returns false if this replica is not the leader. Does not record the report of a node
    /// that does not exist, because it must not count for a later node with the same name.
    pub(super) fn record_report(&mut self, node: &str, mut report: Report, received: Instant) -> bool {
        if !self.is_leader {
            return false;
        }
        if !self.index.has_node(node) {
            return true;
        }
        let findings = std::mem::take(&mut report.findings).into_iter();
        let findings = findings.map(|(kind, message)| (kind, clean(&message))).collect::<NodeFindings>();
        for message in report.pods.values_mut().flat_map(|pod| pod.credentials.values_mut()).flatten() {
            *message = clean(message);
        }
        // With this finding, the redirection is on but not in place.
        report.host_pods &= !findings.contains_key(&NodeFindingKind::HostPods);
        if findings.is_empty() {
            self.node_findings.remove(node);
        } else {
            self.node_findings.insert(node.to_owned(), findings);
        }
        let guard = std::mem::take(&mut report.guard);
        self.node_guards.insert(node.to_owned(), ReportedGuard::new(guard, received));
        let before = self.reports.get(node);
        let has_changed = |uid: &PodUid| before.and_then(|before| before.pods.get(uid)) != report.pods.get(uid);
        let uids = report.pods.keys().chain(before.into_iter().flat_map(|before| before.pods.keys()));
        let profiles = uids.filter(|uid| has_changed(uid)).filter_map(|uid| self.pod_on_node(node, uid)?.profile());
        let profiles: Vec<ProfileKey> = profiles.map(ProfileKey::of).collect();
        self.index.mark_changed(profiles);
        let host_pods = report.host_pods;
        let before = self.reports.insert(node.to_owned(), report);
        if before.is_some_and(|before| before.host_pods) != host_pods {
            self.mark_host_network_profiles(node);
        }
        true
    }

    /// Marks the profiles of the pods on the host network of a node as changed.
    fn mark_host_network_profiles(&mut self, node: &str) {
        self.index.mark_changed(self.feed.host_network_profiles(node).cloned());
    }
}

/// Cuts a message of an agent, and replaces control characters in it.
pub(in crate::model) fn clean(message: &str) -> String {
    replace_control_characters(message).chars().take(MAX_REPORT_MESSAGE_LENGTH).collect()
}
