use podmeta_agent_api::WorkloadItem;
use podmeta_metadata::compile::{DenialReason, Denied, Outcome};
use podmeta_metadata::finding::{Finding, FindingReason};
use podmeta_metadata::workload::PodRef;

use super::*;

fn feed() -> Feed {
    Feed::new("e1".parse().unwrap())
}

fn uid(number: usize) -> PodUid {
    format!("0b1d6f0a-52c4-4a30-8f2e-{number:012}").try_into().unwrap()
}

fn compiled(number: usize, reason: &str) -> CompiledPod {
    let pod = PodRef { namespace: "shop".into(), name: format!("pod-{number}"), uid: uid(number) };
    let outcome = Outcome::Denied(Denied { pod, reason: DenialReason::new(reason) });
    let item = WorkloadItem { outcome, addresses: Vec::new() };
    CompiledPod { item, host_network_profile: None, findings: Vec::new() }
}

fn update(node: &str, number: usize, reason: &str) -> PodUpdate {
    PodUpdate { pod: uid(number), node: node.into(), compiled: Some(Arc::new(compiled(number, reason))) }
}

fn item(number: usize, reason: &str) -> Box<SharedItem> {
    Box::new(SharedItem(Arc::new(compiled(number, reason))))
}

fn deletion(node: &str, number: usize) -> PodUpdate {
    PodUpdate { pod: uid(number), node: node.into(), compiled: None }
}

fn changes(feed: &Feed, node: &str, version: &ResourceVersion) -> Result<Vec<WatchChange<SharedItem>>, VersionExpired> {
    feed.since(node, version, usize::MAX).map(|events| events.into_iter().map(|event| event.change).collect())
}

#[test]
fn watch_returns_the_changes_since_the_list() {
    let mut feed = feed();
    feed.apply(vec![update("a", 1, "one"), update("a", 2, "two")]);
    let list = feed.list("a");
    assert_eq!(list.items.len(), 2);
    feed.apply(vec![update("a", 1, "other"), deletion("a", 2), update("a", 3, "three")]);
    let expected = [
        WatchChange::Modified { object: item(1, "other") },
        WatchChange::Deleted { uid: uid(2) },
        WatchChange::Added { object: item(3, "three") },
    ];
    assert_eq!(changes(&feed, "a", &list.resource_version).unwrap(), expected);
    assert_eq!(changes(&feed, "a", &feed.list("a").resource_version).unwrap(), []);
}

#[test]
fn list_and_watch_deserialize_as_items() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    feed.apply(vec![update("a", 1, "one")]);
    let item = compiled(1, "one").item;
    let lines = serde_json::to_string(&feed.since("a", &start, usize::MAX).unwrap()).unwrap();
    let read: Vec<WatchEvent> = serde_json::from_str(&lines).unwrap();
    assert_eq!(read[0].change, WatchChange::Added { object: Box::new(item.clone()) });
    let list = serde_json::to_string(&feed.list("a")).unwrap();
    assert_eq!(serde_json::from_str::<WorkloadList>(&list).unwrap().items, [item]);
}

#[test]
fn watch_of_a_node_returns_a_bookmark_instead_of_changes_of_other_nodes() {
    let mut feed = feed();
    let start = feed.list("b").resource_version;
    assert_eq!(feed.apply(vec![update("a", 1, "one"), update("a", 2, "two")]), ["a"]);
    assert!(feed.list("b").items.is_empty());
    assert_eq!(changes(&feed, "b", &start).unwrap(), [WatchChange::Bookmark]);
    let bookmark = feed.since("b", &start, usize::MAX).unwrap().remove(0).resource_version;
    assert_eq!(bookmark, feed.list("a").resource_version);
}

