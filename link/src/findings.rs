//! The findings about the node that the tasks of the link daemon share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use podmeta_metadata::node_finding::{NodeFindingKind, NodeFindings};

/// The current findings. Each change is logged.
#[derive(Debug, Default)]
pub struct SharedFindings(Mutex<NodeFindings>);

impl SharedFindings {
    /// Sets the message of a kind, or removes the finding.
    pub(crate) fn set(&self, kind: NodeFindingKind, message: Option<String>) {
        let mut findings = self.lock();
        let before = findings.clone();
        match message {
            Some(message) => findings.insert(kind, message),
            None => findings.remove(&kind),
        };
        log_changes(&before, &findings);
    }

    /// Returns the current findings.
    #[must_use]
    pub fn snapshot(&self) -> NodeFindings {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, NodeFindings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs new, changed and resolved findings.
pub fn log_changes(before: &NodeFindings, after: &NodeFindings) {
    for (kind, message) in after.iter().filter(|(kind, message)| before.get(kind) != Some(message)) {
        tracing::warn!(kind = kind.as_str(), finding = message, "the node does not meet a requirement");
    }
    for kind in before.keys().filter(|kind| !after.contains_key(kind)) {
        tracing::info!(kind = kind.as_str(), "the node meets a requirement again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_replaced_and_removed_by_kind() {
        let findings = SharedFindings::default();
        findings.set(NodeFindingKind::Guards, Some("a".to_owned()));
        findings.set(NodeFindingKind::CniOrder, Some("b".to_owned()));
        findings.set(NodeFindingKind::Guards, Some("c".to_owned()));
        findings.set(NodeFindingKind::CniOrder, None);
        findings.set(NodeFindingKind::CniConfig, None);
        assert_eq!(findings.snapshot(), NodeFindings::from([(NodeFindingKind::Guards, "c".to_owned())]));
    }
}
