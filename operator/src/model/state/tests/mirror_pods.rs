//! Mirror pods, and pods that are bound to a node that does not exist.

use podmeta_metadata::facts::{NodeFacts, NodeMetadata, NodeSpec, NodeStatus};

use super::*;

const STATIC_UID: &str = "0b1d6f0a52c44a308f2e5d9a3c7e1001";

/// Returns updates for a mirror pod on a node. Its labels match the profiles of `app=web`.
fn mirror(uid: &str, node: &str, claimed: &str) -> StateUpdate {
    pod(&format!(
        "metadata: {{namespace: shop, name: {uid}, uid: {uid}, labels: {{app: web}}, annotations: {{kubernetes.io/config.mirror: {claimed}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: c, image: 'i:1'}}]}}\n"
    ))
}

fn client_pod(uid: &str, node: &str) -> StateUpdate {
    pod(&format!(
        "metadata: {{namespace: shop, name: {uid}, uid: {uid}, labels: {{app: web}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: c, image: 'i:1'}}]}}\n"
    ))
}

fn pod(fields: &str) -> StateUpdate {
    let text = format!("apiVersion: v1\nkind: Pod\n{fields}");
    let (mut objects, problems) = load(&[ManifestFile { name: "p.yaml".into(), text }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    StateUpdate::Pod { facts: Box::new(objects.pods.remove(0).facts.pod), addresses: Vec::new() }
}

fn static_pod_facts() -> StateUpdate {
    let text =
        "apiVersion: podmeta.dev/v1alpha1\nkind: MetadataPolicy\nmetadata: {name: p}\nspec: {staticPods: Facts}\n";
    let (mut objects, problems) =
        load(&[ManifestFile { name: "p.yaml".into(), text: text.into() }], Timestamp::UNIX_EPOCH);
    assert!(problems.is_empty(), "{problems:?}");
    let policy = objects.policies.remove(0);
    StateUpdate::Policy(Box::new(PolicyObject { name: policy.name.clone(), spec: Ok(policy) }))
}

fn node(name: &str) -> StateUpdate {
    let metadata = NodeMetadata { name: name.to_owned(), labels: BTreeMap::new() };
    let facts = NodeFacts { metadata, spec: NodeSpec::default(), status: NodeStatus::default() };
    StateUpdate::Node { facts, incarnation: crate::model::node_guard::NodeIncarnation::default(), guarded: None }
}

/// Returns the pods that the agent of a node gets: name, UID, and whether the pod is served.
fn sent(state: &OperatorState, node: &str) -> Vec<(String, String, bool)> {
    let list = serde_json::to_value(state.feed().list(node)).unwrap();
    let list: podmeta_agent_api::WorkloadList = serde_json::from_value(list).unwrap();
    let pods = list.items.iter().map(|item| {
        let pod = item.outcome.pod();
        (pod.name.clone(), pod.uid.to_string(), item.outcome.workload().is_some())
    });
    pods.collect::<BTreeSet<_>>().into_iter().collect()
}

fn name(pod: &str, uid: &str, is_served: bool) -> (String, String, bool) {
    (pod.to_owned(), uid.to_owned(), is_served)
}

#[test]
fn mirror_pod_whose_labels_match_a_profile_gets_nothing_from_it() {
    let mut state = new_state();
    let roles =
        ", userData: {secretKeyRef: {name: keys, key: data}}, roles: [{name: r, dialect: ec2, secret: {name: keys}}]";
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, roles))));
    apply(&mut state, mirror("m1", "n1", STATIC_UID));
    assert_eq!(sent(&state, "n1"), [name("m1", STATIC_UID, false), name("web", "u1", true)]);
    apply(&mut state, static_pod_facts());
    assert_eq!(sent(&state, "n1"), [name("m1", STATIC_UID, true), name("web", "u1", true)]);
    // The operator has no credentials, user data or documents for it, whatever the agent requests.
    for uid in ["m1", STATIC_UID] {
        assert!(state.pod_on_node("n1", &uid.try_into().unwrap()).is_none(), "{uid}");
    }
    let pods: Vec<_> = state.index().pods_of_profile(&key("web")).map(|(uid, _, _)| uid.to_string()).collect();
    assert_eq!(pods, ["u1"]);
}

