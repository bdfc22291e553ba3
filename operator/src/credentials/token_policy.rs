//! Proves that the API server enforces the chart's admission policy for tokens: it must reject two requests of the operator,
//! for a token that is not bound to a pod, and for one with an audience that is not listed. RBAC alone would let the operator
//! request a token of any ServiceAccount of the cluster, for the API server too.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::pod_token::token_request;
use super::settings::TokenAudiences;
use crate::cluster::events::format_chain;

/// The interval between two tests.
const TEST_INTERVAL: Duration = Duration::from_secs(60);

/// The delay after a test without a result.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// The audience of a test. No chart lists it.
const FOREIGN_AUDIENCE: &str = "podmeta.dev/policy-test";

/// Part of the message of every denial by an admission policy.
const DENIED_BY_POLICY: &str = "ValidatingAdmissionPolicy";

/// What the last test has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPolicyState {
    /// No test has had a result yet. No tokens are requested.
    Unknown,
    /// The API server rejects what the policy forbids.
    Enforced,
    /// The API server does not reject it, or the operator may request no token at all, with the reason. No tokens are
    /// requested.
    NotEnforced(String),
}

/// Tests the policy with the operator's own ServiceAccount.
pub struct TokenPolicyTest {
    /// The client.
    pub client: Client,
    /// The namespace of the operator.
    pub namespace: String,
    /// The ServiceAccount of the operator.
    pub service_account: String,
    /// The name of the operator's pod.
    pub pod: String,
    /// The allowed audiences.
    pub audiences: TokenAudiences,
}

impl TokenPolicyTest {
    /// Tests the policy now and every minute. A test without a result keeps the last state.
    pub async fn run(self, state_tx: watch::Sender<TokenPolicyState>, stop: CancellationToken) {
        let run = async {
            loop {
                let delay = match self.test().await {
                    Some(state) => {
                        publish(&state_tx, state);
                        TEST_INTERVAL
                    }
                    None => RETRY_DELAY,
                };
                sleep(delay).await;
            }
        };
        stop.run_until_cancelled(run).await;
    }

    /// Returns the state, or `None` if the API server did not decide.
    async fn test(&self) -> Option<TokenPolicyState> {
        let Some(audience) = self.audiences.first() else {
            return Some(TokenPolicyState::NotEnforced("no audience is allowed (--token-audiences)".to_owned()));
        };
        let bound_to = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.pod.clone()),
            uid: None,
        };
        let unbound = self.is_denied(&token_request(audience, None), "not bound to a pod").await?;
        let foreign = self.is_denied(&token_request(FOREIGN_AUDIENCE, Some(bound_to)), "for any audience").await?;
        Some(unbound.and(foreign).map_or_else(TokenPolicyState::NotEnforced, |()| TokenPolicyState::Enforced))
    }

    /// Returns `Ok` if the policy denies the request, the reason if it does not, or `None` if there is no decision.
    async fn is_denied(&self, request: &TokenRequest, what: &str) -> Option<Result<(), String>> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &self.namespace);
        let parameters = PostParams::default();
        let created = accounts.create_token_request(&self.service_account, &parameters, request);
        let error = match timeout(API_TIMEOUT, created).await {
            Ok(Ok(_token)) => return Some(Err(format!("the API server issues tokens {what}"))),
            Ok(Err(error)) => error,
            Err(_) => {
                tracing::warn!("cannot test the admission policy for tokens: timeout; keeping the last result");
                return None;
            }
        };
        match &error {
            kube::Error::Api(status) if status.message.contains(DENIED_BY_POLICY) => Some(Ok(())),
            kube::Error::Api(status) if status.code == 403 => {
                Some(Err("the operator may not request tokens (serviceaccounts/token)".to_owned()))
            }
            _ => {
                let error = format_chain(&error);
                tracing::warn!(error, "cannot test the admission policy for tokens; keeping the last result");
                None
            }
        }
    }
}

