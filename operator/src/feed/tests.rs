use podmeta_agent_api::Item;
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

fn entry(number: usize, why: &str) -> Entry {
    let pod = PodRef { namespace: "shop".into(), name: format!("pod-{number}"), uid: uid(number) };
    let outcome = Outcome::Denied(Denied { pod, reason: DenialReason::without_profile(why) });
    Entry { item: Item { outcome, addresses: Vec::new() }, findings: Vec::new() }
}

fn update(node: &str, number: usize, why: &str) -> Update {
    Update { pod: uid(number), node: node.into(), entry: Some(Arc::new(entry(number, why))) }
}

fn sent(number: usize, why: &str) -> Box<Sent> {
    Box::new(Sent(Arc::new(entry(number, why))))
}

fn gone(node: &str, number: usize) -> Update {
    Update { pod: uid(number), node: node.into(), entry: None }
}

fn changes(feed: &Feed, node: &str, version: &ResourceVersion) -> Result<Vec<Change<Sent>>, Gone> {
    feed.since(node, version, usize::MAX).map(|events| events.into_iter().map(|event| event.change).collect())
}

#[test]
fn a_list_and_what_came_since_are_the_same_as_a_list_later() {
    let mut feed = feed();
    feed.take(vec![update("a", 1, "one"), update("a", 2, "two")]);
    let list = feed.list("a");
    assert_eq!(list.items.len(), 2);
    feed.take(vec![update("a", 1, "other"), gone("a", 2), update("a", 3, "three")]);
    let expected = [
        Change::Modified { object: sent(1, "other") },
        Change::Deleted { uid: uid(2) },
        Change::Added { object: sent(3, "three") },
    ];
    assert_eq!(changes(&feed, "a", &list.resource_version).unwrap(), expected);
    assert_eq!(changes(&feed, "a", &feed.list("a").resource_version).unwrap(), []);
}

#[test]
fn a_line_of_a_watch_and_a_list_are_read_as_items() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    feed.take(vec![update("a", 1, "one")]);
    let item = entry(1, "one").item;
    let lines = serde_json::to_string(&feed.since("a", &start, usize::MAX).unwrap()).unwrap();
    let read: Vec<Event> = serde_json::from_str(&lines).unwrap();
    assert_eq!(read[0].change, Change::Added { object: Box::new(item.clone()) });
    let list = serde_json::to_string(&feed.list("a")).unwrap();
    assert_eq!(serde_json::from_str::<List>(&list).unwrap().items, [item]);
}

#[test]
fn an_agent_is_told_of_its_own_node_alone_and_how_far_the_others_are() {
    let mut feed = feed();
    let start = feed.list("b").resource_version;
    assert_eq!(feed.take(vec![update("a", 1, "one"), update("a", 2, "two")]), ["a"]);
    assert!(feed.list("b").items.is_empty());
    assert_eq!(changes(&feed, "b", &start).unwrap(), [Change::Bookmark]);
    let bookmark = feed.since("b", &start, usize::MAX).unwrap().remove(0).resource_version;
    assert_eq!(bookmark, feed.list("a").resource_version);
}

#[test]
fn a_few_changes_at_a_time_come_to_the_same_as_all_of_them() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    feed.take((0..5).map(|number| update("a", number, "one")).collect());
    feed.take(vec![update("a", 1, "other"), gone("a", 2), update("b", 7, "elsewhere")]);
    // A pod that changed before it was told of counts as changed.
    let as_changed = |event: Event<Sent>| match event.change {
        Change::Added { object } => Event { change: Change::Modified { object }, ..event },
        Change::Modified { .. } | Change::Deleted { .. } | Change::Bookmark => event,
    };
    let all: Vec<_> = feed.since("a", &start, usize::MAX).unwrap().into_iter().map(as_changed).collect();
    let (mut version, mut told) = (start, Vec::new());
    loop {
        let events = feed.since("a", &version, 2).unwrap();
        let Some(last) = events.last() else { break };
        assert!(events.len() <= 3, "two and a bookmark");
        version = last.resource_version.clone();
        told.extend(events.into_iter().map(as_changed));
    }
    assert_eq!(told, all);
    assert_eq!((told.len(), &told.last().unwrap().change), (6, &Change::Bookmark));
}

#[test]
fn a_pod_that_changed_often_is_told_once_as_it_is_now() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    for why in ["one", "two", "three"] {
        feed.take(vec![update("a", 1, why)]);
    }
    assert_eq!(changes(&feed, "a", &start).unwrap(), [Change::Added { object: sent(1, "three") }]);
}

#[test]
fn what_is_only_for_a_profile_s_author_is_not_told_to_agents() {
    let mut feed = feed();
    feed.take(vec![update("a", 1, "one")]);
    let finding =
        Finding { profile: None, field: "spec".into(), reason: FindingReason::TagDropped, message: "a tag".into() };
    let before = feed.list("a").resource_version;
    let entry = Some(Arc::new(Entry { findings: vec![finding], ..entry(1, "one") }));
    assert!(feed.take(vec![Update { entry, ..update("a", 1, "") }]).is_empty());
    assert_eq!(feed.list("a").resource_version, before);
}

#[test]
fn a_version_of_another_operator_or_of_the_future_is_gone() {
    let mut feed = feed();
    feed.take(vec![update("a", 1, "one")]);
    for version in ["e2:0", "e2:1", "e1:2"] {
        assert_eq!(feed.since("a", &version.parse().unwrap(), usize::MAX), Err(Gone), "{version}");
    }
    assert!(feed.since("a", &"e1:1".parse().unwrap(), usize::MAX).is_ok());
}

#[test]
fn an_agent_that_missed_too_many_deletions_lists_again_and_memory_is_bounded() {
    let mut feed = feed();
    let start = feed.list("a").resource_version;
    let all = MAX_DELETIONS + 10;
    feed.take((0..all).map(|number| update("a", number, "one")).collect());
    let full = feed.list("a").resource_version;
    feed.take((0..MAX_DELETIONS).map(|number| gone("a", number)).collect());
    assert_eq!(feed.since("a", &full, usize::MAX).unwrap().len(), MAX_DELETIONS);
    feed.take((MAX_DELETIONS..all).map(|number| gone("a", number)).collect());
    assert_eq!((feed.since("a", &start, usize::MAX), feed.since("a", &full, 0)), (Err(Gone), Err(Gone)));
    assert_eq!(feed.nodes["a"].deletions.len(), MAX_DELETIONS);
}

#[test]
fn a_node_that_is_gone_is_forgotten_and_an_agent_of_its_name_lists_again() {
    let mut feed = feed();
    feed.take(vec![update("a", 1, "one"), update("b", 2, "two")]);
    let (a, b) = (feed.list("a").resource_version, feed.list("b").resource_version);
    feed.forget("a");
    assert!(feed.list("a").items.is_empty());
    assert_eq!(feed.since("a", &a, usize::MAX), Err(Gone));
    feed.take(vec![update("a", 3, "three")]);
    assert_eq!(feed.since("a", &a, usize::MAX), Err(Gone));
    assert!(feed.since("b", &b, usize::MAX).is_ok());
}