#[test]
fn pod_wins_over_a_mirror_pod_that_claims_its_uid_in_any_order_and_on_any_node() {
    for node in ["n1", "n2"] {
        let mut state = new_state();
        state.apply(self::node("n2"));
        apply(&mut state, static_pod_facts());
        apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
        apply(&mut state, mirror("m1", node, "u1"));
        assert_eq!((sent(&state, "n1"), sent(&state, "n2")), (vec![name("web", "u1", true)], vec![]));

        // Without the pod the claim stands. A pod that comes later takes the UID back.
        apply(&mut state, StateUpdate::PodDeleted(uid()));
        assert_eq!(sent(&state, node), [name("m1", "u1", true)]);
        let version = state.feed().list(node).resource_version;
        apply(&mut state, client_pod("u1", "n1"));
        assert_eq!((sent(&state, "n1"), sent(&state, "n2")), (vec![name("u1", "u1", true)], vec![]));
        let changes = state.feed().since(node, &version, 8).unwrap();
        assert!(matches!(changes[0].change, WatchChange::Deleted { .. }), "{changes:?}");
    }
}

#[test]
fn mirror_pod_withdrawn_in_an_earlier_batch_does_not_delete_the_pod_that_wins() {
    let mut state = new_state();
    apply(&mut state, static_pod_facts());
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    apply(&mut state, StateUpdate::PodDeleted(uid()));
    apply(&mut state, mirror("z1", "n1", "u1"));
    state.apply(client_pod("u1", "n1"));
    // One pod in each batch: u1, then z1.
    for _ in 0..2 {
        let batch = state.take_batch(1);
        state.apply_compiled(&batch, batch.compile(|| false));
    }
    assert_eq!(sent(&state, "n1"), [name("u1", "u1", true)]);
}

#[test]
fn mirror_pods_of_one_node_with_the_same_claim_are_not_sent() {
    let mut state = new_state();
    state.apply(node("n2"));
    apply(&mut state, StateUpdate::PodDeleted(uid()));
    apply(&mut state, mirror("m1", "n1", STATIC_UID));
    apply(&mut state, mirror("m2", "n2", STATIC_UID));
    assert_eq!(sent(&state, "n1"), [name("m1", STATIC_UID, false)]);
    assert_eq!(sent(&state, "n2"), [name("m2", STATIC_UID, false)]);
    apply(&mut state, mirror("m3", "n1", STATIC_UID));
    assert_eq!(sent(&state, "n1"), []);
    assert_eq!(sent(&state, "n2"), [name("m2", STATIC_UID, false)]);
    apply(&mut state, StateUpdate::PodDeleted("m1".try_into().unwrap()));
    assert_eq!(sent(&state, "n1"), [name("m3", STATIC_UID, false)]);
}

#[test]
fn pod_that_becomes_a_mirror_pod_loses_its_profile() {
    let mut state = new_state();
    apply(&mut state, StateUpdate::Profile(Box::new(profile("web", 1, ""))));
    assert_eq!(sent(&state, "n1"), [name("web", "u1", true)]);
    apply(&mut state, mirror("u1", "n1", STATIC_UID));
    assert_eq!(sent(&state, "n1"), [name("u1", STATIC_UID, false)]);
    assert_eq!(state.index().pods_of_profile(&key("web")).count(), 0);
}

#[test]
fn agent_is_not_bound_to_a_node_that_does_not_exist() {
    let mut state = new_state();
    apply(&mut state, client_pod("u2", "ghost"));
    assert!(state.is_bound("n1", &uid()) && !state.is_bound("ghost", &"u2".try_into().unwrap()));
    apply(&mut state, StateUpdate::NodeDeleted("n1".into()));
    assert!(!state.is_bound("n1", &uid()));
}

#[test]
fn pod_on_a_node_that_does_not_exist_is_sent_when_the_node_appears() {
    let mut state = new_state();
    apply(&mut state, client_pod("u2", "late"));
    assert_eq!(sent(&state, "late"), []);
    assert!(state.index().pod(&"u2".try_into().unwrap()).unwrap().1.is_none(), "it is not compiled");
    apply(&mut state, node("late"));
    assert_eq!(sent(&state, "late"), [name("u2", "u2", false)]);
}
