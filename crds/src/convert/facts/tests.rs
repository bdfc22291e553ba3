use serde_json::{Value, json};

use super::*;

fn build_pod(metadata: Value, spec: Value, status: Value) -> Pod {
    let mut object = json!({ "metadata": {
        "name": "web", "namespace": "shop", "uid": "6f1c2a52", "creationTimestamp": "2026-01-05T08:00:00Z",
    }, "spec": spec, "status": status });
    let more = metadata.as_object().unwrap().clone();
    object["metadata"].as_object_mut().unwrap().extend(more);
    serde_json::from_value(object).unwrap()
}

fn first_seen() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

#[test]
fn pod_metadata_is_kept_without_last_applied_annotation() {
    let metadata = json!({
        "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "a" },
        "deletionTimestamp": "2026-01-05T09:00:00Z",
        "ownerReferences": [
            { "apiVersion": "v1", "kind": "Other", "name": "x", "uid": "1" },
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "2", "controller": true },
        ],
    });
    let metadata = pod(&build_pod(metadata, json!({}), json!({}))).unwrap().metadata;
    assert_eq!(metadata.annotations.into_keys().collect::<Vec<_>>(), ["team"]);
    assert_eq!(metadata.deletion_timestamp.unwrap().to_string(), "2026-01-05T09:00:00Z");
    assert_eq!(metadata.controller.unwrap().name, "web-1");
}

#[test]
fn pod_spec_has_service_account_and_first_image() {
    let minimal = pod(&build_pod(json!({}), json!({ "serviceAccountName": "" }), json!({}))).unwrap().spec;
    assert_eq!((minimal.service_account_name, minimal.image.as_str()), (None, ""));
    let spec = json!({
        "serviceAccountName": "web", "nodeName": "n", "hostNetwork": true, "subdomain": "s", "hostname": "h",
        "containers": [{ "name": "a", "image": "img:1", "env": [{ "name": "X", "value": "y" }] }, { "name": "b", "image": "img:2" }],
    });
    let spec = pod(&build_pod(json!({}), spec, json!({}))).unwrap().spec;
    assert_eq!((spec.service_account_name.as_deref(), spec.image.as_str()), (Some("web"), "img:1"));
    assert!(spec.host_network);
    assert_eq!([spec.node_name, spec.subdomain, spec.hostname].map(Option::unwrap), ["n", "s", "h"]);
}