#[test]
fn limited_batches_return_the_same_changes_as_one_batch() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    feed.apply((0..5).map(|number| update("a", number, "one")).collect());
    feed.apply(vec![update("a", 1, "other"), deletion("a", 2), update("b", 7, "elsewhere")]);
    // A change of a pod that was added in an earlier batch is sent as modified. In one batch, it is sent as added.
    let as_changed = |event: WatchEvent<SharedItem>| match event.change {
        WatchChange::Added { object } => WatchEvent { change: WatchChange::Modified { object }, ..event },
        WatchChange::Modified { .. } | WatchChange::Deleted { .. } | WatchChange::Bookmark => event,
    };
    let all: Vec<_> = feed.since("a", &start, usize::MAX).unwrap().into_iter().map(as_changed).collect();
    let (mut version, mut received) = (start, Vec::new());
    loop {
        let events = feed.since("a", &version, 2).unwrap();
        let Some(last) = events.last() else { break };
        assert!(events.len() <= 3, "two changes and a bookmark");
        version = last.resource_version.clone();
        received.extend(events.into_iter().map(as_changed));
    }
    assert_eq!(received, all);
    assert_eq!((received.len(), &received.last().unwrap().change), (6, &WatchChange::Bookmark));
}

#[test]
fn pod_with_several_changes_is_sent_once() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    for reason in ["one", "two", "three"] {
        feed.apply(vec![update("a", 1, reason)]);
    }
    assert_eq!(changes(&feed, "a", &start).unwrap(), [WatchChange::Added { object: item(1, "three") }]);
}

#[test]
fn new_findings_are_not_a_change_for_agents() {
    let mut feed = feed();
    feed.apply(vec![update("a", 1, "one")]);
    let finding =
        Finding { profile: None, field: "spec".into(), reason: FindingReason::TagDropped, message: "a tag".into() };
    let before = feed.list("a").resource_version;
    let compiled = Some(Arc::new(CompiledPod { findings: vec![finding], ..compiled(1, "one") }));
    assert!(feed.apply(vec![PodUpdate { compiled, ..update("a", 1, "") }]).is_empty());
    assert_eq!(feed.list("a").resource_version, before);
}

#[test]
fn version_of_another_epoch_or_in_the_future_is_expired() {
    let mut feed = feed();
    feed.apply(vec![update("a", 1, "one")]);
    for version in ["e2:0", "e2:1", "e1:2"] {
        assert_eq!(feed.since("a", &version.parse().unwrap(), usize::MAX), Err(VersionExpired), "{version}");
    }
    assert!(feed.since("a", &"e1:1".parse().unwrap(), usize::MAX).is_ok());
}

#[test]
fn version_before_the_kept_deletions_is_expired() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    let all = MAX_DELETIONS + 10;
    feed.apply((0..all).map(|number| update("a", number, "one")).collect());
    let full = feed.list("a").resource_version;
    feed.apply((0..MAX_DELETIONS).map(|number| deletion("a", number)).collect());
    assert_eq!(feed.since("a", &full, usize::MAX).unwrap().len(), MAX_DELETIONS);
    feed.apply((MAX_DELETIONS..all).map(|number| deletion("a", number)).collect());
    assert_eq!(
        (feed.since("a", &start, usize::MAX), feed.since("a", &full, 0)),
        (Err(VersionExpired), Err(VersionExpired))
    );
    assert_eq!(feed.nodes["a"].deletions.len(), MAX_DELETIONS);
}

#[test]
fn versions_of_a_removed_node_are_expired() {
    let mut feed = feed();
    feed.apply(vec![update("a", 1, "one"), update("b", 2, "two")]);
    let (a, b) = (feed.list("a").resource_version, feed.list("b").resource_version);
    feed.remove_node("a");
    assert!(feed.list("a").items.is_empty());
    assert_eq!(feed.since("a", &a, usize::MAX), Err(VersionExpired));
    feed.apply(vec![update("a", 3, "three")]);
    assert_eq!(feed.since("a", &a, usize::MAX), Err(VersionExpired));
    assert!(feed.since("b", &b, usize::MAX).is_ok());
}
