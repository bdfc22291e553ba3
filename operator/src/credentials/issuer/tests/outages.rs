//! Outages of a provider. Tokio's clock is paused, and advances only when a test says so: sockets are real.

use futures_util::FutureExt as _;
use podmeta_metadata::time::rfc3339;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::{Instant, advance};

use super::*;
use crate::credentials::providers::tests::aliyun_oidc;

/// The interval at which a pod requests credentials.
const STEP: Duration = Duration::from_secs(5);

/// Returns the time: that of the start of the tests, and the time for which tokio's clock has advanced since.
fn clock() -> Timestamp {
    static START: std::sync::LazyLock<(std::time::Instant, Timestamp)> =
        std::sync::LazyLock::new(|| (std::time::Instant::now(), Timestamp::now()));
    let (instant, timestamp) = *START;
    timestamp + Instant::now().into_std().duration_since(instant)
}

/// Stops the paused clock from advancing while a test waits for a socket, until the returned value is dropped.
fn hold_clock() -> std::sync::mpsc::Sender<()> {
    let (held_tx, held_rx) = std::sync::mpsc::channel();
    // The clock of tokio does not advance on its own while a blocking task runs.
    tokio::task::spawn_blocking(move || held_rx.recv());
    held_tx
}

/// Returns the number of calls with this outcome, from the metrics.
fn calls_with(metrics: &Metrics, outcome: FailureCause) -> usize {
    let (mut registry, mut text) = (Registry::default(), String::new());
    metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let name = format!("podmeta_operator_credentials_calls_total{{provider=\"awsAssumeRole\",outcome=\"{outcome}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

/// A response of the stub.
type StubResponse = (u16, String);

/// Starts a stub with one response after `is_down` is set, and sessions of one hour before.
async fn stub_with(is_down: &Arc<AtomicBool>, response: StubResponse) -> StubSts {
    let is_down = Arc::clone(is_down);
    let started = Instant::now();
    StubSts::start(move |_| {
        if is_down.load(Ordering::Relaxed) {
            return response.clone();
        }
        let expiration = rfc3339(clock() + SignedDuration::from_hours(1));
        (200, aws_response("AssumeRole", &expiration).replace("ASIA1", &format!("ASIA{:?}", started.elapsed())))
    })
    .await
}

/// Checks an outage of 90 minutes after the first call.
async fn check_outage(response: Option<StubResponse>, cause: FailureCause) {
    let _held = hold_clock();
    let is_down = Arc::new(AtomicBool::new(false));
    let stub = stub_with(&is_down, response.clone().unwrap_or_default()).await;
    let metrics = Metrics::default();
    let (issuer, _server) = issuer_with(&stub.url, Arc::new(|_| true), 1000, metrics.clone(), clock);
    let request = assume_role("u1");
    let first = issuer.issue(request.clone()).await.unwrap();
    is_down.store(true, Ordering::Relaxed);
    let stub = response.map(|_| stub); // without a response the stub stops
    let (start, mut failed) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(90 * 60) {
        advance(STEP).await;
        issuer.maintain(clock());
        let result = issuer.issue(request.clone()).await;
        // Joins a renewal that was started, or calls the provider unless a call has failed. The rate limiter starts one call in
        // each millisecond.
        advance(Duration::from_millis(10)).await;
        let _renewed = issuer.renew(request.clone()).await;
        if clock() < first.expiration {
            assert_eq!(result.as_ref(), Ok(&first), "after {:?}", start.elapsed());
        } else {
            let failure = result.unwrap_err();
            assert_eq!((failure.cause, failure.code.as_ref()), (cause, "Failed"), "after {:?}", start.elapsed());
            failed += 1;
        }
    }
    assert!(failed >= 30 * 60 / 5 - 1, "{failed} requests failed");
    // The renewal starts after 20 to 30 minutes. The backoff is 1 to 2 minutes at the end.
    let calls = calls_with(&metrics, cause);
    assert!((28..=80).contains(&calls), "{calls} calls in the outage");
    if let Some(stub) = stub {
        assert_eq!(stub.calls(), calls + 1);
        is_down.store(false, Ordering::Relaxed);
        advance(Duration::from_secs(120)).await;
        let renewed = issuer.issue(request).await.unwrap();
        assert_ne!(renewed.access_key_id, first.access_key_id);
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_served_until_they_expire_while_the_provider_is_unreachable_and_calls_back_off() {
    check_outage(None, FailureCause::ProviderUnavailable).await;
}

#[tokio::test(start_paused = true)]
async fn credentials_are_served_until_they_expire_while_the_provider_returns_errors_and_calls_back_off() {
    for (status, body, cause) in [
        (500, aws_error("InternalFailure", "no"), FailureCause::ProviderUnavailable),
        (429, String::new(), FailureCause::Throttled),
        (200, "<html>".to_owned(), FailureCause::ProviderUnavailable),
    ] {
        check_outage(Some((status, body)), cause).await;
    }
}

/// Starts 100 requests for a role at a provider that never responds. Returns the failure.
async fn failure_of_slow_provider(request: RoleRequest) -> CredentialsFailure {
    let _held = hold_clock();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (issuer, mut server) = issuer_with(&url, Arc::new(|_| true), 1000, Metrics::default(), clock);
    let start = Instant::now();
    let advancing = tokio::spawn(async {
        loop {
            advance(Duration::from_millis(10)).await;
        }
    });
    let calls = join_all((0..100).map(|_| issuer.issue(request.clone())));
    let other = assume_role("other");
    let provider = async {
        if matches!(request.role, CloudRole::AliyunOidc { .. }) {
            issue_token(&mut server, "sts.aliyuncs.com").await;
        }
        let first = listener.accept().await.unwrap();
        // A slow call does not delay the calls of other pods.
        let (_failed, second) = tokio::join!(issuer.issue(other), async {
            let second = listener.accept().await.unwrap();
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            second
        });
        (first, second)
    };
    let called = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(calls, provider) });
    let (results, _connections) = called.await.unwrap();
    advancing.abort();
    assert!(listener.accept().now_or_never().is_none(), "a second call for the role");
    let failure = results[0].clone().unwrap_err();
    assert!(results.iter().all(|result| result.as_ref() == Err(&failure)));
    failure
}

#[tokio::test(start_paused = true)]
async fn slow_provider_gets_one_call_for_a_role_which_fails_after_8_seconds() {
    for (request, code) in [(assume_role("u1"), "Failed"), (aliyun_oidc(), "ServiceUnavailable")] {
        let start = Instant::now();
        let failure = failure_of_slow_provider(request).await;
        assert_eq!((failure.cause, failure.code.as_ref()), (FailureCause::ProviderUnavailable, code), "{failure}");
        let elapsed = start.elapsed();
        assert!((Duration::from_secs(8)..Duration::from_secs(12)).contains(&elapsed), "{elapsed:?}");
    }
}
