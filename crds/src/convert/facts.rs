//! Converts pods, namespaces and nodes to facts. podmeta keeps no other fields of these objects.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podmeta_metadata::facts::{
    Controller, NamespaceFacts, NamespaceMetadata, NodeFacts, NodeMetadata, NodeSpec, NodeStatus, PodFacts,
    PodMetadata, PodOrigin, PodSpec, PodStatus, Taint, Toleration,
};
use podmeta_metadata::item::MAX_VALUE_BYTES;
use podmeta_metadata::names::PodUid;

use super::field::{FieldError, FieldErrors, REQUIRED};
use crate::api::names;

/// The annotation in which `kubectl apply` stores a copy of the object.
const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Maximum size of the labels of a pod: keys and values, in bytes. Kubernetes has no limit of its own.
const MAX_LABELS_BYTES: usize = 64 * 1024;
/// Maximum number of annotations of an object that are kept: the first ones in the order of their keys.
const MAX_ANNOTATIONS: usize = 256;
/// Maximum number of addresses of a node that are kept: the first ones. Kubernetes has no limit of its own, and each pod of
/// the node has a copy in its expressions and items.
const MAX_NODE_ADDRESSES: usize = 16;
/// The annotation of a mirror pod: the UID of the static pod.
/// Source: kubelet, `pkg/kubelet/types/pod_update.go` and `pkg/kubelet/config/common.go`.
pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The taint of a cordoned node.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Converts a pod.
///
/// # Errors
/// If it has no name, namespace, UID or creation time, or a name, label or address that is invalid in Kubernetes,
/// or more than 64 KiB of labels.
pub fn pod(pod: &Pod) -> Result<PodFacts, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    check_pod(pod, &mut errors);
    let metadata = pod_metadata(&pod.metadata, &mut errors);
    let facts = metadata.map(|metadata| PodFacts {
        origin: origin(&pod.metadata),
        metadata,
        spec: pod.spec.as_ref().map(pod_spec).unwrap_or_default(),
        status: PodStatus { disruption_target: disruption_target(pod) },
    });
    errors.finish(facts)
}

/// Checks names, labels and addresses, which an API server checks and a file may have wrong. They appear in the tree.
fn check_pod(pod: &Pod, errors: &mut FieldErrors) {
    if let Some(name) = &pod.metadata.name {
        errors.record("metadata.name", names::check_object_name(name));
    }
    for (key, value) in pod.metadata.labels.iter().flatten() {
        errors.record(format_args!("metadata.labels.{key:?}"), names::check_label_key(key));
        errors.record(format_args!("metadata.labels.{key}"), names::check_label_value(value));
    }
    let labels_bytes = pod.metadata.labels.iter().flatten().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    if labels_bytes > MAX_LABELS_BYTES {
        let message = format!("must have at most {MAX_LABELS_BYTES} bytes of keys and values, not {labels_bytes}");
        errors.add("metadata.labels", message);
    }
    if let Some(spec) = &pod.spec {
        for (field, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
            if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
                errors.record(field, names::check_object_name(name));
            }
        }
    }
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    for (index, address) in addresses.enumerate() {
        let parsed = address.ip.parse::<IpAddr>().map_err(|_| format!("must be an IP address, not {:?}", address.ip));
        errors.record(format_args!("status.podIPs[{index}].ip"), parsed);
    }
}

/// Returns the addresses in the status of a pod. The list is empty if it has none yet.
#[must_use]
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    match &status.pod_ips {
        Some(addresses) => addresses.iter().filter_map(|address| address.ip.parse().ok()).collect(),
        None => status.pod_ip.iter().filter_map(|address| address.parse().ok()).collect(),
    }
}

/// Converts a namespace.
#[must_use]
pub fn namespace(namespace: &Namespace) -> NamespaceFacts {
    let metadata = &namespace.metadata;
    NamespaceFacts {
        metadata: NamespaceMetadata {
            name: metadata.name.clone().unwrap_or_default(),
            labels: labels(metadata),
            annotations: annotations(metadata),
        },
    }
}

