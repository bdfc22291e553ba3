//! From Kubernetes' own objects to the core's `Facts`: the only fields of them that podmeta keeps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, Namespace, Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podmeta_metadata::facts::{
    Controller, NamespaceFacts, NamespaceMetadata, NodeFacts, NodeMetadata, NodeSpec, NodeStatus, PodFacts,
    PodMetadata, PodSpec, PodStatus, Taint, Toleration,
};
use podmeta_metadata::names::PodUid;

use crate::field::{Errors, FieldError};

/// The annotation that `kubectl apply` keeps a copy of the whole object in.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The taint of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What is known of a pod.
///
/// # Errors
/// If it has no name, namespace, UID or creation time, which every pod of an API server has.
pub fn pod(pod: &Pod) -> Result<PodFacts, Vec<FieldError>> {
    let mut errors = Errors::default();
    let metadata = pod_metadata(&pod.metadata, &mut errors);
    let facts = metadata.map(|metadata| PodFacts {
        metadata,
        spec: pod.spec.as_ref().map(pod_spec).unwrap_or_default(),
        status: PodStatus { disruption_target: disruption_target(pod) },
    });
    errors.finish(facts)
}

/// The addresses of a pod, once its status has them.
#[must_use]
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    addresses.filter_map(|address| address.ip.parse().ok()).collect()
}

/// What is known of a namespace.
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

/// What is known of a node. `seen` is when this object was read first: a taint need not say when it was put there.
#[must_use]
pub fn node(node: &Node, seen: Timestamp) -> NodeFacts {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    NodeFacts {
        metadata: NodeMetadata { name: node.metadata.name.clone().unwrap_or_default(), labels: labels(&node.metadata) },
        spec: node.spec.as_ref().map(|spec| node_spec(spec, seen)).unwrap_or_default(),
        status: NodeStatus {
            addresses: addresses
                .filter(|address| address.type_ == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
        },
    }
}

fn pod_metadata(metadata: &ObjectMeta, errors: &mut Errors) -> Option<PodMetadata> {
    let name = errors.keep("metadata.name", metadata.name.clone().ok_or("is missing"));
    let namespace = errors.keep("metadata.namespace", metadata.namespace.clone().ok_or("is missing"));
    let uid = errors.keep("metadata.uid", PodUid::try_from(metadata.uid.clone().unwrap_or_default()));
    let created = errors.keep("metadata.creationTimestamp", metadata.creation_timestamp.as_ref().ok_or("is missing"));
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

fn controller(metadata: &ObjectMeta) -> Option<Controller> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(Controller { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
}

fn pod_spec(spec: &v1::PodSpec) -> PodSpec {
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty());
    PodSpec {
        node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
        // What the API server's admission fills in.
        service_account_name: account.unwrap_or("default").to_owned(),
        hostname: spec.hostname.clone().filter(|name| !name.is_empty()),
        subdomain: spec.subdomain.clone().filter(|name| !name.is_empty()),
        host_network: spec.host_network.unwrap_or(false),
        image: spec.containers.first().and_then(|container| container.image.clone()).unwrap_or_default(),
        tolerations: spec.tolerations.iter().flatten().filter_map(toleration).collect(),
    }
}

/// A toleration whose operator is not known tolerates nothing.
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

fn node_spec(spec: &v1::NodeSpec, seen: Timestamp) -> NodeSpec {
    let ranges = spec.pod_cidrs.iter().flatten().chain(spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.is_none()));
    let mut taints = spec.taints.iter().flatten().map(|taint| known_taint(taint, seen)).collect::<Vec<_>>();
    if spec.unschedulable == Some(true) && !taints.iter().any(|taint| taint.key == UNSCHEDULABLE) {
        // The node controller adds it a moment later.
        taints.push(Taint {
            key: UNSCHEDULABLE.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
            time_added: seen,
        });
    }
    NodeSpec { pod_cidrs: ranges.filter_map(|range| range.parse().ok()).collect(), taints }
}

fn known_taint(taint: &v1::Taint, seen: Timestamp) -> Taint {
    Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: taint.effect.clone(),
        time_added: taint.time_added.as_ref().map_or(seen, |time| time.0),
    }
}

fn labels(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    metadata.labels.clone().unwrap_or_default()
}

fn annotations(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations
}
