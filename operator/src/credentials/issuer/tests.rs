mod outages;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::future::join_all;
use jiff::SignedDuration;
use kube::runtime::events::Reporter;
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::role::SessionDuration;
use podmeta_metadata::secret::SecretString;
use tokio::runtime::Handle;

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;
use crate::credentials::providers::tests::{assume_role, issue_token, providers};
use crate::credentials::request::tests::web_identity;
use crate::credentials::request::{CloudRole, is_current, resolve};
use crate::credentials::stub_sts::{StubSts, aws_error, aws_response};
use crate::log_capture::LogCapture;
use crate::reconcile::fixture;

const LATE: &str = "2099-01-01T00:00:00Z";

/// Returns an issuer that calls a stub, and the API server of its tokens. Events are dropped.
pub(crate) fn issuer(url: &str, is_current: IsCurrent) -> (Arc<CredentialsIssuer>, FakeApiServer) {
    issuer_with(url, is_current, 1000, Metrics::default(), Timestamp::now)
}

fn issuer_with(
    url: &str,
    is_current: IsCurrent,
    calls_per_second: u32,
    metrics: Metrics,
    clock: fn() -> Timestamp,
) -> (Arc<CredentialsIssuer>, FakeApiServer) {
    let (providers, server) = providers(url);
    let (events, _) = FakeApiServer::new();
    let recorder = Recorder::new(events, Reporter { controller: "test".into(), instance: None });
    let (cluster, rate) = ("cluster".parse().unwrap(), NonZeroU32::new(calls_per_second).unwrap());
    (CredentialsIssuer::new(cluster, providers, rate, metrics, recorder, is_current, clock), server)
}

fn success() -> (u16, String) {
    (200, aws_response("AssumeRole", LATE))
}

#[tokio::test]
async fn hundred_requests_for_one_role_make_one_call_and_each_role_has_its_own() {
    let stub = StubSts::start(|_| success()).await;
    let (issuer, _server) = issuer(&stub.url, Arc::new(|_| true));
    let results = join_all((0..100).map(|_| issuer.issue(assume_role("u1")))).await;
    assert!(results.iter().all(|result| *result == results[0]) && results[0].is_ok(), "{:?}", results[0]);
    assert_eq!(stub.calls(), 1);
    assert!(issuer.issue(assume_role("u1")).await.is_ok());
    assert_eq!(stub.calls(), 1, "from the cache");
    assert!(issuer.issue(assume_role("u2")).await.is_ok());
    assert_eq!(stub.calls(), 2);
}

#[tokio::test]
async fn failure_is_returned_without_the_clouds_text_and_without_a_second_call() {
    let stub =
        StubSts::start(|_| (403, aws_error("AccessDenied", "User: arn:aws:sts::1:assumed-role/operator/x"))).await;
    let (issuer, _server) = issuer(&stub.url, Arc::new(|_| true));
    for _ in 0..3 {
        let failure = issuer.issue(assume_role("u1")).await.unwrap_err();
        assert_eq!(
            (failure.cause, failure.code.as_ref()),
            (FailureCause::AccessDenied, "AssumeRoleUnauthorizedAccess")
        );
        assert!(!failure.message.contains("operator/x"), "{}", failure.message);
    }
    assert_eq!(stub.calls(), 1);
}

#[tokio::test]
async fn credentials_of_a_pod_that_has_another_role_or_was_deleted_are_dropped() {
    let stub = StubSts::start(|_| success()).await;
    let changed = Arc::new(AtomicBool::new(false));
    let has_changed = Arc::clone(&changed);
    let is_current = move |request: &RoleRequest| request.pod.name == "u1" || !has_changed.load(Ordering::Relaxed);
    let (issuer, _server) = issuer(&stub.url, Arc::new(is_current));
    for pod in ["u1", "u2"] {
        assert!(issuer.issue(assume_role(pod)).await.is_ok());
    }
    changed.store(true, Ordering::Relaxed);
    issuer.maintain(Timestamp::now());
    assert_eq!(issuer.cache().len(), 1);
}

#[tokio::test]
async fn queued_call_of_a_pod_that_has_another_role_by_then_is_not_made() {
    let stub = StubSts::start(|_| success()).await;
    let (issuer, _server) = issuer(&stub.url, Arc::new(|_| false));
    let failure = issuer.issue(assume_role("u1")).await.unwrap_err();
    assert_eq!((failure.cause, stub.calls()), (FailureCause::ProviderUnavailable, 0));
    assert!(issuer.cache().is_empty(), "the failure is not stored");
}

/// Stores credentials that must be renewed now.
fn store_due_credentials(issuer: &CredentialsIssuer, request: &RoleRequest) {
    let credentials = Credentials {
        access_key_id: "ASIA1".into(),
        secret_access_key: SecretString::new("s".into()),
        session_token: SecretString::new("t".into()),
        last_updated: Timestamp::UNIX_EPOCH,
        expiration: Timestamp::now() + SignedDuration::from_mins(1),
    };
    let day_ago = Timestamp::now() - SignedDuration::from_hours(24);
    issuer.cache().store(request, credentials, day_ago, Jitter::new(0));
}

