//! Requests of pods whose profile restricts users.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use super::*;
use crate::edge::FindOwner;

const REQUEST: &str = "GET /latest/meta-data/hostname HTTP/1.1\r\n\r\n";
const LAST_REQUEST: &str = "GET /latest/meta-data/hostname HTTP/1.1\r\nConnection: close\r\n\r\n";

/// Finds a user after a delay, and counts the lookups.
#[derive(Debug, Default)]
struct TestFinder {
    user: Option<u32>,
    delay: Duration,
    lookups: AtomicUsize,
    running: AtomicUsize,
}

impl FindOwner for TestFinder {
    fn find_owner(&self) -> BoxFuture<'_, anyhow::Result<u32>> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            assert_eq!(self.running.fetch_add(1, Ordering::Relaxed), 0, "two lookups of a pod at once");
            tokio::time::sleep(self.delay).await;
            self.running.fetch_sub(1, Ordering::Relaxed);
            self.user.context("no such user")
        })
    }
}

/// Returns an edge with a pod that serves these users, and any number of requests.
fn edge_for_users(users: &str) -> (Arc<Edge>, PodUid) {
    let objects = OBJECTS.replace("limits: {requestsPerSecond: 1, burst: 2}", "limits: {requestsPerSecond: 1000}");
    edge_with_pod(&format!("{objects}{users}"))
}

/// Sends requests on a connection whose owner `finder` finds.
async fn send_with(edge: &Arc<Edge>, pod: &PodUid, finder: &Arc<TestFinder>, requests: &str) -> String {
    let owner: Arc<dyn FindOwner> = finder.clone();
    send_from(edge, Arrival { owner: Some(owner), ..arrival(pod) }, requests).await
}

#[tokio::test(start_paused = true)]
async fn owner_is_looked_up_once_for_a_connection_and_only_if_users_are_restricted() {
    for (users, lookups) in [("", 0), ("  allowedUsers: [33]\n", 1), ("  deniedUsers: [0]\n", 1)] {
        let (edge, uid) = edge_for_users(users);
        let finder = Arc::new(TestFinder { user: Some(33), ..TestFinder::default() });
        let responses = send_with(&edge, &uid, &finder, &format!("{REQUEST}{REQUEST}{LAST_REQUEST}")).await;
        assert_eq!(responses.matches("HTTP/1.1 200 ").count(), 3, "{users}: {responses}");
        assert_eq!(finder.lookups.load(Ordering::Relaxed), lookups, "{users}");
    }
}

#[tokio::test(start_paused = true)]
async fn user_that_is_not_allowed_gets_403_on_an_open_connection() {
    for users in ["  allowedUsers: [0]\n", "  deniedUsers: [33]\n"] {
        let (edge, uid) = edge_for_users(users);
        let finder = Arc::new(TestFinder { user: Some(33), ..TestFinder::default() });
        let responses = send_with(&edge, &uid, &finder, &format!("{REQUEST}{LAST_REQUEST}")).await;
        assert_eq!(responses.matches("HTTP/1.1 403 ").count(), 2, "{users}: {responses}");
        assert_eq!(finder.lookups.load(Ordering::Relaxed), 1, "{users}");
    }
}

/// A deny list must not let a user through that is not known.
#[tokio::test(start_paused = true)]
async fn connection_without_an_owner_gets_403_and_closes() {
    for users in ["  allowedUsers: [33]\n", "  deniedUsers: [0]\n"] {
        let (edge, uid) = edge_for_users(users);
        let finder = Arc::new(TestFinder::default());
        let responses = send_with(&edge, &uid, &finder, &format!("{REQUEST}{REQUEST}")).await;
        assert_eq!(responses.matches("HTTP/1.1 403 ").count(), 1, "{users}: {responses}");
        assert!(responses.contains("Connection: close"), "{users}: {responses}");
        let response = send_from(&edge, arrival(&uid), REQUEST).await;
        assert!(response.starts_with("HTTP/1.1 403 "), "{users}: {response}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_lookup_ends_with_403_before_a_client_gives_up() {
    let (edge, uid) = edge_for_users("  allowedUsers: [33]\n");
    let finder = Arc::new(TestFinder { user: Some(33), delay: Duration::from_secs(60), ..TestFinder::default() });
    let started = Instant::now();
    let response = send_with(&edge, &uid, &finder, REQUEST).await;
    assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
    assert!(started.elapsed() < Duration::from_millis(600), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lookups_of_a_pod_run_one_at_a_time() {
    let (edge, uid) = edge_for_users("  allowedUsers: [33]\n");
    let finder = TestFinder { user: Some(33), delay: Duration::from_millis(100), ..TestFinder::default() };
    let finder = Arc::new(finder);
    let connections = [(); 3].map(|()| send_with(&edge, &uid, &finder, LAST_REQUEST));
    for response in futures_util::future::join_all(connections).await {
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }
    assert_eq!(finder.lookups.load(Ordering::Relaxed), 3);
}
