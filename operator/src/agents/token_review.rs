//! Authenticates node agents by their ServiceAccount tokens. The API server reviews the token, and the claims of the token
//! hold the node's name, so an agent can act only for its own node.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use podmeta_agent_api::AUDIENCE;
use podmeta_metadata::names::PodUid;
use tokio::sync::Semaphore;

use super::keyed_locks::KeyedLocks;
use crate::cluster::events::format_chain;

/// The maximum time for which a review is cached. Each request checks that the agent's pod still exists.
const MAX_CACHE_TIME: Duration = Duration::from_secs(60);

/// The timeout of one TokenReview.
const API_TIMEOUT: Duration = Duration::from_secs(3);

/// The maximum number of reviews at the same time. Each uses a connection to the API server, and all agents connect at once
/// after a restart.
const MAX_CONCURRENT_REVIEWS: usize = 16;

/// The maximum number of cached tokens. If it is exceeded the cache is cleared, and each token is reviewed again.
const MAX_CACHED_TOKENS: usize = 20_000;

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
    cache: Mutex<HashMap<[u8; 32], CachedIdentity>>,
    review_slots: Semaphore,
    address_locks: KeyedLocks<Option<IpAddr>>,
}

/// A reviewed token.
struct CachedIdentity {
    agent: AgentIdentity,
    /// Time at which the token must be reviewed again.
    review_again: Instant,
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
            cache: Mutex::default(),
            review_slots: Semaphore::new(MAX_CONCURRENT_REVIEWS),
            address_locks: KeyedLocks::default(),
        }
    }

    /// Returns the agent that a token belongs to. Reviews one token of each address at a time, so that an address with many
    /// tokens does not delay others.
    ///
    /// # Errors
    /// If the token does not belong to a node agent, or the API server does not review it.
    pub async fn authenticate(&self, token: &str, address: Option<IpAddr>) -> Result<AgentIdentity, AuthError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(agent) = self.cached(&key) {
            return Ok(agent);
        }
        let address_lock = self.address_locks.get(&address);
        let _address_guard = address_lock.lock().await;
        let slot = self.review_slots.acquire().await;
        let _slot = slot.map_err(|closed| AuthError::Unavailable(closed.to_string()))?;
        // Another request may have reviewed the same token while this one waited.
        if let Some(agent) = self.cached(&key) {
            return Ok(agent);
        }
        let started = Instant::now();
        let (node, pod) = agent_from_review(&self.review(token).await?, &self.user)?;
        let lifetime = remaining_lifetime(token, jiff::Timestamp::now()).unwrap_or_default();
        let agent = AgentIdentity { node, pod, expires: started + lifetime };
        let mut cache = self.cache();
        if cache.len() >= MAX_CACHED_TOKENS {
            cache.clear();
        }
        let review_again = started + lifetime.min(MAX_CACHE_TIME);
        cache.insert(key, CachedIdentity { agent: agent.clone(), review_again });
        Ok(agent)
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

    fn cached(&self, key: &[u8; 32]) -> Option<AgentIdentity> {
        let cache = self.cache();
        let cached = cache.get(key)?;
        (Instant::now() < cached.review_again).then(|| cached.agent.clone())
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<[u8; 32], CachedIdentity>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    const AGENT_USER: &str = "system:serviceaccount:podmeta-system:podmeta-agent";

    fn status(audience: &str, user: &str, nodes: &[&str]) -> TokenReviewStatus {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(BTreeMap::from([
                    (NODE_NAME_CLAIM.to_owned(), nodes),
                    (POD_UID_CLAIM.to_owned(), vec!["u1".to_owned()]),
                ])),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn agent_token_gives_its_node_and_pod() {
        let pod: PodUid = "u1".try_into().unwrap();
        assert_eq!(agent_from_review(&status(AUDIENCE, AGENT_USER, &["a"]), AGENT_USER), Ok(("a".to_owned(), pod)));
    }

    #[test]
    fn token_of_another_user_audience_or_without_node_is_rejected() {
        let other = "system:serviceaccount:shop:web";
        assert_eq!(
            agent_from_review(&status(AUDIENCE, other, &["a"]), AGENT_USER),
            Err(AuthError::NotAnAgent(other.into()))
        );
        assert!(matches!(
            agent_from_review(&status("https://api", AGENT_USER, &["a"]), AGENT_USER),
            Err(AuthError::NotAuthenticated(_))
        ));
        let unauthenticated = TokenReviewStatus { authenticated: Some(false), ..status(AUDIENCE, AGENT_USER, &["a"]) };
        assert!(matches!(agent_from_review(&unauthenticated, AGENT_USER), Err(AuthError::NotAuthenticated(_))));
        assert!(matches!(
            agent_from_review(&TokenReviewStatus::default(), AGENT_USER),
            Err(AuthError::NotAuthenticated(_))
        ));
        for nodes in [&[][..], &["a", "b"]] {
            assert_eq!(agent_from_review(&status(AUDIENCE, AGENT_USER, nodes), AGENT_USER), Err(AuthError::NoNode));
        }
    }

    #[test]
    fn remaining_lifetime_ends_with_the_token() {
        use base64::Engine as _;
        let now = jiff::Timestamp::from_second(1000).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":1007}"#);
        assert_eq!(remaining_lifetime(&format!("h.{claims}.s"), now), Some(Duration::from_secs(7)));
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":900}"#);
        assert_eq!(remaining_lifetime(&format!("h.{claims}.s"), now), Some(Duration::ZERO));
        assert_eq!(remaining_lifetime("not a token", now), None);
    }
}
