//! Outages of a provider. Tokio's clock is paused, and advances only when a test advances it, because
//! the tests use real sockets.

use futures_util::FutureExt as _;
use podmeta_metadata::time::rfc3339;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::{Instant, advance};

use super::*;
use crate::credentials::providers::tests::aliyun_oidc;

/// The interval at which a pod requests credentials.
const STEP: Duration = Duration::from_secs(5);

/// Returns the time of the start of the tests plus the time by which tokio's clock has advanced since.
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

/// Starts a stub of STS. It returns sessions of one hour until `is_down` is set, and then `response`, or nothing if that is `None`.
async fn stub_with(is_down: &Arc<AtomicBool>, response: Option<StubResponse>) -> StubSts {
    let is_down = Arc::clone(is_down);
    let started = Instant::now();
    StubSts::start_with_silence(move |_| {
        if is_down.load(Ordering::Relaxed) {
            return response.clone();
        }
        let expiration = rfc3339(clock() + SignedDuration::from_hours(1));
        let body = aws_response("AssumeRole", &expiration).replace("ASIA1", &format!("ASIA{:?}", started.elapsed()));
        Some((200, body))
    })
    .await
}

/// Waits until the renewal in flight has ended. Returns false if there is none. Starts no renewal.
async fn wait_for_renewal(issuer: &CredentialsIssuer, request: &RoleRequest) -> bool {
    let none = || CredentialsFailure::failed("no call".into(), FailureCause::ProviderFailed, Timestamp::UNIX_EPOCH);
    issuer.calls.join(request.clone(), async move { Err(none()) }).await != Some(Err(none()))
}

/// Advances the clock slowly enough for sockets.
async fn advance_slowly(duration: Duration) {
    let start = Instant::now();
    while start.elapsed() < duration {
        advance(Duration::from_millis(10)).await;
    }
}

/// Waits for a future while the clock advances.
async fn while_the_clock_advances<T>(future: impl Future<Output = T>) -> T {
    tokio::select! {
        result = future => result,
        () = advance_slowly(Duration::from_secs(60)) => panic!("no result in a minute"),
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_renewed_without_a_request_before_they_expire() {
    let _held = hold_clock();
    let stub = stub_with(&Arc::default(), None).await;
    let (issuer, _server) = issuer_with(&stub.url, Arc::new(|_| true), 1000, Metrics::default(), clock);
    let request = assume_role("u1");
    let first = issuer.issue(request.clone()).await.unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(Arc::clone(&issuer).run(stop.clone()));
    let mut is_renewed = false;
    while !is_renewed && clock() < first.expiration {
        advance(STEP).await;
        // The loop starts the renewal first.
        advance(Duration::from_millis(10)).await;
        is_renewed = wait_for_renewal(&issuer, &request).await;
    }
    stop.cancel();
    let left = first.expiration.duration_since(clock());
    // 30 to 40 minutes, and two intervals of the loop.
    assert!((SignedDuration::from_secs(1790)..=SignedDuration::from_mins(40)).contains(&left), "{left:?} left");
    assert_eq!((is_renewed, stub.calls()), (true, 2));
    let second = issuer.issue(request).now_or_never().unwrap().unwrap();
    assert_ne!(second.access_key_id, first.access_key_id);
}

/// Checks an outage of 90 minutes after the first call.
async fn check_outage(response: Option<StubResponse>, cause: FailureCause) {
    let _held = hold_clock();
    let is_down = Arc::new(AtomicBool::new(false));
    let stub = stub_with(&is_down, response.clone()).await;
    let metrics = Metrics::default();
    let (issuer, _server) = issuer_with(&stub.url, Arc::new(|_| true), 1000, metrics.clone(), clock);
    let request = assume_role("u1");
    let first = issuer.issue(request.clone()).await.unwrap();
    is_down.store(true, Ordering::Relaxed);
    let stub = response.map(|_| stub); // without a response the stub stops
    let (start, mut renewals, mut failed) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(90 * 60) {
        advance(STEP).await;
        issuer.maintain(clock());
        let result = issuer.issue(request.clone()).await;
        // The rate limiter starts one call in each millisecond.
        advance(Duration::from_millis(10)).await;
        renewals += usize::from(wait_for_renewal(&issuer, &request).await);
        if clock() < first.expiration {
            assert_eq!(result.as_ref(), Ok(&first), "after {:?}", start.elapsed());
        } else {
            let failure = result.unwrap_err();
            assert_eq!((failure.cause, failure.code.as_ref()), (cause, "Failed"), "after {:?}", start.elapsed());
            failed += 1;
        }
    }
    assert!(failed >= 30 * 60 / 5 - 1, "{failed} requests failed");
    assert!(renewals >= 15, "{renewals} renewals in the background");
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

#[tokio::test(start_paused = true)]
async fn provider_that_accepts_requests_and_never_responds_is_called_with_backoff() {
    const BEFORE_EXPIRY: Duration = Duration::from_secs(10 * 60);
    let _held = hold_clock();
    let is_down = Arc::new(AtomicBool::new(false));
    let stub = stub_with(&is_down, None).await;
    let metrics = Metrics::default();
    let (issuer, _server) = issuer_with(&stub.url, Arc::new(|_| true), 1000, metrics.clone(), clock);
    let request = assume_role("u1");
    let first = issuer.issue(request.clone()).await.unwrap();
    is_down.store(true, Ordering::Relaxed);
    advance(Duration::from_secs(60 * 60) - BEFORE_EXPIRY).await;
    let outage = Instant::now();
    while clock() < first.expiration {
        issuer.maintain(clock());
        let result = issuer.issue(request.clone()).now_or_never();
        assert_eq!(result, Some(Ok(first.clone())), "after {:?}", outage.elapsed());
        advance_slowly(STEP).await;
    }
    let renewals = stub.calls() - 1;
    while outage.elapsed() < 2 * BEFORE_EXPIRY {
        issuer.maintain(clock());
        let failure = while_the_clock_advances(issuer.issue(request.clone())).await.unwrap_err();
        assert_eq!(failure.cause, FailureCause::ProviderUnavailable, "{failure}");
        advance_slowly(STEP).await;
    }
    let calls = stub.calls() - 1;
    // A call takes 8 seconds. The backoff is 1 to 2 minutes from the seventh failure on.
    assert!((8..=16).contains(&renewals) && (12..=26).contains(&calls), "{renewals} renewals, {calls} calls");
    assert_eq!(calls_with(&metrics, FailureCause::ProviderUnavailable), calls);
    is_down.store(false, Ordering::Relaxed);
    advance(Duration::from_secs(120)).await;
    let renewed = while_the_clock_advances(issuer.issue(request)).await.unwrap();
    assert_ne!(renewed.access_key_id, first.access_key_id);
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
    // A second call would request its token first.
    server.expect_none(Duration::from_secs(1)).await;
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
