//! Authenticates node agents by their ServiceAccount tokens. The API server reviews the token, and the claims of the token
//! hold the node's name, so an agent can act only for its own node.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use podmeta_agent_api::AUDIENCE;
use podmeta_metadata::names::PodUid;
use podmeta_service::log_throttle::LogThrottle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::keyed_locks::KeyedLocks;
use super::review_cache::{CachedReview, ReviewCache, TokenHash};
use crate::cluster::events::format_chain;

/// The timeout of one TokenReview.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum number of reviews at the same time. Each uses a connection to the API server, and all agents connect at the
/// same time after a restart.
const MAX_CONCURRENT_REVIEWS: usize = 16;

/// The claims with the node's name and the pod's UID. Source: KEP-4193 (`ServiceAccountTokenPodNodeInfo`), on by default since
/// Kubernetes 1.30 and always on since 1.32.
const NODE_NAME_CLAIM: &str = "authentication.kubernetes.io/node-name";
const POD_UID_CLAIM: &str = "authentication.kubernetes.io/pod-uid";

/// An authenticated node agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The agent's node.
    pub node: String,
    /// The agent's own pod.
    pub pod: PodUid,
    /// Time at which the token expires.
    pub expires: Instant,
}

/// Reviews the tokens of the node agents' ServiceAccount.
pub struct TokenReviewer {
    client: Client,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    user: String,
    cache: ReviewCache,
    review_slots: Semaphore,
    /// Reviews that no request waits for. They leave slots to the others.
    background_slots: Arc<Semaphore>,
    /// Limits the log lines of failed reviews in the background. While the API server is unavailable, all of them fail.
    failure_log: Mutex<LogThrottle>,
    address_locks: KeyedLocks<Option<IpAddr>>,
}

/// Error of a request that is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The request has no token.
    #[error("the request has no Authorization: Bearer header")]
    NoToken,
    /// The API server rejects the token: it expired, its pod was deleted, or it has another audience.
    #[error("the API server does not accept the token for the audience {AUDIENCE}: {0}")]
    NotAuthenticated(String),
    /// The token belongs to another user.
    #[error("the token belongs to {0}, not to the node agents' ServiceAccount")]
    NotAnAgent(String),
    /// The token has no node or pod.
    #[error("the token has no claims for node and pod; podmeta needs Kubernetes 1.33 or newer")]
    NoNode,
    /// The API server did not review the token.
    #[error("the API server cannot review the token: {0}")]
    Unavailable(String),
}

impl TokenReviewer {
    /// Creates a reviewer for the tokens of one ServiceAccount.
    #[must_use]
    pub fn new(client: Client, namespace: &str, service_account: &str) -> Self {
        Self {
            client,
            user: format!("system:serviceaccount:{namespace}:{service_account}"),
            cache: ReviewCache::default(),
            review_slots: Semaphore::new(MAX_CONCURRENT_REVIEWS),
            background_slots: Arc::new(Semaphore::new(MAX_CONCURRENT_REVIEWS / 2)),
            failure_log: Mutex::default(),
            address_locks: KeyedLocks::default(),
        }
    }

