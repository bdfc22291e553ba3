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
use podmeta_metadata::item::MAX_VALUE_BYTES;
use podmeta_metadata::names::PodUid;

use crate::field::{Errors, FieldError};
use crate::names;

/// The annotation that `kubectl apply` keeps a copy of the whole object in.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most annotations of an object that are kept, the first ones by key.
const MAX_ANNOTATIONS: usize = 256;
/// The taint of a cordoned node.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What is known of a pod.
///
/// # Errors
/// If it has no name, namespace, UID or creation time, or names, labels or addresses that no API server takes.
pub fn pod(pod: &Pod) -> Result<PodFacts, Vec<FieldError>> {
    let mut errors = Errors::default();
    check(pod, &mut errors);
    let metadata = pod_metadata(&pod.metadata, &mut errors);
    let facts = metadata.map(|metadata| PodFacts {
        metadata,
        spec: pod.spec.as_ref().map(pod_spec).unwrap_or_default(),
        status: PodStatus { disruption_target: disruption_target(pod) },
    });
    errors.finish(facts)
}

/// What an API server would refuse and a file may hold: text that ends up in listings, names and addresses.
fn check(pod: &Pod, errors: &mut Errors) {
    if let Some(name) = &pod.metadata.name {
        errors.keep("metadata.name", names::object_name(name));
    }
    for (key, value) in pod.metadata.labels.iter().flatten() {
        errors.keep(format_args!("metadata.labels.{key:?}"), names::label_key(key));
        errors.keep(format_args!("metadata.labels.{key}"), names::check_label_value(value));
    }
    if let Some(spec) = &pod.spec {
        for (field, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
            if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
                errors.keep(field, names::object_name(name));
            }
        }
    }
    let addresses = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    for (at, address) in addresses.enumerate() {
        let parsed = address.ip.parse::<IpAddr>().map_err(|_| format!("{:?} is no IP address", address.ip));
        errors.keep(format_args!("status.podIPs[{at}].ip"), parsed);
    }
}

/// The addresses of a pod, once its status has them.
#[must_use]
pub fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    match &status.pod_ips {
        Some(addresses) => addresses.iter().filter_map(|address| address.ip.parse().ok()).collect(),
        None => status.pod_ip.iter().filter_map(|address| address.parse().ok()).collect(),
    }
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

