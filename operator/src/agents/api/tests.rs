mod connections;
mod pod_data;

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::events::Reporter;
use podmeta_metadata::workload::Link;
use podmeta_service::identity::IdentityKey;
use serde_json::{Value, json};
use tokio::sync::watch as watch_channel;
use tower::ServiceExt as _;

use super::*;
use crate::cluster::fake_api_server::FakeApiServer;
use crate::credentials::issuer::tests::issuer;
use crate::credentials::stub_sts::{StubSts, aws_response};
use crate::model::update::SecretScope;
use crate::reconcile::{Reconciler, fixture};

const TOKEN_REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// RSA keys take seconds to generate without optimization.
static IDENTITY_KEY: LazyLock<IdentityKey> = LazyLock::new(|| IdentityKey::generate("test").unwrap());

struct Fixture {
    router: Router,
    server: FakeApiServer,
    /// The API server of the pods' tokens.
    tokens: FakeApiServer,
    updates_tx: mpsc::Sender<StateUpdate>,
    is_leader: watch_channel::Sender<bool>,
    address: watch_channel::Sender<Option<String>>,
    is_synced: watch_channel::Receiver<bool>,
}

struct TestResponse {
    status: u16,
    retry_after: bool,
    body: Value,
}

impl Fixture {
    fn new(reconciler: Reconciler, sts_url: &str) -> Self {
        let (client, server) = FakeApiServer::new();
        let (shared, updates_tx) = fixture::start(reconciler);
        let is_synced = shared.synced();
        let (is_leader, is_leader_rx) = watch_channel::channel(false);
        let (address, address_rx) = watch_channel::channel(None);
        let leadership = Leadership { is_leader: is_leader_rx, address: address_rx };
        let reviewer = Arc::new(TokenReviewer::new(client.clone(), "podmeta-system", "podmeta-agent"));
        let recorder = Recorder::new(client, Reporter { controller: "test".into(), instance: None });
        let (signer, stop) = (IDENTITY_KEY.signer().unwrap(), CancellationToken::new());
        let (issuer, tokens) = issuer(sts_url, Arc::new(|_| true));
        let updates = updates_tx.clone();
        let context = ApiContext { shared, updates_tx: updates, reviewer, leadership, issuer, signer, recorder, stop };
        Self { router: Api::new(context).router(), server, tokens, updates_tx, is_leader, address, is_synced }
    }

    async fn synced() -> Self {
        Self::synced_with(fixture::synced_reconciler(), "http://127.0.0.1:9").await
    }

    /// Waits until the reconciler's task has compiled its pods.
    async fn synced_with(reconciler: Reconciler, sts_url: &str) -> Self {
        let mut fixture = Self::new(reconciler, sts_url);
        assert!(fixture.is_synced.wait_for(|is_synced| *is_synced).await.is_ok());
        fixture
    }

    /// Sends a request as the agent a1 on node n1.
    async fn call(&mut self, method: Method, path: &str, body: &Value) -> TestResponse {
        self.call_as("n1", "a1", method, path, body).await
    }

    async fn call_as(&mut self, node: &str, pod: &str, method: Method, path: &str, body: &Value) -> TestResponse {
        let review = review(node, pod);
        let request = request(method, path, Some("a.b.c"), body);
        let (response, ()) = tokio::join!(self.router.clone().oneshot(request), async {
            self.server.expect(Method::POST, TOKEN_REVIEWS).await.respond(&review);
        });
        to_test_response(response.unwrap()).await
    }

    async fn post(&mut self, path: &str, body: &Value) -> TestResponse {
        self.call(Method::POST, path, body).await
    }
}

/// Returns the review of the token of an agent.
fn review(node: &str, pod: &str) -> Value {
    json!({"metadata": {}, "spec": {}, "status": {
        "authenticated": true, "audiences": [podmeta_agent_api::AUDIENCE],
        "user": {"username": "system:serviceaccount:podmeta-system:podmeta-agent", "extra": {
            "authentication.kubernetes.io/node-name": [node], "authentication.kubernetes.io/pod-uid": [pod],
        }},
    }})
}

fn request(method: Method, path: &str, token: Option<&str>, body: &Value) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::from(body.to_string())).unwrap()
}

async fn to_test_response(response: Response) -> TestResponse {
    let (status, retry_after) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    TestResponse { status, retry_after, body: serde_json::from_slice(&body).unwrap_or_default() }
}

fn credentials_of(pod: &str) -> Value {
    json!({"pod": pod, "dialect": "ec2"})
}

fn document_of(pod: &str, address: &str) -> Value {
    let link = Link::from_addresses(&pod.try_into().unwrap(), &[address.parse().unwrap()]);
    json!({"pod": pod, "dialect": "ec2", "link": link})
}

#[tokio::test(start_paused = true)]
async fn request_without_a_token_returns_401() {
    let fixture = Fixture::synced().await;
    let request = request(Method::GET, WORKLOADS, None, &Value::Null);
    let response = to_test_response(fixture.router.oneshot(request).await.unwrap()).await;
    assert_eq!(response.status, 401);
}