#[test]
fn toleration_has_a_value_unless_its_operator_is_exists() {
    let spec = json!({ "tolerations": [
        { "operator": "Exists" },
        { "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
        { "key": "b", "value": "c" },
        { "key": "d" },
        { "key": "e", "operator": "Gt", "value": "5" },
    ]});
    let tolerations = pod(&build_pod(json!({}), spec, json!({}))).unwrap().spec.tolerations;
    let fields = tolerations
        .iter()
        .map(|toleration| (toleration.key.as_deref(), toleration.value.as_deref(), toleration.toleration_seconds));
    assert_eq!(
        fields.collect::<Vec<_>>(),
        [(None, None, None), (Some("a"), None, Some(300)), (Some("b"), Some("c"), None), (Some("d"), Some(""), None),]
    );
}

#[test]
fn disruption_target_is_set_by_a_true_condition_only() {
    let condition = |kind: &str, status: &str| json!({ "conditions": [{ "type": kind, "status": status, "lastTransitionTime": "2026-01-05T09:00:00Z" }] });
    let disruption_target = |status| pod(&build_pod(json!({}), json!({}), status)).unwrap().status.disruption_target;
    assert_eq!(disruption_target(condition("DisruptionTarget", "True")).unwrap().to_string(), "2026-01-05T09:00:00Z");
    assert_eq!(disruption_target(condition("DisruptionTarget", "False")), None);
    assert_eq!(disruption_target(condition("Ready", "True")), None);
}

#[test]
fn pod_without_required_fields_has_an_error_for_each() {
    let errors = pod(&Pod::default()).unwrap_err();
    let fields = errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>();
    assert_eq!(fields, ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.creationTimestamp"]);
}

#[test]
fn pod_addresses_are_read_from_the_status() {
    let both = json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] });
    let texts = |status| {
        pod_addresses(&build_pod(json!({}), json!({}), status)).iter().map(IpAddr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(texts(both), ["10.0.0.1", "fd00::1"]);
    assert_eq!(texts(json!({ "podIP": "10.0.0.1" })), ["10.0.0.1"]);
    assert!(texts(json!({})).is_empty());
}

#[test]
fn node_facts_have_pod_cidrs_internal_addresses_and_taints() {
    let object = serde_json::from_value(json!({
        "metadata": { "name": "n", "labels": { "zone": "a" } },
        "spec": {
            "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd01::/64"],
            "taints": [{ "key": "a", "effect": "NoExecute", "timeAdded": "2026-01-05T09:00:00Z" }, { "key": "b", "value": "c", "effect": "NoSchedule" }],
        },
        "status": { "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "192.0.2.1" }, { "type": "ExternalIP", "address": "192.0.2.2" }] },
    })).unwrap();
    let facts = node(&object, first_seen());
    assert_eq!(facts.spec.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/24", "fd01::/64"]);
    assert_eq!(facts.status.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1"]);
    assert_eq!(facts.spec.taints[0].time_added.to_string(), "2026-01-05T09:00:00Z");
    assert_eq!(facts.spec.taints[1].time_added, first_seen());
    assert_eq!(facts.label("zone"), Some("a"));
}

#[test]
fn node_facts_have_the_first_16_internal_addresses() {
    let addresses = (0..40).map(|number| {
        let kind = if number % 2 == 0 { "InternalIP" } else { "ExternalIP" };
        json!({ "type": kind, "address": format!("192.0.2.{number}") })
    });
    let addresses = addresses.collect::<Vec<_>>();
    let object = json!({ "metadata": { "name": "n" }, "status": { "addresses": addresses } });
    let kept = node(&serde_json::from_value(object).unwrap(), first_seen()).status.addresses;
    let expected = (0..16).map(|number| format!("192.0.2.{}", 2 * number)).collect::<Vec<_>>();
    assert_eq!(kept.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn cordoned_node_has_one_unschedulable_taint() {
    let taints_of = |taints: Value| {
        let object = json!({ "metadata": { "name": "n" }, "spec": { "unschedulable": true, "taints": taints } });
        node(&serde_json::from_value(object).unwrap(), first_seen()).spec.taints
    };
    let added = taints_of(json!([]));
    assert_eq!(
        (added[0].key.as_str(), added[0].effect.as_str(), added[0].time_added),
        (UNSCHEDULABLE_TAINT, "NoSchedule", first_seen())
    );
    assert_eq!(taints_of(json!([{ "key": UNSCHEDULABLE_TAINT, "effect": "NoSchedule" }])).len(), 1);
}

fn origin_of(metadata: Value) -> (PodOrigin, PodFacts) {
    let facts = pod(&build_pod(metadata, json!({}), json!({}))).unwrap();
    (facts.origin.clone(), facts)
}

#[test]
fn pod_with_mirror_annotation_or_node_as_controller_is_a_mirror_pod() {
    let owner = |kind: &str, controller: bool| json!([{ "apiVersion": "v1", "kind": kind, "name": "n", "uid": "1", "controller": controller }]);
    let mirror = |value: &str| json!({ "annotations": { MIRROR_ANNOTATION: value } });
    let of_node = PodOrigin::Mirror { static_uid: None };
    assert_eq!(origin_of(json!({ "ownerReferences": owner("Node", true) })).0, of_node);
    assert_eq!(origin_of(json!({ "ownerReferences": owner("Node", false) })).0, PodOrigin::Client);
    assert_eq!(origin_of(json!({ "ownerReferences": owner("ReplicaSet", true) })).0, PodOrigin::Client);
    assert_eq!(origin_of(mirror("")).0, of_node);
    assert_eq!(origin_of(mirror("not a UID")).0, of_node);
    let (origin, facts) = origin_of(mirror("0b1d6f0a52c44a308f2e5d9a3c7e1001"));
    assert_eq!(origin, PodOrigin::Mirror { static_uid: Some("0b1d6f0a52c44a308f2e5d9a3c7e1001".try_into().unwrap()) });
    assert_eq!(facts.runtime_uid().as_str(), "0b1d6f0a52c44a308f2e5d9a3c7e1001");
    assert_eq!(facts.metadata.uid.as_str(), "6f1c2a52");
}

#[test]
fn mirror_annotation_after_the_kept_annotations_is_read() {
    let mut annotations: BTreeMap<String, String> =
        (0..=MAX_ANNOTATIONS).map(|number| (format!("a{number}"), String::new())).collect();
    annotations.insert(MIRROR_ANNOTATION.to_owned(), "x".repeat(MAX_VALUE_BYTES + 1));
    let (origin, facts) = origin_of(json!({ "annotations": annotations }));
    assert!(!facts.metadata.annotations.contains_key(MIRROR_ANNOTATION));
    assert_eq!(origin, PodOrigin::Mirror { static_uid: None });
}

#[test]
fn pod_with_too_many_bytes_of_labels_is_invalid() {
    let labels = |count: usize| {
        let labels: BTreeMap<String, String> =
            (0..count).map(|index| (format!("k{index:07}"), "v".repeat(8))).collect();
        pod(&build_pod(json!({ "labels": labels }), json!({}), json!({})))
    };
    assert!(labels(MAX_LABELS_BYTES / 16).is_ok());
    assert_eq!(
        labels(MAX_LABELS_BYTES / 16 + 1).unwrap_err()[0].to_string(),
        "metadata.labels: must have at most 65536 bytes of keys and values, not 65552"
    );
}