    /// Returns the agent that a token belongs to. Waits for a review only if there is no recent one.
    ///
    /// # Errors
    /// If the token does not belong to a node agent, or the API server does not review it.
    pub async fn authenticate(
        self: &Arc<Self>,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<AgentIdentity, AuthError> {
        let hash = TokenHash::new(token);
        match self.cache.get(hash, Instant::now()) {
            CachedReview::Current(agent) => Ok(agent),
            CachedReview::Due(agent) => {
                self.review_in_background(&agent, token, hash, address);
                Ok(agent)
            }
            CachedReview::Missing => self.review_and_store(token, hash, address, Instant::now()).await,
        }
    }

    /// Starts a review that no request waits for, unless too many run.
    fn review_in_background(
        self: &Arc<Self>,
        agent: &AgentIdentity,
        token: &str,
        hash: TokenHash,
        address: Option<IpAddr>,
    ) {
        let Ok(slot) = Arc::clone(&self.background_slots).try_acquire_owned() else { return };
        let (reviewer, token) = (Arc::clone(self), Zeroizing::new(token.to_owned()));
        let node = agent.node.clone();
        tokio::spawn(async move {
            let _slot = slot;
            match reviewer.review_and_store(&token, hash, address, Instant::now()).await {
                Ok(_) => {}
                Err(AuthError::Unavailable(error)) => {
                    let admitted =
                        reviewer.failure_log.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
                    if let Some(suppressed) = admitted {
                        tracing::warn!(
                            node,
                            error,
                            suppressed,
                            "cannot review the token of an agent again; using the last result"
                        );
                    }
                }
                Err(error) => {
                    tracing::warn!(node, %error, "the token of an agent is invalid; its requests get 401 until it sends a valid one")
                }
            }
        });
    }

    /// Reviews a token and stores the result. Reviews one token of each address at a time, so that an address with many tokens
    /// does not delay others. A result that another request has stored since `requested` is returned without a review.
    async fn review_and_store(
        &self,
        token: &str,
        hash: TokenHash,
        address: Option<IpAddr>,
        requested: Instant,
    ) -> Result<AgentIdentity, AuthError> {
        let address_lock = self.address_locks.get(&address);
        let _address_guard = address_lock.lock().await;
        let slot = self.review_slots.acquire().await;
        let _slot = slot.map_err(|closed| AuthError::Unavailable(closed.to_string()))?;
        if let Some(agent) = self.cache.stored_since(hash, requested, Instant::now()) {
            return Ok(agent);
        }
        let started = Instant::now();
        match agent_from_review(&self.review(token).await?, &self.user) {
            Ok((node, pod)) => {
                let lifetime = remaining_lifetime(token, jiff::Timestamp::now()).unwrap_or_default();
                let agent = AgentIdentity { node, pod, expires: started + lifetime };
                self.cache.insert(hash, agent.clone(), started, Instant::now());
                Ok(agent)
            }
            Err(error) => {
                self.cache.remove(hash);
                Err(error)
            }
        }
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, AuthError> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = tokio::time::timeout(API_TIMEOUT, api.create(&PostParams::default(), &review)).await;
        let reviewed = reviewed.map_err(|_| AuthError::Unavailable("timeout".to_owned()))?;
        let review = reviewed.map_err(|error| AuthError::Unavailable(format_chain(&error)))?;
        Ok(review.status.unwrap_or_default())
    }
}

/// Returns the node and the pod of a reviewed token.
fn agent_from_review(status: &TokenReviewStatus, agent_user: &str) -> Result<(String, PodUid), AuthError> {
    let mut audiences = status.audiences.iter().flatten();
    if status.authenticated != Some(true) || !audiences.any(|audience| audience == AUDIENCE) {
        let error = status.error.clone().unwrap_or_else(|| "it is not valid".to_owned());
        return Err(AuthError::NotAuthenticated(error));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != agent_user {
        return Err(AuthError::NotAnAgent(name));
    }
    let mut claims = user.extra.unwrap_or_default();
    match (claims.remove(NODE_NAME_CLAIM).as_deref(), claims.remove(POD_UID_CLAIM).as_deref()) {
        (Some([node]), Some([pod])) => {
            let pod = PodUid::try_from(pod.as_str()).map_err(|_| AuthError::NoNode)?;
            Ok((node.clone(), pod))
        }
        (_, _) => Err(AuthError::NoNode),
    }
}

/// Returns the time until a token expires. Its claims can be trusted: the API server has accepted the token.
fn remaining_lifetime(token: &str, now: jiff::Timestamp) -> Option<Duration> {
    use base64::Engine as _;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let seconds = claims.get("exp")?.as_i64()? - now.as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}
