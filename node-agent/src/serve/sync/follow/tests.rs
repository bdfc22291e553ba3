use std::sync::Mutex;

use bytes::Bytes;
use podmeta_agent_api::{WatchChange, WorkloadItem};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::serve::SavedState;
use crate::serve::fixture::{added, denied_item, event, list as workload_list, node_state, pod_uid};
use crate::serve::sync::mock::{MockOperator, MockResponse, TimedCall, frame, unavailable};
use crate::serve::sync::progress::MAX_FUTILE_ATTEMPTS;

/// A node that follows an operator with these responses.
struct Follower {
    node: Arc<NodeState>,
    calls: UnboundedReceiver<TimedCall>,
    /// The changes of the readiness.
    ready: Arc<Mutex<Vec<bool>>>,
}

impl Follower {
    fn start(responses: impl IntoIterator<Item = MockResponse>) -> Self {
        Self::restart(SavedState::default(), responses)
    }

    fn restart(saved: SavedState, responses: impl IntoIterator<Item = MockResponse>) -> Self {
        let (api, calls) = MockOperator::new(responses);
        let (node, ready) = (node_state(saved), Arc::new(Mutex::new(Vec::new())));
        let changes = Arc::clone(&ready);
        tokio::spawn(follow(api, Arc::clone(&node), move |is_ready| changes.lock().unwrap().push(is_ready)));
        Self { node, calls, ready }
    }

    /// Returns the changes of the readiness.
    fn ready(&self) -> Vec<bool> {
        self.ready.lock().unwrap().clone()
    }

    async fn next_call(&mut self) -> TimedCall {
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
    assert_eq!(follower.ready(), [true]);
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
async fn failed_list_after_status_410_is_repeated() {
    let mut follower = Follower::start([
        MockResponse::List(workload_list(3, pods(&["a"]))),
        MockResponse::Error(OperatorError::VersionExpired),
        unavailable(),
        MockResponse::List(workload_list(9, pods(&["b"]))),
    ]);
    follower.expect(&["list", "watch e1:3", "list", "list", "watch e1:9"]).await;
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
    assert_eq!(follower.ready(), [false; 0]);
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

#[tokio::test(start_paused = true)]
async fn over_long_event_relists_and_applies_what_follows() {
    let long = "x".repeat(podmeta_agent_api::MAX_LINE_BYTES + 1);
    for line in [long.clone(), long + "\n"] {
        let deleted = frame(&[event(10, WatchChange::Deleted { uid: pod_uid("b") })]);
        let mut follower = Follower::start([
            MockResponse::List(workload_list(3, pods(&["a", "b"]))),
            MockResponse::OpenWatch(vec![line.into()]),
            MockResponse::List(workload_list(9, pods(&["a", "b"]))),
            MockResponse::Watch(vec![deleted]),
        ]);
        follower.expect(&["list", "watch e1:3", "list", "watch e1:9", "watch e1:10"]).await;
        assert_eq!((follower.pods(), follower.ready()), (vec!["a".to_owned()], vec![true]));
    }
}

fn saved() -> SavedState {
    SavedState { resource_version: Some("e1:3".parse().unwrap()), ..SavedState::default() }
}

fn invalid_response() -> MockResponse {
    MockResponse::Error(OperatorError::InvalidResponse("not a list".to_owned()))
}

#[tokio::test(start_paused = true)]
async fn agent_is_not_ready_while_the_operator_responds_without_progress() {
    let attempts = MAX_FUTILE_ATTEMPTS as usize;
    let rejected = || {
        MockResponse::Error(OperatorError::Rejected {
            status: http::StatusCode::UNAUTHORIZED,
            message: "no token".to_owned(),
            leader: None,
        })
    };
    type Response = fn() -> MockResponse;
    let attempt: [(&str, Response); 3] = [
        ("watch that ends immediately", || MockResponse::Watch(Vec::new())),
        ("watch that breaks immediately", || MockResponse::BrokenWatch(Vec::new())),
        ("watch that is rejected", rejected),
    ];
    for (case, response) in attempt {
        let run = async |futile: usize| {
            let bookmark = MockResponse::Watch(vec![frame(&[event(4, WatchChange::Bookmark)])]);
            let mut follower = Follower::restart(saved(), (0..futile).map(|_| response()).chain([bookmark]));
            follower.expect(&vec!["watch e1:3"; futile + 1]).await;
            follower.expect(&["watch e1:4"]).await;
            follower.ready()
        };
        assert!(!run(attempts - 1).await.contains(&false), "{case}");
        assert!(run(attempts).await.ends_with(&[false, true]), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn agent_whose_lists_are_invalid_is_not_ready() {
    let attempts = MAX_FUTILE_ATTEMPTS as usize;
    let mut follower = Follower::start((0..attempts).map(|_| invalid_response()));
    follower.expect(&vec!["list"; attempts + 1]).await;
    assert_eq!(follower.ready(), [false]);
}

#[tokio::test(start_paused = true)]
async fn unavailable_operator_does_not_change_the_readiness() {
    let attempts = 4 * MAX_FUTILE_ATTEMPTS as usize;
    let unreachable = || MockResponse::Error(OperatorError::Unreachable("no route".to_owned()));
    let timeout = || MockResponse::Error(OperatorError::Timeout);
    let responses = (0..attempts).flat_map(|_| [unavailable(), unreachable(), timeout()]);
    let mut follower = Follower::restart(saved(), responses);
    follower.expect(&vec!["watch e1:3"; 3 * attempts + 1]).await;
    assert_eq!(follower.ready(), [false; 0]);
}
