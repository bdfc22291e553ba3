use podmeta_metadata::compile::PodView;

use super::*;
use crate::broker::operator::SavedBrokerState;
use crate::serve::fixture::{added, denied_item, event, list, node_state, pod_uid, saved_broker_state, served_item};

fn published(node: &NodeState) -> Vec<&'static str> {
    ["a", "b", "c"].into_iter().filter(|name| node.edge.pod(&pod_uid(name)).is_some()).collect()
}

#[test]
fn list_replaces_all_pods_and_events_apply_in_order() {
    let node = node_state(SavedState::default());
    node.apply_list(list(3, vec![denied_item("a", "one"), denied_item("b", "one")]));
    assert_eq!(published(&node), ["a", "b"]);
    node.apply_events(vec![
        event(4, added(denied_item("c", "one"))),
        event(5, WatchChange::Deleted { uid: pod_uid("a") }),
        event(6, WatchChange::Modified { object: Box::new(denied_item("b", "two")) }),
        event(7, WatchChange::Bookmark),
    ]);
    assert_eq!(published(&node), ["b", "c"]);
    assert_eq!(node.version().unwrap().to_string(), "e1:7");
    let pod = node.edge.pod(&pod_uid("b")).unwrap();
    assert!(matches!(pod.view(), PodView::Denied(denied) if denied.reason.message == "two"));
    node.apply_list(list(9, vec![denied_item("c", "one")]));
    assert_eq!(published(&node), ["c"]);
}

#[test]
fn unchanged_pod_keeps_its_allocation() {
    let node = node_state(SavedState::default());
    node.apply_list(list(3, vec![denied_item("a", "one"), denied_item("b", "one")]));
    let item = |name: &str| Arc::clone(&node.lock().items[&pod_uid(name)]);
    let (a, b) = (item("a"), item("b"));
    let pods = (node.edge.pod(&pod_uid("a")).unwrap(), node.edge.pod(&pod_uid("b")).unwrap());
    node.apply_events(vec![
        event(4, WatchChange::Modified { object: Box::new(denied_item("b", "two")) }),
        event(5, added(denied_item("a", "one"))),
    ]);
    assert!(Arc::ptr_eq(&a, &item("a")) && !Arc::ptr_eq(&b, &item("b")));
    assert!(Arc::ptr_eq(&pods.0, &node.edge.pod(&pod_uid("a")).unwrap()));
    assert!(!Arc::ptr_eq(&pods.1, &node.edge.pod(&pod_uid("b")).unwrap()));
    node.apply_list(list(6, vec![denied_item("a", "one"), denied_item("c", "one")]));
    assert!(Arc::ptr_eq(&a, &item("a")), "also after a list");
    assert!(Arc::ptr_eq(&pods.0, &node.edge.pod(&pod_uid("a")).unwrap()));
    assert!(node.state().items.iter().any(|saved| Arc::ptr_eq(saved, &a)), "the saved state shares it");
}

#[test]
fn pods_stay_published_while_a_list_is_requested() {
    let node = node_state(SavedState::default());
    node.apply_list(list(3, vec![denied_item("a", "one")]));
    node.request_list();
    assert_eq!((published(&node), node.version()), (vec!["a"], None));
}

#[test]
fn agent_without_saved_pods_reports_none_until_the_first_list() {
    let node = node_state(SavedState::default());
    assert_eq!(node.node_pods(), None);
    node.apply_list(list(3, Vec::new()));
    assert_eq!(node.node_pods(), Some(BTreeSet::new()));
    node.apply_list(list(4, vec![denied_item("a", "one")]));
    node.request_list();
    assert_eq!(node.node_pods(), Some(BTreeSet::new()), "the pods are known while a list is requested");
}

#[test]
fn bookmark_moves_the_version_and_publishes_nothing() {
    let node = node_state(SavedState::default());
    node.apply_list(list(3, vec![denied_item("a", "one")]));
    let changes = node.changes();
    node.apply_events(vec![event(4, WatchChange::Bookmark)]);
    assert_eq!(node.version().unwrap().to_string(), "e1:4");
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn pod_that_is_added_and_deleted_in_one_frame_publishes_nothing() {
    let node = node_state(SavedState::default());
    node.apply_list(list(3, Vec::new()));
    let changes = node.changes();
    let deleted = WatchChange::Deleted { uid: pod_uid("a") };
    node.apply_events(vec![event(4, added(denied_item("a", "one"))), event(5, deleted)]);
    assert_eq!(published(&node), [""; 0]);
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn credentials_and_documents_are_removed_with_their_pod() {
    let items = vec![Arc::new(denied_item("a", "one"))];
    let node = node_state(SavedState { resource_version: None, items, broker_state: saved_broker_state(&["a", "b"]) });
    let outcomes = node.broker.outcomes();
    assert_eq!(outcomes[&pod_uid("a")][&Dialect::Ec2], None, "saved credentials count as a success");
    node.apply_list(list(3, vec![denied_item("a", "one")]));
    assert_eq!(node.state().broker_state, saved_broker_state(&["a"]));
    node.apply_events(vec![event(4, WatchChange::Deleted { uid: pod_uid("a") })]);
    assert_eq!(node.state().broker_state, SavedBrokerState::default());
}

#[test]
fn link_of_the_newest_sandbox_is_kept_when_an_older_one_is_removed() {
    let node = node_state(SavedState::default());
    let link = |address: &str| Link::from_addresses(&pod_uid("a"), &[address.parse().unwrap()]);
    node.set_link(&pod_uid("a"), "old", link("10.0.0.1"));
    node.set_link(&pod_uid("a"), "new", link("10.0.0.1"));
    node.remove_link(&pod_uid("a"), "old");
    assert_eq!(node.lock().links[&pod_uid("a")].sandbox, "new");
    node.remove_link(&pod_uid("a"), "new");
    assert!(node.lock().links.is_empty());
}

#[test]
fn report_has_the_link_of_a_pod_while_it_exists() {
    let node = node_state(SavedState::default());
    node.apply_list(list(3, vec![served_item("a"), served_item("b")]));
    let linked = || node.report(0).pods.into_iter().map(|(uid, pod)| (uid, pod.linked.unwrap())).collect::<Vec<_>>();
    let expected = |a| vec![(pod_uid("a"), a), (pod_uid("b"), false)];
    assert_eq!(linked(), expected(false));
    node.set_link(&pod_uid("a"), "s1", Link::from_addresses(&pod_uid("a"), &[]));
    assert_eq!(linked(), expected(true));
    node.remove_link(&pod_uid("a"), "s1");
    assert_eq!(linked(), expected(false));
    node.set_link(&pod_uid("a"), "s2", Link::from_addresses(&pod_uid("a"), &[]));
    node.clear_links();
    assert_eq!(linked(), expected(false), "the agent namespace was replaced");
}

#[tokio::test(start_paused = true)]
async fn guard_state_without_a_recent_check_is_reported_as_unknown() {
    let node = node_state(SavedState::default());
    node.set_guard(NodeGuardState::InPlace);
    tokio::time::advance(MAX_GUARD_AGE / 2).await;
    node.set_guard(NodeGuardState::InPlace);
    tokio::time::advance(MAX_GUARD_AGE - Duration::from_millis(1)).await;
    assert_eq!(node.report(0).guard, NodeGuardState::InPlace);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(node.report(0).guard, NodeGuardState::Unknown);
}