/// The annotations that items can use: so few and so short that no expression over them takes long.
fn annotations(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    let all = metadata.annotations.iter().flatten();
    let usable = all.filter(|(key, value)| *key != LAST_APPLIED && value.len() <= MAX_VALUE_BYTES);
    usable.take(MAX_ANNOTATIONS).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod_of(metadata: Value, spec: Value, status: Value) -> Pod {
        let mut object = json!({ "metadata": {
            "name": "web", "namespace": "shop", "uid": "6f1c2a52", "creationTimestamp": "2026-01-05T08:00:00Z",
        }, "spec": spec, "status": status });
        let more = metadata.as_object().unwrap().clone();
        object["metadata"].as_object_mut().unwrap().extend(more);
        serde_json::from_value(object).unwrap()
    }

    fn seen() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_pod_keeps_its_identity_and_drops_the_copy_that_kubectl_makes() {
        let metadata = json!({
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "a" },
            "deletionTimestamp": "2026-01-05T09:00:00Z",
            "ownerReferences": [
                { "apiVersion": "v1", "kind": "Other", "name": "x", "uid": "1" },
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "2", "controller": true },
            ],
        });
        let metadata = pod(&pod_of(metadata, json!({}), json!({}))).unwrap().metadata;
        assert_eq!(metadata.annotations.into_keys().collect::<Vec<_>>(), ["team"]);
        assert_eq!(metadata.deletion_timestamp.unwrap().to_string(), "2026-01-05T09:00:00Z");
        assert_eq!(metadata.controller.unwrap().name, "web-1");
    }

    #[test]
    fn a_pod_has_an_account_and_the_image_of_its_first_container() {
        let bare = pod(&pod_of(json!({}), json!({ "serviceAccountName": "" }), json!({}))).unwrap().spec;
        assert_eq!((bare.service_account_name.as_str(), bare.image.as_str()), ("default", ""));
        let spec = json!({
            "serviceAccountName": "web", "nodeName": "n", "hostNetwork": true, "subdomain": "s", "hostname": "h",
            "containers": [{ "name": "a", "image": "img:1", "env": [{ "name": "X", "value": "y" }] }, { "name": "b", "image": "img:2" }],
        });
        let spec = pod(&pod_of(json!({}), spec, json!({}))).unwrap().spec;
        assert_eq!((spec.service_account_name.as_str(), spec.image.as_str()), ("web", "img:1"));
        assert!(spec.host_network);
        assert_eq!([spec.node_name, spec.subdomain, spec.hostname].map(Option::unwrap), ["n", "s", "h"]);
    }

    #[test]
    fn a_toleration_that_exists_has_no_value_and_one_that_equals_has() {
        let spec = json!({ "tolerations": [
            { "operator": "Exists" },
            { "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
            { "key": "b", "value": "c" },
            { "key": "d" },
            { "key": "e", "operator": "Gt", "value": "5" },
        ]});
        let tolerations = pod(&pod_of(json!({}), spec, json!({}))).unwrap().spec.tolerations;
        let short = tolerations.iter().map(|one| (one.key.as_deref(), one.value.as_deref(), one.toleration_seconds));
        assert_eq!(
            short.collect::<Vec<_>>(),
            [
                (None, None, None),
                (Some("a"), None, Some(300)),
                (Some("b"), Some("c"), None),
                (Some("d"), Some(""), None),
            ]
        );
    }

    #[test]
    fn only_a_true_condition_announces_a_disruption() {
        let condition = |kind: &str, status: &str| json!({ "conditions": [{ "type": kind, "status": status, "lastTransitionTime": "2026-01-05T09:00:00Z" }] });
        let announced = |status| pod(&pod_of(json!({}), json!({}), status)).unwrap().status.disruption_target;
        assert_eq!(announced(condition("DisruptionTarget", "True")).unwrap().to_string(), "2026-01-05T09:00:00Z");
        assert_eq!(announced(condition("DisruptionTarget", "False")), None);
        assert_eq!(announced(condition("Ready", "True")), None);
    }

    #[test]
    fn a_pod_that_no_api_server_made_is_refused_field_by_field() {
        let errors = pod(&Pod::default()).unwrap_err();
        let fields = errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>();
        assert_eq!(fields, ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.creationTimestamp"]);
    }

    #[test]
    fn addresses_come_from_the_status() {
        let both = json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] });
        let texts = |status| {
            pod_addresses(&pod_of(json!({}), json!({}), status)).iter().map(IpAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(both), ["10.0.0.1", "fd00::1"]);
        assert_eq!(texts(json!({ "podIP": "10.0.0.1" })), ["10.0.0.1"]);
        assert_eq!(texts(json!({})), [""; 0]);
    }

    #[test]
    fn a_node_has_its_ranges_addresses_and_taints() {
        let object = serde_json::from_value(json!({
            "metadata": { "name": "n", "labels": { "zone": "a" } },
            "spec": {
                "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"],
                "taints": [{ "key": "a", "effect": "NoExecute", "timeAdded": "2026-01-05T09:00:00Z" }, { "key": "b", "value": "c", "effect": "NoSchedule" }],
            },
            "status": { "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "192.0.2.1" }, { "type": "ExternalIP", "address": "192.0.2.2" }] },
        })).unwrap();
        let facts = node(&object, seen());
        assert_eq!(
            facts.spec.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.1.0.0/24", "fd01::/64"]
        );
        assert_eq!(facts.status.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1"]);
        assert_eq!(facts.spec.taints[0].time_added.to_string(), "2026-01-05T09:00:00Z");
        assert_eq!(facts.spec.taints[1].time_added, seen());
        assert_eq!(facts.label("zone"), Some("a"));
    }

    #[test]
    fn a_cordoned_node_is_tainted_once() {
        let with = |taints: Value| {
            let object = json!({ "metadata": { "name": "n" }, "spec": { "unschedulable": true, "taints": taints } });
            node(&serde_json::from_value(object).unwrap(), seen()).spec.taints
        };
        let added = with(json!([]));
        assert_eq!(
            (added[0].key.as_str(), added[0].effect.as_str(), added[0].time_added),
            (UNSCHEDULABLE, "NoSchedule", seen())
        );
        assert_eq!(with(json!([{ "key": UNSCHEDULABLE, "effect": "NoSchedule" }])).len(), 1);
    }
}
