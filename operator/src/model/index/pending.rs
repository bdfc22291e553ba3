//! The pods that must be compiled, in a fair order. A namespace with many pods, or with pods that change often, does not
//! delay the pods of others.

use std::collections::{BTreeSet, HashMap};

use podmeta_metadata::names::PodUid;

/// The pending pods. Each round has at most one pod of each namespace.
#[derive(Debug, Default)]
pub(super) struct PendingPods {
    /// The pods in the order in which they are taken: by round, then by UID.
    queue: BTreeSet<(u64, PodUid)>,
    /// The round of each pod.
    rounds: HashMap<PodUid, u64>,
    /// The round of the last pod that was added, by namespace.
    last_rounds: HashMap<String, u64>,
    /// The round of the pod that was taken last.
    current_round: u64,
}

impl PendingPods {
    /// Adds a pod to the round after that of the namespace's last pod, or to the current round if that is later. A pod that is
    /// already pending keeps its round.
    pub(super) fn insert(&mut self, namespace: &str, pod: PodUid) {
        if self.rounds.contains_key(&pod) {
            return;
        }
        let next = self.last_rounds.get(namespace).map_or(0, |last| last + 1);
        let round = next.max(self.current_round);
        self.last_rounds.insert(namespace.to_owned(), round);
        self.rounds.insert(pod.clone(), round);
        self.queue.insert((round, pod));
    }

    pub(super) fn extend(&mut self, namespace: &str, pods: impl IntoIterator<Item = PodUid>) {
        pods.into_iter().for_each(|pod| self.insert(namespace, pod));
    }

    pub(super) fn remove(&mut self, pod: &PodUid) {
        if let Some(round) = self.rounds.remove(pod) {
            self.queue.remove(&(round, pod.clone()));
        }
        self.reset_rounds_if_empty();
    }

    /// Removes and returns the next pods, at most `max_pods`.
    pub(super) fn take(&mut self, max_pods: usize) -> Vec<PodUid> {
        let mut taken = Vec::new();
        while taken.len() < max_pods
            && let Some((round, pod)) = self.queue.pop_first()
        {
            self.current_round = round;
            self.rounds.remove(&pod);
            taken.push(pod);
        }
        self.reset_rounds_if_empty();
        taken
    }

    pub(super) fn contains(&self, pod: &PodUid) -> bool {
        self.rounds.contains_key(pod)
    }

    /// Returns the pods in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PodUid> {
        self.rounds.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Resets the rounds if no pod is pending, so that `last_rounds` does not keep namespaces that were deleted.
    fn reset_rounds_if_empty(&mut self) {
        if self.queue.is_empty() {
            self.last_rounds.clear();
            self.current_round = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: String) -> PodUid {
        PodUid::try_from(text).unwrap()
    }

    fn names(pods: Vec<PodUid>) -> Vec<String> {
        pods.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn pods_of_a_large_namespace_do_not_delay_other_namespaces() {
        let mut pending = PendingPods::default();
        pending.extend("a", (0..100).map(|index| uid(format!("a{index:02}"))));
        pending.extend("b", ["b1", "b2"].map(|name| uid(name.to_owned())));
        assert_eq!(names(pending.take(4)), ["a00", "b1", "a01", "b2"]);
        pending.insert("c", uid("c1".to_owned()));
        assert_eq!(names(pending.take(3)), ["c1", "a02", "a03"]);
    }

    #[test]
    fn pod_that_changes_after_each_compilation_waits_for_the_others_of_its_namespace() {
        let mut pending = PendingPods::default();
        pending.extend("a", ["a1", "a2", "a3"].map(|name| uid(name.to_owned())));
        for expected in ["a1", "a2", "a3", "a1"] {
            assert_eq!(names(pending.take(1)), [expected]);
            pending.insert("a", uid("a1".to_owned()));
        }
    }

    #[test]
    fn pending_pod_keeps_its_place_until_it_is_taken_or_removed() {
        let mut pending = PendingPods::default();
        pending.extend("a", ["a1", "a2", "a1"].map(|name| uid(name.to_owned())));
        pending.remove(&uid("a2".to_owned()));
        assert!(pending.contains(&uid("a1".to_owned())) && !pending.contains(&uid("a2".to_owned())));
        assert_eq!(names(pending.take(9)), ["a1"]);
        assert!(pending.is_empty() && pending.last_rounds.is_empty());
    }
}