#[tokio::test(start_paused = true)]
async fn token_of_another_user_returns_401() {
    let mut fixture = Fixture::synced().await;
    let review = json!({"metadata": {}, "spec": {}, "status": {
        "authenticated": true, "audiences": [podmeta_agent_api::AUDIENCE], "user": {"username": "someone"},
    }});
    let request = request(Method::GET, WORKLOADS, Some("a.b.c"), &Value::Null);
    let (response, ()) = tokio::join!(fixture.router.clone().oneshot(request), async {
        let request = fixture.server.expect(Method::POST, TOKEN_REVIEWS).await;
        assert_eq!(request.body["spec"]["audiences"], json!([podmeta_agent_api::AUDIENCE]));
        request.respond(&review);
    });
    assert_eq!(to_test_response(response.unwrap()).await.status, 401);
}

#[tokio::test(start_paused = true)]
async fn unavailable_token_review_returns_503() {
    let mut fixture = Fixture::synced().await;
    let request = request(Method::GET, WORKLOADS, Some("a.b.c"), &Value::Null);
    // Without a response the review times out.
    let (response, _review) =
        tokio::join!(fixture.router.clone().oneshot(request), fixture.server.expect(Method::POST, TOKEN_REVIEWS));
    let response = to_test_response(response.unwrap()).await;
    assert_eq!((response.status, response.retry_after), (503, true));
}

#[tokio::test(start_paused = true)]
async fn replica_that_is_not_synced_returns_503() {
    let mut fixture = Fixture::new(fixture::empty_reconciler(), "http://127.0.0.1:9");
    let response = fixture.call(Method::GET, WORKLOADS, &Value::Null).await;
    assert_eq!((response.status, response.retry_after), (503, true));
}

#[tokio::test(start_paused = true)]
async fn agent_whose_own_pod_is_not_on_its_node_gets_503() {
    for (node, pod) in [("n1", "unknown"), ("n1", "a2")] {
        let response = Fixture::synced().await.call_as(node, pod, Method::GET, WORKLOADS, &Value::Null).await;
        assert_eq!((response.status, response.retry_after), (503, true), "{pod}");
    }
}

#[tokio::test(start_paused = true)]
async fn agent_whose_node_does_not_exist_gets_503() {
    let mut fixture = Fixture::synced().await;
    fixture.updates_tx.send(StateUpdate::NodeDeleted("n1".to_owned())).await.unwrap();
    fixture::flush(&fixture.updates_tx).await;
    let response = fixture.call(Method::GET, WORKLOADS, &Value::Null).await;
    assert_eq!((response.status, response.retry_after), (503, true));
}

#[tokio::test(start_paused = true)]
async fn list_has_the_pods_of_the_agents_node_only() {
    let response = Fixture::synced().await.call(Method::GET, WORKLOADS, &Value::Null).await;
    let text = response.body.to_string();
    assert_eq!((response.status, response.body["items"].as_array().unwrap().len()), (200, 2));
    assert!(text.contains("web-1") && !text.contains("web-2"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn watch_from_an_expired_version_returns_410_and_from_an_invalid_one_400() {
    for (version, status) in [("other:1", 410), ("e1:999", 410), ("1", 400)] {
        let path = format!("{WORKLOADS}?watch=1&resourceVersion={version}");
        assert_eq!(Fixture::synced().await.call(Method::GET, &path, &Value::Null).await.status, status, "{version}");
    }
}

#[tokio::test(start_paused = true)]
async fn watch_ends_when_the_token_expires() {
    let mut fixture = Fixture::synced().await;
    // The test token has no expiry claim, so it is treated as expired.
    let path = format!("{WORKLOADS}?watch=1&resourceVersion=e1:0");
    let response = fixture.call(Method::GET, &path, &Value::Null).await;
    assert_eq!((response.status, response.body), (200, Value::Null));
}

#[tokio::test(start_paused = true)]
async fn report_to_a_replica_that_is_not_the_leader_returns_421_with_the_leader() {
    let mut fixture = Fixture::synced().await;
    fixture.address.send_replace(Some("10.0.0.2:8443".into()));
    let response = fixture.post(REPORTS, &json!({"pods": {}})).await;
    assert_eq!((response.status, &response.body["leader"]), (421, &json!("10.0.0.2:8443")));
}

#[tokio::test(start_paused = true)]
async fn report_to_the_leader_returns_204() {
    let mut fixture = Fixture::synced().await;
    fixture.is_leader.send_replace(true);
    fixture.updates_tx.send(StateUpdate::Leadership(true)).await.unwrap();
    assert_eq!(fixture.post(REPORTS, &json!({"pods": {}})).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn report_before_the_state_knows_of_the_leadership_returns_503() {
    let mut fixture = Fixture::synced().await;
    fixture.is_leader.send_replace(true);
    let response = fixture.post(REPORTS, &json!({"pods": {}})).await;
    assert_eq!((response.status, response.retry_after), (503, true));
}

#[tokio::test(start_paused = true)]
async fn single_violation_publishes_no_event() {
    let mut fixture = Fixture::synced().await;
    assert_eq!(fixture.post(CREDENTIALS, &credentials_of("u2")).await.status, 403);
    fixture.server.expect_none(Duration::from_secs(60)).await;
}
