//! The facts of namespaces and nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

/// The facts of a namespace object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NamespaceFacts {
    /// From `metadata`.
    pub metadata: NamespaceMetadata,
}

/// From a namespace's `metadata`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceMetadata {
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations, without the copy of the object that `kubectl apply` stores.
    pub annotations: BTreeMap<String, String>,
}

/// The facts of a node object.
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
    /// The name.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

/// From a node's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// The address ranges of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// The taints. A cordoned node has `node.kubernetes.io/unschedulable`.
    pub taints: Vec<Taint>,
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// The key.
    pub key: String,
    /// The value, or empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    /// The time at which it was added. If Kubernetes does not report it, the time at which it was first observed.
    pub time_added: Timestamp,
}

/// From a node's `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeStatus {
    /// The `InternalIP` addresses.
    pub addresses: Vec<IpAddr>,
}

impl NodeFacts {
    /// Returns the value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.get(key).map(String::as_str)
    }
}
