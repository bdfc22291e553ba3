use super::*;

/// Returns the facts of a minimal pod. Tests set the fields that they need.
pub(crate) fn facts(namespace: &str, name: &str) -> Facts {
    Facts {
        pod: PodFacts {
            origin: PodOrigin::Client,
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
                service_account_name: Some("default".to_owned()),
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
fn shortest_matching_toleration_applies() {
    let mut pod = facts("default", "web").pod;
    let taint =
        Taint { key: "k".into(), value: String::new(), effect: "NoExecute".into(), time_added: Timestamp::UNIX_EPOCH };
    assert_eq!(pod.tolerated_seconds(&taint), Some(0));
    let tolerate =
        |seconds| Toleration { key: Some("k".into()), value: None, effect: None, toleration_seconds: seconds };
    pod.spec.tolerations = vec![tolerate(None)];
    assert_eq!(pod.tolerated_seconds(&taint), None);
    pod.spec.tolerations = vec![tolerate(None), tolerate(Some(30)), tolerate(Some(10))];
    assert_eq!(pod.tolerated_seconds(&taint), Some(10));
}

#[test]
fn only_stateful_set_pods_have_an_ordinal() {
    let mut pod = facts("default", "db-3").pod;
    assert_eq!(pod.ordinal(), None);
    pod.metadata.controller = Some(Controller { kind: "StatefulSet".into(), name: "db".into(), uid: "u".into() });
    assert_eq!(pod.ordinal(), Some(3));
    pod.metadata.controller = Some(Controller { kind: "ReplicaSet".into(), name: "db".into(), uid: "u".into() });
    assert_eq!(pod.ordinal(), None);
}
