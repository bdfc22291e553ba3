//! Notices of an instance's interruption, from the pod's deletion and the node's taints.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::facts::{Facts, PodFacts, Taint};

/// Taints by which autoscalers and termination handlers announce the removal of a node.
const NODE_REMOVAL_TAINTS: [&str; 9] = [
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/out-of-service",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
    "ToBeDeletedByClusterAutoscaler",
    "aws-node-termination-handler/spot-itn",
    "aws-node-termination-handler/scheduled-maintenance",
    "aws-node-termination-handler/asg-lifecycle-termination",
    "aws-node-termination-handler/rebalance-recommendation",
];

/// The current notices of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notices {
    /// The time at which the pod ends, if it is being deleted or its node evicts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interruption: Option<Timestamp>,
    /// The time at which an eviction or a drain of its node was announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Timestamp>,
}

impl Notices {
    /// Returns the notices of a pod, from its deletion and eviction and from its node's taints.
    #[must_use]
    pub fn from_facts(facts: &Facts) -> Self {
        let pod = &facts.pod;
        let taints = facts.node.as_ref().map(|node| node.spec.taints.as_slice()).unwrap_or_default();
        let evictions = taints.iter().filter_map(|taint| eviction(pod, taint));
        let leaving = taints.iter().filter(|taint| announces_removal(pod, taint)).map(|taint| taint.time_added);
        let interruption = pod.metadata.deletion_timestamp.into_iter().chain(evictions).min();
        let rebalance = pod.status.disruption_target.into_iter().chain(leaving).min();
        Self { interruption, rebalance }
    }
}

/// Returns the time at which a `NoExecute` taint evicts the pod.
fn eviction(pod: &PodFacts, taint: &Taint) -> Option<Timestamp> {
    if taint.effect != "NoExecute" {
        return None;
    }
    let seconds = pod.tolerated_seconds(taint)?;
    taint.time_added.checked_add(SignedDuration::from_secs(seconds)).ok()
}

fn announces_removal(pod: &PodFacts, taint: &Taint) -> bool {
    NODE_REMOVAL_TAINTS.contains(&taint.key.as_str())
        || (taint.effect == "NoExecute" && pod.tolerated_seconds(taint).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::facts;
    use crate::facts::{NodeFacts, NodeMetadata, NodeSpec, NodeStatus, Toleration};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn on_node_with(key: &str, effect: &str) -> Facts {
        let taint = Taint {
            key: key.into(),
            value: String::new(),
            effect: effect.into(),
            time_added: at("2026-01-05T09:00:00Z"),
        };
        let mut facts = facts("default", "web");
        facts.node = Some(NodeFacts {
            metadata: NodeMetadata { name: "a".into(), labels: Default::default() },
            spec: NodeSpec { taints: vec![taint], ..NodeSpec::default() },
            status: NodeStatus::default(),
        });
        facts
    }

    #[test]
    fn pod_without_deletion_or_eviction_has_no_notice() {
        assert_eq!(Notices::from_facts(&facts("default", "web")), Notices::default());
        assert_eq!(Notices::from_facts(&on_node_with("dedicated", "NoSchedule")), Notices::default());
    }

    #[test]
    fn deletion_is_an_interruption_at_the_end_of_the_grace_period() {
        let mut facts = facts("default", "web");
        facts.pod.metadata.deletion_timestamp = Some(at("2026-01-05T09:00:30Z"));
        assert_eq!(Notices::from_facts(&facts).interruption, Some(at("2026-01-05T09:00:30Z")));
    }

    #[test]
    fn cordoned_node_gives_a_rebalance_recommendation() {
        let notices = Notices::from_facts(&on_node_with("node.kubernetes.io/unschedulable", "NoSchedule"));
        assert_eq!(notices.rebalance, Some(at("2026-01-05T09:00:00Z")));
        assert_eq!(notices.interruption, None);
    }

    #[test]
    fn no_execute_taint_interrupts_after_the_tolerated_time() {
        let mut facts = on_node_with("broken", "NoExecute");
        assert_eq!(Notices::from_facts(&facts).interruption, Some(at("2026-01-05T09:00:00Z")));
        let mut tolerate = |seconds| {
            facts.pod.spec.tolerations =
                vec![Toleration { key: None, value: None, effect: None, toleration_seconds: seconds }];
            Notices::from_facts(&facts)
        };
        assert_eq!(tolerate(Some(300)).interruption, Some(at("2026-01-05T09:05:00Z")));
        assert_eq!(tolerate(None), Notices::default());
    }
}
