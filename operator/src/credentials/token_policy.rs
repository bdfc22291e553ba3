//! Tests that the API server enforces the chart's admission policy for tokens. The operator requests two tokens that the policy
//! forbids: one that is not bound to a pod, and one with an audience that is not listed. RBAC alone would let the operator request
//! a token of any ServiceAccount of the cluster, even for the API server.

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::pod_token::token_request;
use super::settings::TokenAudiences;
use crate::cluster::events::format_chain;

/// The interval between two tests.
const TEST_INTERVAL: Duration = Duration::from_secs(60);

/// The delay after a test without a result, or while the policy is not enforced.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// The audience of a test. No chart lists it.
const FOREIGN_AUDIENCE: &str = "podmeta.dev/policy-test";

/// The time after which a result no longer counts.
const MAX_RESULT_AGE: Duration = Duration::from_secs(300);

/// State of the chart's admission policy for tokens, from tests in the last 5 minutes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPolicyState {
    /// No test has had a result in the last 5 minutes. No tokens are requested.
    Unknown,
    /// The API server rejects what the policy forbids.
    Enforced,
    /// The API server accepts what the policy forbids, or does not let the operator request tokens. Contains the reason. No tokens
    /// are requested.
    NotEnforced(String),
}

/// Tests the policy with the operator's own ServiceAccount.
pub struct TokenPolicyTest {
    /// The client.
    pub client: Client,
    /// The namespace of the operator.
    pub namespace: String,
    /// The ServiceAccount of the operator. The chart names the policy after it: `SERVICE-ACCOUNT-tokens`.
    pub service_account: String,
    /// The name of the operator's pod.
    pub pod: String,
    /// The allowed audiences.
    pub audiences: TokenAudiences,
}

impl TokenPolicyTest {
    /// Tests the policy now and every minute, or every 5 seconds until it is enforced. A test without a result keeps the last
    /// state, for at most 5 minutes.
    pub async fn run(self, state_tx: watch::Sender<TokenPolicyState>, stop: CancellationToken) {
        let run = async {
            let mut last_result = Instant::now();
            loop {
                let state = self.test().await;
                let delay = if state == Some(TokenPolicyState::Enforced) { TEST_INTERVAL } else { RETRY_DELAY };
                match state {
                    Some(state) => {
                        last_result = Instant::now();
                        publish(&state_tx, state);
                    }
                    None if last_result.elapsed() > MAX_RESULT_AGE => publish(&state_tx, TokenPolicyState::Unknown),
                    None => {}
                }
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
                tracing::warn!(
                    "cannot test the admission policy for tokens: timeout; retrying and keeping the last result for up to 5 minutes"
                );
                return None;
            }
        };
        match &error {
            kube::Error::Api(status) if status.message.contains(&self.denied_by_policy()) => Some(Ok(())),
            kube::Error::Api(status) if status.message.contains("ValidatingAdmissionPolicy") => {
                Some(Err("another admission policy denies the tokens".to_owned()))
            }
            kube::Error::Api(status) if status.code == 403 => {
                Some(Err("the operator may not request tokens (serviceaccounts/token)".to_owned()))
            }
            _ => {
                let error = format_chain(&error);
                tracing::warn!(
                    error,
                    "cannot test the admission policy for tokens; retrying and keeping the last result for up to 5 minutes"
                );
                None
            }
        }
    }

    /// Returns a part of the message of each denial by the chart's policy.
    fn denied_by_policy(&self) -> String {
        format!("ValidatingAdmissionPolicy '{}-tokens'", self.service_account)
    }
}

/// Publishes and logs a changed state.
fn publish(state_tx: &watch::Sender<TokenPolicyState>, state: TokenPolicyState) {
    if *state_tx.borrow() == state {
        return;
    }
    match &state {
        TokenPolicyState::NotEnforced(error) => tracing::warn!(
            error,
            "the admission policy for tokens is not enforced; awsWebIdentity and aliyunOidc are off"
        ),
        TokenPolicyState::Unknown => tracing::warn!(
            "no test of the admission policy for tokens had a result for 5 minutes; awsWebIdentity and aliyunOidc are off"
        ),
        TokenPolicyState::Enforced => {
            tracing::info!("the admission policy for tokens is enforced; awsWebIdentity and aliyunOidc are on");
        }
    }
    state_tx.send_replace(state);
}
