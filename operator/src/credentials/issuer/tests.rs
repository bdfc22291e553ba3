use std::io::Write;

use futures_util::future::join_all;
use kube::runtime::events::Reporter;
use tracing_subscriber::EnvFilter;

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;
use crate::credentials::providers::tests::{assume_role, issue_token, providers};
use crate::credentials::request::tests::web_identity;
use crate::credentials::stub_sts::{StubSts, aws_error, aws_response};
use crate::reconcile::fixture;

const LATE: &str = "2099-01-01T00:00:00Z";

/// Returns an issuer that calls a stub, and the API server of its tokens. Events are dropped.
pub(crate) fn issuer(url: &str) -> (Arc<CredentialsIssuer>, FakeApiServer) {
    let (providers, server) = providers(url);
    let (events, _) = FakeApiServer::new();
    let recorder = Recorder::new(events, Reporter { controller: "test".into(), instance: None });
    let (cluster, rate) = ("cluster".parse().unwrap(), NonZeroU32::new(1000).unwrap());
    (CredentialsIssuer::new(cluster, providers, rate, Metrics::default(), recorder), server)
}

fn success() -> (u16, String) {
    (200, aws_response("AssumeRole", LATE))
}

#[tokio::test]
async fn hundred_requests_for_one_role_make_one_call_and_each_role_has_its_own() {
    let stub = StubSts::start(|_| success()).await;
    let (issuer, _server) = issuer(&stub.url);
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
    let (issuer, _server) = issuer(&stub.url);
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
    let (issuer, _server) = issuer(&stub.url);
    // The pod u1 of the fixture has a role from a Secret. There is no pod u9.
    for pod in ["u1", "u9"] {
        assert!(issuer.issue(assume_role(pod)).await.is_ok());
    }
    assert_eq!(issuer.cache().len(), 2);
    issuer.maintain(&fixture::synced_reconciler().shared(), Timestamp::now());
    assert!(issuer.cache().is_empty());
}

/// A writer into shared memory.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_at_the_most_verbose_level_has_an_audit_line_and_no_secret() {
    let (buffer, filter) = (LogBuffer::default(), EnvFilter::new(crate::operator::log_directives("trace")));
    let writer = buffer.clone();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let stub = StubSts::start(|request| (200, aws_response(&request.form["Action"], LATE))).await;
            let (issuer, mut server) = issuer(&stub.url);
            assert!(issuer.issue(assume_role("u1")).await.is_ok());
            let token = issue_token(&mut server, "sts.amazonaws.com");
            let (issued, ()) = tokio::join!(issuer.issue(web_identity("shop", "u2")), token);
            assert!(issued.is_ok());
        });
    });
    let log = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("podmeta_operator::audit") && log.contains("access_key_id=\"ASIA1\""), "{log}");
    assert!(!log.contains("hunter"), "{log}");
}
