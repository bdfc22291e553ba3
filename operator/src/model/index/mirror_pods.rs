//! Mirror pods. Agents know a static pod by the UID in the annotation of its mirror pod. The creator of a mirror pod
//! chooses that UID, so it is only a claim. A mirror pod whose UID another pod has is not sent to its agent.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use podmeta_metadata::facts::{PodFacts, PodOrigin};
use podmeta_metadata::names::PodUid;

use super::{Index, PodUpdate};

/// The mirror pods that claim a UID, by UID and node.
pub(super) type Claims = HashMap<PodUid, BTreeMap<String, BTreeSet<PodUid>>>;

/// Returns the UID that a mirror pod claims.
fn claimed_uid(facts: &PodFacts) -> Option<&PodUid> {
    match &facts.origin {
        PodOrigin::Mirror { static_uid } => static_uid.as_ref(),
        PodOrigin::Client => None,
    }
}

impl Index {
    /// Returns true if a pod is a mirror pod.
    #[must_use]
    pub fn is_mirror(&self, uid: &PodUid) -> bool {
        self.pods.get(uid).is_some_and(|pod| pod.facts.is_mirror())
    }

    /// Returns true unless the pod is a mirror pod that claims the UID of another pod. A UID belongs to the pod object
    /// that has it, on every node. If several mirror pods of one node claim a UID, it belongs to none of them.
    pub(super) fn has_own_uid(&self, uid: &PodUid) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        let Some(claimed) = claimed_uid(&pod.facts) else { return true };
        let is_taken = claimed != uid && self.pods.contains_key(claimed);
        !is_taken && self.claimants(claimed, &pod.node).is_none_or(|claimants| claimants.len() == 1)
    }

    /// Records the claim of a pod that was added, and withdraws the mirror pods that lose their UID by it.
    pub(super) fn add_claim(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get(uid) else { return };
        let (claimed, node) = (claimed_uid(&pod.facts).cloned(), pod.node.clone());
        if let Some(claimed) = &claimed {
            let nodes = self.claims.entry(claimed.clone()).or_default();
            nodes.entry(node.clone()).or_default().insert(uid.clone());
        }
        self.check_claims(uid, claimed.as_ref(), &node);
    }

    /// Removes the claim of a pod that was removed. Another mirror pod can now be the only one that claims the UID.
    pub(super) fn remove_claim(&mut self, uid: &PodUid, facts: &PodFacts, node: &str) {
        let claimed = claimed_uid(facts);
        if let Some(claimed) = claimed
            && let Some(nodes) = self.claims.get_mut(claimed)
        {
            if let Some(claimants) = nodes.get_mut(node) {
                claimants.remove(uid);
            }
            nodes.retain(|_, claimants| !claimants.is_empty());
            if nodes.is_empty() {
                self.claims.remove(claimed);
            }
        }
        self.check_claims(uid, claimed, node);
    }

    fn claimants(&self, claimed: &PodUid, node: &str) -> Option<&BTreeSet<PodUid>> {
        self.claims.get(claimed)?.get(node)
    }

    /// Marks mirror pods for compilation after a pod with this UID and claim was added or removed. A mirror pod that lost its UID
    /// is withdrawn immediately, so that agents get its deletion before they get the pod that has the UID now.
    fn check_claims(&mut self, uid: &PodUid, claimed: Option<&PodUid>, node: &str) {
        let everywhere = self.claims.get(uid).into_iter().flat_map(BTreeMap::values).flatten();
        // Nothing changes for three or more: none of them has the UID.
        let rivals = claimed.and_then(|claimed| self.claimants(claimed, node)).filter(|rivals| rivals.len() <= 2);
        for claimant in everywhere.chain(rivals.into_iter().flatten()).cloned().collect::<Vec<_>>() {
            let has_own_uid = self.has_own_uid(&claimant);
            let Some(pod) = self.pods.get_mut(&claimant) else { continue };
            if !has_own_uid && pod.compiled.take().is_some() {
                // No profile matches a mirror pod, so no status depends on it.
                let update = PodUpdate { pod: pod.facts.runtime_uid().clone(), node: pod.node.clone(), compiled: None };
                self.deleted_pods.push(update);
            }
            let namespace = pod.facts.metadata.namespace.clone();
            self.pending_pods.insert(&namespace, claimant);
        }
    }
}
