//! Namespaces and nodes: their facts affect their pods.

use super::*;

#[test]
fn labels_of_namespace_and_node_affect_their_pods() {
    let text = pod("shop", "web", "web")
        + &pod("other", "web", "web")
        + &policy("a", "withoutProfile: Facts, namespaceSelector: {matchLabels: {team: b}}");
    let (mut index, uids) = index(&text);
    let known = objects(&text);
    let mut namespace = known.pods[0].facts.namespace.clone();
    namespace.metadata.labels.insert("team".into(), "b".into());
    index.set_namespace("shop", Some(namespace));
    assert_eq!(changed(&mut index), [uids[0].clone()]);

    let mut node = known.pods[0].facts.node.clone().unwrap();
    node.metadata.labels.insert("topology.kubernetes.io/region".into(), "eu-west-2".into());
    index.set_node("n1", Some(node));
    assert_eq!(changed(&mut index), [uids[0].clone()], "a denied pod has no region");
    let Outcome::Served(workload) = outcome(&index, &uids[0]) else { panic!("denied") };
    assert_eq!(workload.instance.region.as_deref(), Some("eu-west-2"));
}

#[test]
fn pod_without_known_namespace_or_node_is_not_compiled() {
    let objects = objects(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    let mut index = Index::new(Settings::default());
    updates(&objects).into_iter().filter(|update| matches!(update, StateUpdate::Profile(_))).for_each(|update| {
        apply(&mut index, update);
    });
    let facts = objects.pods[0].facts.clone();
    index.set_pod(Box::new(facts.pod.clone()), Vec::new());
    assert!(compile(&mut index).is_empty());
    index.set_namespace("shop", Some(facts.namespace));
    assert!(compile(&mut index).is_empty(), "the node does not exist yet");
    index.set_node("n1", facts.node.clone());
    assert_eq!(changed(&mut index), std::slice::from_ref(&facts.pod.metadata.uid));
    assert!(is_served(&index, &facts.pod.metadata.uid), "the pod is not served");
    index.set_node("n1", None);
    let withdrawn = PodUpdate { pod: facts.pod.metadata.uid.clone(), node: "n1".into(), compiled: None };
    assert_eq!(compile(&mut index), [withdrawn], "the node was deleted");

    let mut waiting = facts.pod;
    waiting.spec.node_name = None;
    waiting.metadata.uid = "11111111-2222-3333-4444-555555555555".try_into().unwrap();
    index.set_pod(Box::new(waiting), Vec::new());
    assert!(compile(&mut index).is_empty());
}

#[test]
fn taint_keeps_the_time_at_which_it_was_first_read() {
    let node = |seen: i64| {
        let taint = Taint {
            key: "k".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
            time_added: Timestamp::from_second(seen).unwrap(),
        };
        let mut objects = objects(&pod("shop", "web", "web"));
        let mut node = objects.pods.remove(0).facts.node.unwrap();
        node.spec.taints = vec![taint];
        node
    };
    let (mut index, _) = index(&(pod("shop", "web", "web") + &profile("web", "web", "")));
    index.set_node("n1", Some(node(10)));
    compile(&mut index);
    index.set_node("n1", Some(node(20)));
    assert!(index.pending_pods.is_empty(), "a heartbeat of a tainted node affects no pod");
    assert_eq!(index.nodes["n1"].facts.as_ref().unwrap().spec.taints[0].time_added.as_second(), 10);
}