/// Publishes and logs a changed state.
fn publish(state_tx: &watch::Sender<TokenPolicyState>, state: TokenPolicyState) {
    if *state_tx.borrow() == state {
        return;
    }
    match &state {
        TokenPolicyState::NotEnforced(reason) => tracing::warn!(
            reason,
            "the admission policy for tokens is not enforced; awsWebIdentity and aliyunOidc are off"
        ),
        TokenPolicyState::Enforced | TokenPolicyState::Unknown => {
            tracing::info!("the admission policy for tokens is enforced; awsWebIdentity and aliyunOidc are on");
        }
    }
    state_tx.send_replace(state);
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::fake_api_server::{FakeApiServer, FakeRequest};

    const PATH: &str = "/api/v1/namespaces/podmeta-system/serviceaccounts/operator/token";

    fn policy_test(audiences: &str) -> (TokenPolicyTest, FakeApiServer) {
        let (client, server) = FakeApiServer::new();
        let test = TokenPolicyTest {
            client,
            namespace: "podmeta-system".into(),
            service_account: "operator".into(),
            pod: "operator-1".into(),
            audiences: audiences.parse().unwrap(),
        };
        (test, server)
    }

    fn deny(request: FakeRequest) {
        let message =
            "serviceaccounts \"operator\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request";
        request.respond_status(StatusCode::FORBIDDEN, message);
    }

    fn grant(request: FakeRequest) {
        let spec = request.body["spec"].clone();
        let status = json!({"token": "a.b.c", "expirationTimestamp": "2026-01-05T08:00:00Z"});
        request.respond(&json!({"metadata": {}, "spec": spec, "status": status}));
    }

    #[tokio::test(start_paused = true)]
    async fn policy_is_enforced_if_unbound_and_foreign_tokens_are_denied() {
        let (test, mut server) = policy_test("sts.amazonaws.com");
        let (state, ()) = tokio::join!(test.test(), async {
            let unbound = server.expect(Method::POST, PATH).await;
            assert_eq!(unbound.body["spec"]["audiences"], json!(["sts.amazonaws.com"]));
            assert_eq!(unbound.body["spec"]["boundObjectRef"], Value::Null);
            deny(unbound);
            let foreign = server.expect(Method::POST, PATH).await;
            assert_eq!(foreign.body["spec"]["audiences"], json!([FOREIGN_AUDIENCE]));
            assert_eq!(foreign.body["spec"]["boundObjectRef"]["name"], "operator-1");
            deny(foreign);
        });
        assert_eq!(state, Some(TokenPolicyState::Enforced));
    }

    #[tokio::test(start_paused = true)]
    async fn policy_is_not_enforced_if_one_of_the_two_tokens_is_issued() {
        for responses in [[grant, deny], [deny, grant]] {
            let (test, mut server) = policy_test("sts.amazonaws.com");
            let (state, ()) = tokio::join!(test.test(), async {
                for respond in responses {
                    respond(server.expect(Method::POST, PATH).await);
                }
            });
            assert!(
                matches!(&state, Some(TokenPolicyState::NotEnforced(reason)) if reason.contains("issues")),
                "{state:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn denial_by_rbac_is_not_a_proof_and_an_internal_error_is_no_result() {
        let (test, mut server) = policy_test("sts.amazonaws.com");
        let (state, ()) = tokio::join!(test.test(), async {
            for _ in 0..2 {
                server.expect(Method::POST, PATH).await.respond_error(StatusCode::FORBIDDEN);
            }
        });
        assert!(
            matches!(&state, Some(TokenPolicyState::NotEnforced(reason)) if reason.contains("may not")),
            "{state:?}"
        );
        let (state, ()) = tokio::join!(test.test(), async {
            server.expect(Method::POST, PATH).await.respond_error(StatusCode::BAD_REQUEST);
        });
        assert_eq!(state, None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_audience_no_token_is_requested() {
        let (test, mut server) = policy_test("");
        assert!(matches!(test.test().await, Some(TokenPolicyState::NotEnforced(_))));
        server.expect_none(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn policy_that_is_removed_is_noticed_within_a_minute() {
        let (test, mut server) = policy_test("sts.amazonaws.com");
        let (state_tx, mut state) = watch::channel(TokenPolicyState::Unknown);
        let stop = CancellationToken::new();
        tokio::spawn(test.run(state_tx, stop.clone()));
        for respond in [deny, deny] {
            respond(server.expect(Method::POST, PATH).await);
        }
        assert!(state.wait_for(|state| *state == TokenPolicyState::Enforced).await.is_ok());
        let start = tokio::time::Instant::now();
        for respond in [grant, deny] {
            respond(server.expect(Method::POST, PATH).await);
        }
        assert!(state.wait_for(|state| matches!(state, TokenPolicyState::NotEnforced(_))).await.is_ok());
        assert!(start.elapsed() <= TEST_INTERVAL);
        stop.cancel();
    }
}
