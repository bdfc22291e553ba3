//! Calls of one pod to an operator on a loopback port, and their effect on other pods.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::StatusCode;
use podmeta_agent_api::calls::{DOCUMENT, USER_DATA};
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::role::SessionDuration;
use tokio::sync::Semaphore;

use super::*;
use crate::broker::operator::lane::{MAX_CALLS_PER_POD, MAX_QUEUED_PER_POD};
use crate::operator_client::test_operator::{OperatorResponse, TestOperator};

/// Longest time that a test waits for a condition.
const DEADLINE: Duration = Duration::from_secs(20);

/// An operator that responds to calls of one path only when it is released, and counts them.
struct GatedOperator {
    broker: Arc<OperatorBroker>,
    calls: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    _operator: TestOperator,
}

impl GatedOperator {
    async fn start(name: &str, gated_path: &'static str, response: (StatusCode, &'static str)) -> Self {
        let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, closed) = (Arc::clone(&calls), Arc::clone(&gate));
        let operator = TestOperator::start(name, move |call| {
            let (counted, closed) = (Arc::clone(&counted), Arc::clone(&closed));
            async move {
                if call.path != gated_path {
                    return credentials_response();
                }
                counted.fetch_add(1, Ordering::Relaxed);
                let _open = closed.acquire().await.unwrap();
                (response.0, response.1.to_owned())
            }
        });
        let operator = operator.await;
        let broker = OperatorBroker::new(Arc::clone(&operator.client), SavedBrokerState::default());
        Self { broker, calls, gate, _operator: operator }
    }

    fn release(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    async fn wait_for_calls(&self, calls: usize) {
        let reached = async {
            while self.calls() < calls {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, reached).await.unwrap();
    }

    /// Requests a document with an audience of its own.
    async fn document(&self, pod: &str, number: usize) -> Result<SignedDocument, String> {
        let pod: PodUid = pod.try_into().unwrap();
        let (audience, link) = (format!("a{number}"), Link::from_addresses(&pod, &[]));
        self.broker.document(&pod, &link, Dialect::Ecs, Some(audience.clone()), audience).await
    }

    async fn user_data(&self, pod: &str) -> Result<Bytes, String> {
        let key = KeyRef { name: "boot".into(), key: "k".into() };
        self.broker.user_data(&pod.try_into().unwrap(), &key).await
    }

    async fn credentials(&self, pod: &str) -> Result<IssuedCredentials, CredentialsFailure> {
        let request = CredentialsRequest { pod: pod.try_into().unwrap(), dialect: Dialect::Ec2, profile: None };
        self.broker.request_credentials(request, &role("keys"), Timestamp::UNIX_EPOCH).await
    }
}

pub(super) fn credentials_response() -> OperatorResponse {
    let credentials = Credentials {
        access_key_id: "AKIA".into(),
        secret_access_key: SecretString::new("s".into()),
        session_token: SecretString::new(String::new()),
        last_updated: Timestamp::UNIX_EPOCH,
        expiration: Timestamp::MAX,
    };
    (StatusCode::OK, serde_json::to_string(&CredentialsResponse::Issued(credentials)).unwrap())
}

pub(super) const SIGNED: (StatusCode, &str) = (StatusCode::OK, r#"{"document":"d","signature":"s","pkcs7":"p"}"#);
const USER_DATA_RESPONSE: (StatusCode, &str) = (StatusCode::OK, r#"{"data":"eA=="}"#);
const MISSING: (StatusCode, &str) = (StatusCode::NOT_FOUND, r#"{"message":"no Secret shop/boot"}"#);
const UNAVAILABLE: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, r#"{"message":"behind"}"#);

#[tokio::test]
async fn slow_documents_of_one_pod_do_not_delay_credentials_or_documents_of_another() {
    let operator = GatedOperator::start("neighbour", DOCUMENT, SIGNED).await;
    let attack = join_all((0..40).map(|number| operator.document("a", number)));
    let neighbour = async {
        operator.wait_for_calls(MAX_CALLS_PER_POD).await;
        assert!(operator.credentials("b").await.is_ok());
        assert_eq!(operator.calls(), MAX_CALLS_PER_POD, "the limit of one pod");
        let document = operator.document("b", 0);
        let released = async {
            operator.wait_for_calls(MAX_CALLS_PER_POD + 1).await;
            operator.release();
        };
        assert!(tokio::join!(document, released).0.is_ok());
    };
    let (attacked, ()) = timeout(DEADLINE, async { tokio::join!(attack, neighbour) }).await.unwrap();
    assert!(attacked.iter().all(Result::is_ok), "the pod's own calls end too: {attacked:?}");
}

#[tokio::test]
async fn slow_documents_of_many_pods_do_not_delay_credentials() {
    let operator = GatedOperator::start("lanes", DOCUMENT, SIGNED).await;
    let pods: Vec<String> = (0..40).map(|number| format!("a{number}")).collect();
    let attack = join_all(pods.iter().map(|pod| operator.document(pod, 0)));
    let neighbour = async {
        operator.wait_for_calls(8).await;
        assert!(operator.credentials("b").await.is_ok());
        assert_eq!(operator.calls(), 8, "the limit of the lane");
        operator.release();
    };
    timeout(DEADLINE, async { tokio::join!(attack, neighbour) }).await.unwrap();
}

#[tokio::test]
async fn documents_over_the_queue_of_a_pod_fail_immediately() {
    let operator = GatedOperator::start("queue", DOCUMENT, SIGNED).await;
    let attack = join_all((0..MAX_QUEUED_PER_POD + 10).map(|number| operator.document("a", number)));
    let release = async {
        operator.wait_for_calls(MAX_CALLS_PER_POD).await;
        operator.release();
    };
    let (results, ()) = tokio::join!(attack, release);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), MAX_QUEUED_PER_POD);
    assert!(operator.document("a", 0).await.is_ok(), "a full queue is not cached as a failure");
}

#[tokio::test]
async fn requests_for_user_data_share_one_call() {
    let operator = GatedOperator::start("user-data", USER_DATA, USER_DATA_RESPONSE).await;
    let requests = join_all((0..100).map(|_| operator.user_data("a")));
    let release = async {
        operator.wait_for_calls(1).await;
        operator.release();
    };
    let (results, ()) = tokio::join!(requests, release);
    assert!(results.iter().all(|result| result.as_deref() == Ok(b"x")), "{results:?}");
    assert_eq!(operator.calls(), 1);
}

#[tokio::test]
async fn requests_for_one_document_share_one_call() {
    let operator = GatedOperator::start("document", DOCUMENT, SIGNED).await;
    let requests = join_all((0..100).map(|_| operator.document("a", 0)));
    let release = async {
        operator.wait_for_calls(1).await;
        operator.release();
    };
    assert!(tokio::join!(requests, release).0.iter().all(Result::is_ok));
    assert_eq!(operator.calls(), 1);
}

#[tokio::test]
async fn unavailable_user_data_is_requested_by_one_call_with_its_retries() {
    let operator = GatedOperator::start("unavailable-user-data", USER_DATA, UNAVAILABLE).await;
    operator.release();
    let results = join_all((0..100).map(|_| operator.user_data("a"))).await;
    assert!(results.iter().all(Result::is_err));
    let retries = operator.calls();
    assert!((1..=8).contains(&retries), "{retries} calls");
    assert!(operator.user_data("a").await.is_err());
    assert_eq!(operator.calls(), retries, "the failure is cached");
}

#[tokio::test]
async fn rejected_calls_are_cached_for_a_short_time() {
    let operator = GatedOperator::start("rejected", USER_DATA, MISSING).await;
    operator.release();
    for _ in 0..20 {
        assert!(operator.user_data("a").await.unwrap_err().contains("no Secret"));
    }
    assert_eq!(operator.calls(), 1);
    tokio::time::pause();
    tokio::time::advance(FAILURE_AGE).await;
    tokio::time::resume();
    assert!(operator.user_data("a").await.is_err());
    assert_eq!(operator.calls(), 2);

    let operator = GatedOperator::start("rejected-document", DOCUMENT, MISSING).await;
    operator.release();
    for number in 0..20 {
        assert!(operator.document("a", number).await.is_err());
    }
    assert_eq!(operator.calls(), 1, "of every audience");
}

#[tokio::test]
async fn request_that_stops_waiting_does_not_free_the_pods_limit() {
    let operator = GatedOperator::start("cancelled", DOCUMENT, SIGNED).await;
    for number in 0..20 {
        let request = timeout(Duration::ZERO, operator.document("a", number));
        assert!(request.await.is_err());
        operator.wait_for_calls((number + 1).min(MAX_CALLS_PER_POD)).await;
    }
    assert!(operator.credentials("b").await.is_ok(), "a round trip later");
    assert_eq!(operator.calls(), MAX_CALLS_PER_POD);
}

const PENDING: &str = "\"pending\"";

fn cloud_role() -> Role {
    let role_arn = "arn:aws:iam::123456789012:role/web".try_into().unwrap();
    let audience = "sts.amazonaws.com".to_owned().try_into().unwrap();
    let provider = Provider::AwsWebIdentity { role_arn, audience, duration: SessionDuration::HOUR };
    Role { name: "r".to_owned().try_into().unwrap(), provider }
}

async fn request_credentials(
    broker: &Arc<OperatorBroker>,
    pod: &str,
    role: &Role,
) -> Result<IssuedCredentials, CredentialsFailure> {
    let request = CredentialsRequest { pod: pod.try_into().unwrap(), dialect: Dialect::Ec2, profile: None };
    broker.request_credentials(request, role, Timestamp::UNIX_EPOCH).await
}

#[tokio::test]
async fn pending_credentials_are_requested_again_until_they_are_given() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let respond = move |_| {
        let is_pending = counted.fetch_add(1, Ordering::Relaxed) < 2;
        let response = if is_pending { (StatusCode::OK, PENDING.to_owned()) } else { credentials_response() };
        std::future::ready(response)
    };
    let operator = TestOperator::start("pending", respond).await;
    let broker = OperatorBroker::new(Arc::clone(&operator.client), SavedBrokerState::default());
    assert!(request_credentials(&broker, "a", &cloud_role()).await.is_ok());
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn pending_credentials_do_not_delay_those_of_other_pods_and_fail_after_the_timeout() {
    let operator = GatedOperator::start("pending-many", CREDENTIALS, (StatusCode::OK, PENDING)).await;
    operator.release();
    let (role, pods) = (cloud_role(), (0..64).map(|number| format!("a{number}")).collect::<Vec<_>>());
    let attack = join_all(pods.iter().map(|pod| request_credentials(&operator.broker, pod, &role)));
    let mut attack = std::pin::pin!(attack);
    tokio::select! {
        biased;
        _ = &mut attack => panic!("the calls end after 3 seconds"),
        () = operator.wait_for_calls(2 * pods.len()) => {}
    }
    for failed in attack.await {
        assert_eq!(failed.unwrap_err().cause, FailureCause::ProviderUnavailable);
    }
}

#[tokio::test]
async fn cloud_credentials_calls_without_a_response_do_not_delay_those_from_secrets() {
    let operator = GatedOperator::start("secret-lane", CREDENTIALS, (StatusCode::OK, PENDING)).await;
    let (role, pods) = (cloud_role(), (0..64).map(|number| format!("a{number}")).collect::<Vec<_>>());
    let attack = join_all(pods.iter().map(|pod| request_credentials(&operator.broker, pod, &role)));
    let mut attack = std::pin::pin!(attack);
    let neighbour = async {
        operator.wait_for_calls(8).await;
        let secret = operator.credentials("b");
        let reached = operator.wait_for_calls(9);
        tokio::select! {
            _ = secret => panic!("the operator has not responded"),
            () = reached => {}
        }
    };
    tokio::select! {
        biased;
        _ = &mut attack => panic!("the calls of the other pods end after 3 seconds"),
        () = neighbour => {}
    }
}
