//! Mirror pods. Agents know a static pod by the UID in the annotation of its mirror pod. Everyone who may create a mirror
//! pod chooses that UID, so it is only a claim: a mirror pod whose UID another pod has is not sent to its agent.

use podmeta_metadata::facts::{PodFacts, PodOrigin};
use podmeta_metadata::names::PodUid;

use super::{Index, PodUpdate};

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

    /// Returns true unless the pod is a mirror pod that claims the UID of another pod. Pods of the API server win on
    /// every node. Of several mirror pods of one node, none wins.
    pub(super) fn has_own_uid(&self, uid: &PodUid) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        let Some(claimed) = claimed_uid(&pod.facts) else { return true };
        let claimants = self.claimants.get(claimed).into_iter().flatten();
        let mut rivals = claimants.filter(|other| *other != uid).filter_map(|other| self.pods.get(other));
        let is_taken = claimed != uid && self.pods.contains_key(claimed);
        !is_taken && !rivals.any(|rival| rival.node == pod.node)
    }

    /// Records the claim of a pod that was added, and withdraws the mirror pods that lose their UID by it.
    pub(super) fn add_claim(&mut self, uid: &PodUid) {
        let claimed = self.pods.get(uid).and_then(|pod| claimed_uid(&pod.facts)).cloned();
        if let Some(claimed) = &claimed {
            self.claimants.entry(claimed.clone()).or_default().insert(uid.clone());
        }
        self.check_claimants(uid, claimed.as_ref());
    }

    /// Removes the claim of a pod that was removed. Other mirror pods may have their UID to themselves now.
    pub(super) fn remove_claim(&mut self, uid: &PodUid, facts: &PodFacts) {
        let claimed = claimed_uid(facts);
        if let Some(claimed) = claimed
            && let Some(claimants) = self.claimants.get_mut(claimed)
        {
            claimants.remove(uid);
            if claimants.is_empty() {
                self.claimants.remove(claimed);
            }
        }
        self.check_claimants(uid, claimed);
    }

    /// Marks the mirror pods that claim one of two UIDs for compilation. One that lost its UID is withdrawn at once, so that
    /// agents get its deletion before the pod that has the UID now.
    fn check_claimants(&mut self, uid: &PodUid, claimed: Option<&PodUid>) {
        let uids = [Some(uid), claimed].into_iter().flatten();
        let claimants = uids.filter_map(|uid| self.claimants.get(uid)).flatten().cloned().collect::<Vec<_>>();
        for claimant in claimants {
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