/// Converts a node. `first_seen` is when the object was first read. It is the time of taints that have no time.
#[must_use]
pub fn node(node: &Node, first_seen: Timestamp) -> NodeFacts {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    NodeFacts {
        metadata: NodeMetadata { name: node.metadata.name.clone().unwrap_or_default(), labels: labels(&node.metadata) },
        spec: node.spec.as_ref().map(|spec| node_spec(spec, first_seen)).unwrap_or_default(),
        status: NodeStatus {
            addresses: addresses
                .filter(|address| address.type_ == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .take(MAX_NODE_ADDRESSES)
                .collect(),
        },
    }
}

fn pod_metadata(metadata: &ObjectMeta, errors: &mut FieldErrors) -> Option<PodMetadata> {
    let name = errors.record("metadata.name", metadata.name.clone().ok_or(REQUIRED));
    let namespace = errors.record("metadata.namespace", metadata.namespace.clone().ok_or(REQUIRED));
    let uid = errors.record("metadata.uid", PodUid::try_from(metadata.uid.clone().unwrap_or_default()));
    let created = errors.record("metadata.creationTimestamp", metadata.creation_timestamp.as_ref().ok_or(REQUIRED));
    Some(PodMetadata {
        name: name?,
        namespace: namespace?,
        uid: uid?,
        labels: labels(metadata),
        annotations: annotations(metadata),
        creation_timestamp: created?.0,
        deletion_timestamp: metadata.deletion_timestamp.as_ref().map(|time| time.0),
        controller: controller(metadata),
    })
}

/// Returns the creator of a pod. A kubelet may create only pods with the mirror annotation and its own node as controller.
/// Source: `NodeRestriction` admission plugin. Here each of the two alone makes a pod a mirror pod.
fn origin(metadata: &ObjectMeta) -> PodOrigin {
    let annotation = metadata.annotations.iter().flatten().find(|(key, _)| *key == MIRROR_ANNOTATION);
    let mut owners = metadata.owner_references.iter().flatten();
    let is_of_node = owners.any(|owner| owner.kind == "Node" && owner.controller == Some(true));
    match annotation {
        Some((_, uid)) => PodOrigin::Mirror { static_uid: PodUid::try_from(uid.as_str()).ok() },
        None if is_of_node => PodOrigin::Mirror { static_uid: None },
        None => PodOrigin::Client,
    }
}

fn controller(metadata: &ObjectMeta) -> Option<Controller> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(Controller { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
}

fn pod_spec(spec: &v1::PodSpec) -> PodSpec {
    PodSpec {
        node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
        service_account_name: spec.service_account_name.clone().filter(|name| !name.is_empty()),
        hostname: spec.hostname.clone().filter(|name| !name.is_empty()),
        subdomain: spec.subdomain.clone().filter(|name| !name.is_empty()),
        host_network: spec.host_network.unwrap_or(false),
        image: spec.containers.first().and_then(|container| container.image.clone()).unwrap_or_default(),
        tolerations: spec.tolerations.iter().flatten().filter_map(toleration).collect(),
    }
}

/// Converts a toleration. One with an unknown operator is skipped: it tolerates nothing.
fn toleration(toleration: &v1::Toleration) -> Option<Toleration> {
    let value = match toleration.operator.as_deref() {
        Some("Exists") => None,
        None | Some("" | "Equal") => Some(toleration.value.clone().unwrap_or_default()),
        Some(_) => return None,
    };
    Some(Toleration {
        key: toleration.key.clone().filter(|key| !key.is_empty()),
        value,
        effect: toleration.effect.clone().filter(|effect| !effect.is_empty()),
        toleration_seconds: toleration.toleration_seconds,
    })
}

fn disruption_target(pod: &Pod) -> Option<Timestamp> {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let condition = conditions.find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

fn node_spec(spec: &v1::NodeSpec, first_seen: Timestamp) -> NodeSpec {
    let ranges = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.is_none()));
    let mut taints = spec.taints.iter().flatten().map(|taint| convert_taint(taint, first_seen)).collect::<Vec<_>>();
    if spec.unschedulable == Some(true) && !taints.iter().any(|taint| taint.key == UNSCHEDULABLE_TAINT) {
        // The node controller adds this taint later.
        taints.push(Taint {
            key: UNSCHEDULABLE_TAINT.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
            time_added: first_seen,
        });
    }
    NodeSpec { pod_cidrs: ranges.filter_map(|range| range.parse().ok()).collect(), taints }
}

fn convert_taint(taint: &v1::Taint, first_seen: Timestamp) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: taint.effect.clone(),
        time_added: taint.time_added.as_ref().map_or(first_seen, |time| time.0),
    }
}

fn labels(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    metadata.labels.clone().unwrap_or_default()
}

/// Returns the annotations that items can use. Their number and size are limited, which bounds the time of expressions.
fn annotations(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    let all = metadata.annotations.iter().flatten();
    let usable = all.filter(|(key, value)| *key != LAST_APPLIED_ANNOTATION && value.len() <= MAX_VALUE_BYTES);
    usable.take(MAX_ANNOTATIONS).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests;
