//! Requests of pods whose profile restricts users.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::BoxFuture;

use super::*;
use crate::edge::{FindOwner, FindOwnerError};

const REQUEST: &str = "GET /latest/meta-data/hostname HTTP/1.1\r\n\r\n";
const LAST_REQUEST: &str = "GET /latest/meta-data/hostname HTTP/1.1\r\nConnection: close\r\n\r\n";

/// Finds a user, and counts the lookups.
#[derive(Debug, Default)]
struct TestFinder {
    /// The user, or `None` if no socket is found.
    user: Option<u32>,
    /// True if lookups fail.
    fails: bool,
    /// True if lookups never end.
    hangs: bool,
    lookups: AtomicUsize,
    running: AtomicUsize,
}

impl FindOwner for TestFinder {
    fn find_owner(&self) -> BoxFuture<'_, Result<u32, FindOwnerError>> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            assert_eq!(self.running.fetch_add(1, Ordering::Relaxed), 0, "two lookups of a pod at the same time");
            yield_now().await; // another lookup could start meanwhile
            if self.hangs {
                return pending().await;
            }
            self.running.fetch_sub(1, Ordering::Relaxed);
            if self.fails {
                return Err(anyhow!("no response").into());
            }
            self.user.ok_or(FindOwnerError::NotFound("no such socket".to_owned()))
        })
    }
}

/// Returns an edge with a pod that serves these users, and any number of requests.
fn edge_for_users(users: &str) -> (Arc<Edge>, PodUid) {
    edge_with_pod(&objects_for_users(users))
}

fn objects_for_users(users: &str) -> String {
    let objects = OBJECTS.replace("limits: {requestsPerSecond: 1, burst: 2}", "limits: {requestsPerSecond: 1000}");
    format!("{objects}{users}")
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

/// Clients treat 403 as final, and retry after 503.
#[tokio::test(start_paused = true)]
async fn failed_lookup_gets_503_and_closes() {
    for users in ["  allowedUsers: [33]\n", "  deniedUsers: [0]\n"] {
        let (edge, uid) = edge_for_users(users);
        let finder = Arc::new(TestFinder { user: Some(33), fails: true, ..TestFinder::default() });
        let responses = send_with(&edge, &uid, &finder, &format!("{REQUEST}{REQUEST}")).await;
        assert_eq!(responses.matches("HTTP/1.1 503 ").count(), 1, "{users}: {responses}");
        let headers = responses.to_lowercase();
        assert!(headers.contains("connection: close") && headers.contains("retry-after: 1"), "{users}: {responses}");
    }
}

#[tokio::test(start_paused = true)]
async fn request_over_the_rate_limit_causes_no_lookup() {
    let (edge, uid) = edge_with_pod(&format!("{OBJECTS}  allowedUsers: [33]\n"));
    let pod = edge.pod(&uid).unwrap();
    while pod.rate_limiter.try_reserve(&pod.limits(), Instant::now()) {}
    let finder = Arc::new(TestFinder { user: Some(33), ..TestFinder::default() });
    let response = send_with(&edge, &uid, &finder, LAST_REQUEST).await;
    assert!(response.starts_with("HTTP/1.1 429 "), "{response}");
    assert_eq!(finder.lookups.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn restriction_that_is_added_applies_to_an_open_connection() {
    let (edge, uid) = edge_for_users("");
    let finder = Arc::new(TestFinder { user: Some(33), ..TestFinder::default() });
    let owner: Arc<dyn FindOwner> = finder.clone();
    let (mut client, server) = UnixStream::pair().unwrap();
    let arrival = Box::new(Arrival { owner: Some(owner), ..arrival(&uid) });
    let serve = EdgeServer::new(Arc::clone(&edge), CancellationToken::new()).serve(server, arrival);
    let exchange = async {
        client.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut bytes = [0; 4096];
        let length = client.read(&mut bytes).await.unwrap();
        assert!(bytes[..length].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(finder.lookups.load(Ordering::Relaxed), 0);
        publish(&edge, &objects_for_users("  allowedUsers: [0]\n"));
        client.write_all(format!("{REQUEST}{LAST_REQUEST}").as_bytes()).await.unwrap();
        let mut responses = String::new();
        client.read_to_string(&mut responses).await.unwrap();
        assert_eq!(responses.matches("HTTP/1.1 403 ").count(), 2, "{responses}");
    };
    tokio::join!(serve, exchange);
    assert_eq!(finder.lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn slow_lookup_ends_with_503_before_a_client_gives_up() {
    let (edge, uid) = edge_for_users("  allowedUsers: [33]\n");
    let finder = Arc::new(TestFinder { user: Some(33), hangs: true, ..TestFinder::default() });
    let started = Instant::now();
    let response = send_with(&edge, &uid, &finder, REQUEST).await;
    assert!(response.starts_with("HTTP/1.1 503 "), "{response}");
    assert!(started.elapsed() < Duration::from_millis(600), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lookups_of_a_pod_run_one_at_a_time() {
    let (edge, uid) = edge_for_users("  allowedUsers: [33]\n");
    let finder = Arc::new(TestFinder { user: Some(33), ..TestFinder::default() });
    let connections = [(); 3].map(|()| send_with(&edge, &uid, &finder, LAST_REQUEST));
    for response in futures_util::future::join_all(connections).await {
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    }
    assert_eq!(finder.lookups.load(Ordering::Relaxed), 3);
}
