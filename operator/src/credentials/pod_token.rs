//! Tokens of the pods' ServiceAccounts. Each is bound to its pod, so the API server does not issue one for a deleted pod or
//! a pod with another ServiceAccount.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use podmeta_metadata::credentials::FailureCause;
use podmeta_metadata::secret::SecretString;
use podmeta_metadata::workload::PodRef;
use tokio::sync::watch;
use tokio::time::timeout;

use super::failure::ProviderError;
use super::settings::TokenAudiences;
use super::token_policy::TokenPolicyState;
use crate::cluster::events::format_chain;

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// The lifetime of a token, in seconds: the minimum of the API server. A token is used once, immediately.
pub(super) const TOKEN_SECONDS: i64 = 600;

/// Requests tokens.
pub struct PodTokens {
    client: Client,
    audiences: TokenAudiences,
    policy: watch::Receiver<TokenPolicyState>,
}

impl PodTokens {
    /// Creates a source of tokens. It requests none while the policy is not enforced.
    #[must_use]
    pub fn new(client: Client, audiences: TokenAudiences, policy: watch::Receiver<TokenPolicyState>) -> Self {
        Self { client, audiences, policy }
    }

    /// Requests a token of a pod's ServiceAccount, bound to the pod.
    ///
    /// # Errors
    /// If the pod has no ServiceAccount, the audience is not allowed, the admission policy is not enforced, or the API server does
    /// not issue a token.
    pub async fn request(
        &self,
        pod: &PodRef,
        service_account: Option<&str>,
        audience: &str,
    ) -> Result<SecretString, ProviderError> {
        let forbidden = |detail: String| ProviderError::new(FailureCause::TokenRequestForbidden, detail);
        let service_account = service_account.ok_or_else(|| forbidden("the pod has no ServiceAccount".to_owned()))?;
        if !self.audiences.contains(audience) {
            return Err(forbidden(format!("the audience {audience:?} is not one of --token-audiences")));
        }
        match &*self.policy.borrow() {
            TokenPolicyState::Enforced => {}
            TokenPolicyState::Unknown => {
                let detail = "no test of the admission policy for tokens had a result in the last 5 minutes";
                return Err(ProviderError::new(FailureCause::ProviderUnavailable, detail));
            }
            TokenPolicyState::NotEnforced(reason) => {
                return Err(forbidden(format!("the admission policy for tokens is not enforced: {reason}")));
            }
        }
        let bound_to = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.to_string()),
        };
        let request = token_request(audience, Some(bound_to));
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), &pod.namespace);
        let parameters = PostParams::default();
        let created = accounts.create_token_request(service_account, &parameters, &request);
        let token = match timeout(API_TIMEOUT, created).await {
            Ok(Ok(response)) => response.status.map(|status| SecretString::new(status.token)),
            Ok(Err(error)) => {
                let cause = match &error {
                    kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
                        FailureCause::TokenRequestForbidden
                    }
                    _ => FailureCause::ProviderUnavailable,
                };
                let detail =
                    format!("cannot request a token of {}/{service_account}: {}", pod.namespace, format_chain(&error));
                return Err(ProviderError::new(cause, detail));
            }
            Err(_) => None,
        };
        token.filter(|token| !token.expose().is_empty()).ok_or_else(|| {
            let detail = format!(
                "cannot request a token of {}/{service_account}: timeout, or no token in the response",
                pod.namespace
            );
            ProviderError::new(FailureCause::ProviderUnavailable, detail)
        })
    }
}

/// Returns a request for a token with one audience.
pub(super) fn token_request(audience: &str, bound_to: Option<BoundObjectReference>) -> TokenRequest {
    let spec = TokenRequestSpec {
        audiences: vec![audience.to_owned()],
        bound_object_ref: bound_to,
        expiration_seconds: Some(TOKEN_SECONDS),
    };
    TokenRequest { spec, ..TokenRequest::default() }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::cluster::fake_api_server::FakeApiServer;

    const PATH: &str = "/api/v1/namespaces/shop/serviceaccounts/web/token";

    fn pod() -> PodRef {
        PodRef { namespace: "shop".into(), name: "web-1".into(), uid: "u1".try_into().unwrap() }
    }

    fn tokens(state: TokenPolicyState) -> (PodTokens, FakeApiServer) {
        let (client, server) = FakeApiServer::new();
        let (_, policy) = watch::channel(state);
        (PodTokens::new(client, "sts.amazonaws.com".parse().unwrap(), policy), server)
    }

    async fn error(tokens: &PodTokens, account: Option<&str>, audience: &str) -> FailureCause {
        tokens.request(&pod(), account, audience).await.unwrap_err().cause
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_requested_for_one_audience_and_bound_to_the_pod() {
        let (tokens, mut server) = tokens(TokenPolicyState::Enforced);
        let pod = pod();
        let (token, ()) = tokio::join!(tokens.request(&pod, Some("web"), "sts.amazonaws.com"), async {
            let request = server.expect(Method::POST, PATH).await;
            let bound_to = json!({"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "u1"});
            let spec = json!({
                "audiences": ["sts.amazonaws.com"], "boundObjectRef": bound_to, "expirationSeconds": TOKEN_SECONDS,
            });
            assert_eq!(request.body["spec"], spec);
            let status = json!({"token": "a.b.c", "expirationTimestamp": "2026-01-05T08:00:00Z"});
            request.respond(&json!({"metadata": {}, "spec": spec, "status": status}));
        });
        assert_eq!(token.unwrap().expose(), "a.b.c");
    }

    #[tokio::test(start_paused = true)]
    async fn token_is_not_requested_if_the_policy_is_not_enforced_or_the_audience_is_not_listed() {
        for (state, account, audience, cause) in [
            (TokenPolicyState::Enforced, Some("web"), "https://kubernetes", FailureCause::TokenRequestForbidden),
            (TokenPolicyState::Enforced, None, "sts.amazonaws.com", FailureCause::TokenRequestForbidden),
            (TokenPolicyState::Unknown, Some("web"), "sts.amazonaws.com", FailureCause::ProviderUnavailable),
            (
                TokenPolicyState::NotEnforced("no".into()),
                Some("web"),
                "sts.amazonaws.com",
                FailureCause::TokenRequestForbidden,
            ),
        ] {
            let (tokens, mut server) = tokens(state);
            assert_eq!(error(&tokens, account, audience).await, cause);
            server.expect_none(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_request_is_forbidden_and_a_failed_one_is_unavailable() {
        for (status, cause) in [
            (StatusCode::FORBIDDEN, FailureCause::TokenRequestForbidden),
            (StatusCode::NOT_FOUND, FailureCause::TokenRequestForbidden),
            (StatusCode::INTERNAL_SERVER_ERROR, FailureCause::ProviderUnavailable),
        ] {
            let (tokens, mut server) = tokens(TokenPolicyState::Enforced);
            let (found, ()) = tokio::join!(error(&tokens, Some("web"), "sts.amazonaws.com"), async {
                server.expect(Method::POST, PATH).await.respond_error(status);
            });
            assert_eq!(found, cause, "{status}");
        }
        let (tokens, _server) = tokens(TokenPolicyState::Enforced);
        assert_eq!(
            error(&tokens, Some("web"), "sts.amazonaws.com").await,
            FailureCause::ProviderUnavailable,
            "timeout"
        );
    }
}
