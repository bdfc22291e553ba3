//! The facts of a pod. `fieldRef` and CEL can read them.
//!
//! They have the form of the Kubernetes objects that they come from, such as `pod.metadata.labels['app']`. They contain
//! no environment variables, volumes or secrets.

mod node;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::names::PodUid;

pub use node::{NamespaceFacts, NamespaceMetadata, NodeFacts, NodeMetadata, NodeSpec, NodeStatus, Taint};

/// The facts of one pod, without its addresses.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The pod.
    pub pod: PodFacts,
    /// The namespace of the pod.
    pub namespace: NamespaceFacts,
    /// The node that the pod is bound to, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeFacts>,
}

/// The facts of a pod object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// The creator of the object. Items and expressions do not see it.
    #[serde(skip)]
    pub origin: PodOrigin,
    /// From `metadata`.
    pub metadata: PodMetadata,
    /// From `spec`.
    pub spec: PodSpec,
    /// From `status`.
    pub status: PodStatus,
}

/// The creator of a pod object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodOrigin {
    /// A client of the API server.
    #[default]
    Client,
    /// The kubelet of a node, for a static pod. It may have chosen any namespace, name and labels.
    Mirror {
        /// The UID of the static pod in the container runtime, or `None` if the object does not name a valid one.
        static_uid: Option<PodUid>,
    },
}

/// Facts of a pod's `metadata`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// The name.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// The UID.
    pub uid: PodUid,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations, without the copy of the object that `kubectl apply` stores.
    pub annotations: BTreeMap<String, String>,
    /// The creation time of the object.
    pub creation_timestamp: Timestamp,
    /// The end of the grace period, if the pod is being deleted.
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
    /// The kind, such as `ReplicaSet`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
}

/// From a pod's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node that the pod is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The ServiceAccount of the pod. Mirror pods have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// `spec.hostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The headless Service that resolves the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subdomain: Option<String>,
    /// True if the pod is in the node's network namespace.
    pub host_network: bool,
    /// The image of the first container, as in the spec.
    pub image: String,
    /// The tolerations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
}

/// One toleration of a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// The taint's key. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The taint's value. Absent: any (operator `Exists`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Seconds for which a `NoExecute` taint is tolerated. Absent: forever.
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
    /// The time at which the condition `DisruptionTarget` became true: an eviction follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disruption_target: Option<Timestamp>,
}

impl PodFacts {
    /// Returns true if the pod is a mirror pod: the object that a kubelet creates for a static pod.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        matches!(self.origin, PodOrigin::Mirror { .. })
    }

    /// Returns the UID of the pod in the container runtime. For a mirror pod with a valid UID of its static pod, it is that
    /// UID. Otherwise it is the UID of the object.
    #[must_use]
    pub fn runtime_uid(&self) -> &PodUid {
        match &self.origin {
            PodOrigin::Mirror { static_uid: Some(uid) } => uid,
            PodOrigin::Mirror { static_uid: None } | PodOrigin::Client => &self.metadata.uid,
        }
    }

    /// Returns how long the pod tolerates a taint, in seconds: 0 if not at all, `None` without a limit.
    #[must_use]
    pub fn tolerated_seconds(&self, taint: &Taint) -> Option<i64> {
        let mut matching = self.spec.tolerations.iter().filter(|toleration| toleration.tolerates(taint)).peekable();
        if matching.peek().is_none() {
            return Some(0);
        }
        // Kubernetes evicts after the shortest time of all matching tolerations.
        matching.filter_map(|toleration| toleration.toleration_seconds).map(|seconds| seconds.max(0)).min()
    }

    /// Returns the ordinal of a StatefulSet's pod, from its label or its name. Returns `None` for other pods.
    #[must_use]
    pub fn ordinal(&self) -> Option<u32> {
        let controller = self.metadata.controller.as_ref().filter(|owner| owner.kind == "StatefulSet")?;
        match self.metadata.labels.get("apps.kubernetes.io/pod-index") {
            Some(index) => index.parse().ok(),
            None => self.metadata.name.strip_prefix(&controller.name)?.strip_prefix('-')?.parse().ok(),
        }
    }

    /// Returns the pod's host name: `spec.hostname`, or its name truncated to 63 characters, the limit of a DNS label. The
    /// truncated name does not end in `-` or `.`.
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
