//! The picture of a pod that podmeta keeps: what `fieldRef` and CEL may see, and nothing else.
//!
//! It is shaped like the Kubernetes objects it comes from, so `pod.metadata.labels['app']` reads as it does there.
//! It never holds environment variables, volumes or anything secret.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use crate::names::PodUid;

/// Everything that is known of one pod before its network exists.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The pod itself.
    pub pod: PodFacts,
    /// The namespace it is in.
    pub namespace: NamespaceFacts,
    /// The node it is bound to, once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeFacts>,
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// From `metadata`.
    pub metadata: PodMetadata,
    /// From `spec`.
    pub spec: PodSpec,
    /// From `status`.
    pub status: PodStatus,
}

/// From a pod's `metadata`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: PodUid,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, but for what `kubectl apply` keeps there: that is a copy of the whole object.
    pub annotations: BTreeMap<String, String>,
    /// When the object was made.
    pub creation_timestamp: Timestamp,
    /// When the pod will be gone, if it is being deleted: the grace period is counted in already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Timestamp>,
    /// The controller that owns the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
}

/// The owner reference of a pod's controller.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// From a pod's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node the pod is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The ServiceAccount it runs as.
    pub service_account_name: String,
    /// Its own host name, if the pod sets one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The headless Service that makes its host name resolve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<String>,
    /// Whether it lives in the node's network namespace.
    pub host_network: bool,
    /// The image reference of its first container, as written.
    pub image: String,
    /// The taints it tolerates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// One toleration of a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key; any, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The taint's value; any, if absent (operator `Exists`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect; any, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is tolerated; for ever, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
    }
}

/// From a pod's `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// When the condition `DisruptionTarget` became true: the pod is about to be evicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disruption_target: Option<Timestamp>,
}

/// What is known of a namespace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamespaceFacts {
    /// From `metadata`.
    pub metadata: NamespaceMetadata,
}

/// From a namespace's `metadata`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceMetadata {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, but for the one that `kubectl apply` keeps.
    pub annotations: BTreeMap<String, String>,
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeFacts {
    /// From `metadata`.
    pub metadata: NodeMetadata,
    /// From `spec`.
    pub spec: NodeSpec,
    /// From `status`.
    pub status: NodeStatus,
}

/// From a node's `metadata`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeMetadata {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// From a node's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The address ranges its pods get theirs from.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// Its taints; a cordoned node has `node.kubernetes.io/unschedulable`.
    pub taints: Vec<Taint>,
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, empty if it has none.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// When it was put there, or first seen where Kubernetes does not say.
    pub time_added: Timestamp,
}

/// From a node's `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Its `InternalIP` addresses.
    pub addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// The value of one of the node's labels.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key).map(String::as_str)
    }
}

impl PodFacts {
    /// For how many seconds the pod bears a taint: 0 if it does not tolerate it, `None` if for ever.
    #[must_use]
    pub fn tolerated_seconds(&self, taint: &Taint) -> Option<i64> {
        let mut matching = self.spec.tolerations.iter().filter(|toleration| toleration.tolerates(taint)).peekable();
        if matching.peek().is_none() {
            return Some(0);
        }
        // Kubernetes evicts after the shortest time that any matching toleration gives.
        matching.filter_map(|toleration| toleration.toleration_seconds).map(|seconds| seconds.max(0)).min()
    }

    /// The ordinal of a StatefulSet's pod, by its label or its name; `None` for other pods.
    #[must_use]
    pub fn ordinal(&self) -> Option<u32> {
        let controller = self.metadata.controller.as_ref().filter(|owner| owner.kind == "StatefulSet")?;
        match self.metadata.labels.get("apps.kubernetes.io/pod-index") {
            Some(index) => index.parse().ok(),
            None => self.metadata.name.strip_prefix(&controller.name)?.strip_prefix('-')?.parse().ok(),
        }
    }

    /// The pod's own host name: `spec.hostname`, or its name cut to the 63 characters that a label may have.
    #[must_use]
    pub fn hostname(&self) -> &str {
        match &self.spec.hostname {
            Some(hostname) => hostname,
            None => {
                let name = &self.metadata.name;
                name.get(..63).unwrap_or(name).trim_end_matches(['-', '.'])
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod with nothing but what every pod has; tests change what they are about.
    pub(crate) fn facts(namespace: &str, name: &str) -> Facts {
        Facts {
            pod: PodFacts {
                metadata: PodMetadata {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    uid: PodUid::try_from(format!("uid-{namespace}-{name}")).unwrap(),
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                    creation_timestamp: "2026-01-05T08:00:00Z".parse().unwrap(),
                    deletion_timestamp: None,
                    controller: None,
                },
                spec: PodSpec {
                    service_account_name: "default".to_owned(),
                    image: "registry.example/app:1".to_owned(),
                    ..PodSpec::default()
                },
                status: PodStatus::default(),
            },
            namespace: NamespaceFacts {
                metadata: NamespaceMetadata {
                    name: namespace.to_owned(),
                    labels: BTreeMap::new(),
                    annotations: BTreeMap::new(),
                },
            },
            node: None,
        }
    }

    #[test]
    fn the_shortest_matching_toleration_counts() {
        let mut pod = facts("default", "web").pod;
        let taint = Taint {
            key: "k".into(),
            value: String::new(),
            effect: "NoExecute".into(),
            time_added: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(pod.tolerated_seconds(&taint), Some(0));
        let tolerate =
            |seconds| Toleration { key: Some("k".into()), value: None, effect: None, toleration_seconds: seconds };
        pod.spec.tolerations = vec![tolerate(None)];
        assert_eq!(pod.tolerated_seconds(&taint), None);
        pod.spec.tolerations = vec![tolerate(None), tolerate(Some(30)), tolerate(Some(10))];
        assert_eq!(pod.tolerated_seconds(&taint), Some(10));
    }

    #[test]
    fn an_ordinal_is_a_stateful_sets_alone() {
        let mut pod = facts("default", "db-3").pod;
        assert_eq!(pod.ordinal(), None);
        pod.metadata.controller = Some(Controller { kind: "StatefulSet".into(), name: "db".into(), uid: "u".into() });
        assert_eq!(pod.ordinal(), Some(3));
        pod.metadata.controller = Some(Controller { kind: "ReplicaSet".into(), name: "db".into(), uid: "u".into() });
        assert_eq!(pod.ordinal(), None);
    }
}