#[tokio::test]
async fn renewals_of_250_pods_that_are_due_at_the_same_time_never_exceed_the_rate() {
    const RATE: u32 = 50;
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&arrivals);
    let stub = StubSts::start(move |request| {
        recorded.lock().unwrap().push((Instant::now(), request.form["RoleSessionName"].clone()));
        success()
    })
    .await;
    let (issuer, _server) = issuer_with(&stub.url, Arc::new(|_| true), RATE, Metrics::default(), Timestamp::now);
    let requests: Vec<RoleRequest> = (0..250).map(|number| assume_role(&format!("u{number}"))).collect();
    requests.iter().for_each(|request| store_due_credentials(&issuer, request));
    let start = Instant::now();
    issuer.maintain(Timestamp::now());
    // Each joins the renewal that was started.
    let renewed = join_all(requests.iter().map(|request| issuer.renew(request.clone()))).await;
    assert!(renewed.iter().all(Result::is_ok));
    let arrivals = arrivals.lock().unwrap();
    let sessions: BTreeSet<_> = arrivals.iter().map(|(_, session)| session).collect();
    assert_eq!((arrivals.len(), sessions.len()), (250, 250), "each is renewed once");
    // Call number N arrives at least N intervals after the start.
    for ((arrival, _), interval) in arrivals.iter().zip(0..) {
        let (elapsed, allowed) = (arrival.duration_since(start), Duration::from_secs(1) / RATE * interval);
        assert!(elapsed >= allowed, "call {interval} after {elapsed:?}");
    }
}

#[tokio::test]
async fn renewals_of_pods_that_started_together_are_spread_at_random() {
    let expiration = Timestamp::now() + SignedDuration::from_hours(1);
    let stub = StubSts::start(move |_| (200, aws_response("AssumeRole", &expiration.to_string()))).await;
    let (issuer, _server) = issuer(&stub.url, Arc::new(|_| true));
    let results = join_all((0..100).map(|number| issuer.issue(assume_role(&format!("u{number}"))))).await;
    assert!(results.iter().all(Result::is_ok));
    // With 30 to 40 minutes left, so about half of them with 35.
    let due = issuer.cache().due(expiration - SignedDuration::from_mins(35)).len();
    assert!((20..80).contains(&due), "{due} of 100 are due");
}

#[tokio::test]
async fn renewal_that_waits_for_its_call_is_not_started_again() {
    let (issuer, _server) = issuer("http://127.0.0.1:9", Arc::new(|_| true));
    store_due_credentials(&issuer, &assume_role("u1"));
    let (tasks, now) = (Handle::current().metrics(), Timestamp::now());
    assert_eq!(issuer.cache().due(now), [assume_role("u1")]);
    let before = tasks.num_alive_tasks();
    for _ in 0..20 {
        issuer.maintain(now);
        assert!(issuer.issue(assume_role("u1")).await.is_ok());
    }
    assert_eq!(tasks.num_alive_tasks(), before + 1);
}

#[test]
fn request_is_current_until_the_role_changes_or_the_pod_ends() {
    let cluster = "cluster".parse().unwrap();
    let shared = fixture::synced_reconciler_with(fixture::CLOUD_POD).shared();
    let state = shared.read();
    let pod = state.pod_on_node("n1", &"u3".try_into().unwrap()).unwrap();
    let request = resolve(pod.item.outcome.workload().unwrap(), Dialect::Ec2, "n1", &cluster).unwrap().unwrap();
    let now = Timestamp::now();
    assert!(is_current(&state, &request, &cluster, now));
    let moved = RoleRequest { node: "n2".into(), ..request.clone() };
    let longer = RoleRequest { duration: SessionDuration::try_from(7200).unwrap(), ..request.clone() };
    for other in [moved, longer, assume_role("u9")] {
        assert!(!is_current(&state, &other, &cluster, now), "{other:?}");
    }
    drop(state);
    let deleted = fixture::CLOUD_POD.replace("uid: u3", "uid: u3, deletionTimestamp: '2026-01-05T09:00:00Z'");
    let shared = fixture::synced_reconciler_with(&deleted).shared();
    for (time, is_expected) in [("2026-01-05T09:05:00Z", true), ("2026-01-05T09:05:01Z", false)] {
        assert_eq!(is_current(&shared.read(), &request, &cluster, time.parse().unwrap()), is_expected, "{time}");
    }
}

#[tokio::test]
async fn log_at_the_most_verbose_level_has_an_audit_line_and_no_secret() {
    let log = LogCapture::start(&crate::operator::log_directives("trace"));
    let stub = StubSts::start(|request| (200, aws_response(&request.form["Action"], LATE))).await;
    let (issuer, mut server) = issuer(&stub.url, Arc::new(|_| true));
    assert!(issuer.issue(assume_role("u1")).await.is_ok());
    let token = issue_token(&mut server, "sts.amazonaws.com");
    let (issued, ()) = tokio::join!(issuer.issue(web_identity("shop", "u2")), token);
    assert!(issued.is_ok());
    let log = log.text();
    assert!(log.contains(" access: issued credentials") && log.contains("access_key_id=\"ASIA1\""), "{log}");
    assert!(log.contains(" pod=shop/u2 ") && log.contains(" service_account=shop/web "), "{log}");
    assert!(!log.contains("hunter"), "{log}");
}
