use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use podmeta_agent_api::{WatchChange, WorkloadItem};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::serve::SavedState;
use crate::serve::fixture::{added, denied_item, event, list as workload_list, node_state, pod_uid};
use crate::serve::sync::mock::{Call, MockOperator, MockResponse, frame, unavailable};

/// A node that follows an operator with these responses.
struct Follower {
    node: Arc<NodeState>,
    calls: UnboundedReceiver<Call>,
    synced: Arc<AtomicUsize>,
}

impl Follower {
    fn start(responses: impl IntoIterator<Item = MockResponse>) -> Self {
        let (api, calls) = MockOperator::new(responses);
        let (node, synced) = (node_state(SavedState::default()), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&synced);
        let on_synced = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        tokio::spawn(follow(api, Arc::clone(&node), on_synced));
        Self { node, calls, synced }
    }

    async fn next_call(&mut self) -> Call {
        self.calls.recv().await.unwrap()
    }

    /// Expects calls without asserting their times.
    async fn expect(&mut self, calls: &[&str]) {
        for call in calls {
            assert_eq!(self.next_call().await.0, *call);
        }
    }

    fn pods(&self) -> Vec<String> {
        self.node.state().items.iter().map(|item| item.outcome.pod().name.clone()).collect()
    }
}

fn pods(names: &[&str]) -> Vec<WorkloadItem> {
    names.iter().map(|name| denied_item(name, "one")).collect()
}

#[tokio::test(start_paused = true)]
async fn list_is_followed_by_a_watch_from_its_version() {
    let added = frame(&[event(4, added(denied_item("b", "one")))]);
    let mut follower =
        Follower::start([MockResponse::List(workload_list(3, pods(&["a"]))), MockResponse::OpenWatch(vec![added])]);
    follower.expect(&["list", "watch e1:3"]).await;
    let mut changes = follower.node.changes();
    while follower.pods() != ["a", "b"] {
        changes.changed().await.unwrap();
    }
    assert_eq!(follower.synced.load(Ordering::Relaxed), 2, "after the list and at the start of the watch");
}

#[tokio::test(start_paused = true)]
async fn watch_continues_from_the_last_version_after_the_stream_ends_or_breaks() {
    let events = |number| vec![frame(&[event(number, WatchChange::Bookmark)])];
    let list = MockResponse::List(workload_list(3, pods(&["a"])));
    let mut follower = Follower::start([list, MockResponse::Watch(events(5)), MockResponse::BrokenWatch(events(7))]);
    follower.expect(&["list", "watch e1:3", "watch e1:5", "watch e1:7"]).await;
    assert_eq!(follower.pods(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn status_410_relists_and_watches_without_delay() {
    let mut follower = Follower::start([
        MockResponse::List(workload_list(3, pods(&["a"]))),
        MockResponse::Error(OperatorError::VersionExpired),
        MockResponse::List(workload_list(9, pods(&["b"]))),
    ]);
    follower.expect(&["list", "watch e1:3", "list"]).await;
    assert_eq!(follower.next_call().await, ("watch e1:9".to_owned(), Duration::ZERO));
    assert_eq!(follower.pods(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn invalid_event_relists_and_keeps_the_pods() {
    let invalid = vec![Bytes::from("{}\n")];
    let mut follower =
        Follower::start([MockResponse::List(workload_list(3, pods(&["a"]))), MockResponse::OpenWatch(invalid)]);
    follower.expect(&["list", "watch e1:3", "list"]).await;
    assert_eq!(follower.pods(), ["a"]);
    assert!(follower.node.find("shop/a").is_some());
}

#[tokio::test(start_paused = true)]
async fn silent_watch_times_out() {
    let mut follower =
        Follower::start([MockResponse::List(workload_list(3, pods(&["a"]))), MockResponse::OpenWatch(Vec::new())]);
    follower.expect(&["list", "watch e1:3"]).await;
    let (call, at) = follower.next_call().await;
    assert_eq!(call, "watch e1:3");
    let delay = at - WATCH_TIMEOUT;
    assert!(delay >= MIN_RETRY_DELAY / 2 && delay <= MIN_RETRY_DELAY, "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn failed_lists_are_retried_with_doubling_delays_up_to_the_maximum() {
    let mut follower = Follower::start((0..6).map(|_| unavailable()));
    let (_, mut last) = follower.next_call().await;
    for seconds in [2, 4, 8, 15, 15, 15] {
        let (call, at) = follower.next_call().await;
        let (delay, max) = (at - last, Duration::from_secs(seconds));
        assert_eq!(call, "list");
        // Tokio's clock has a resolution of 1 ms.
        assert!(delay >= max / 2 && delay <= max + Duration::from_millis(1), "{delay:?} of {max:?}");
        last = at;
    }
    assert_eq!(follower.synced.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn deleted_pod_is_removed_and_a_pod_that_was_never_listed_is_unknown() {
    let deleted = frame(&[event(4, WatchChange::Deleted { uid: pod_uid("a") })]);
    let mut follower =
        Follower::start([MockResponse::List(workload_list(3, pods(&["a"]))), MockResponse::Watch(vec![deleted])]);
    follower.expect(&["list", "watch e1:3", "watch e1:4"]).await;
    assert_eq!(follower.pods(), [""; 0]);
    assert_eq!((follower.node.find("shop/a"), follower.node.find("shop/b")), (None, None));
}
