//! Finds out which node an agent is on, from its own ServiceAccount token: the API server says whether the token is good,
//! and the node's name is in its claims. An agent can therefore name only its own node.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use kube::api::{Api, PostParams};
use podmeta_agent_api::AUDIENCE;
use podmeta_metadata::names::PodUid;
use tokio::sync::Semaphore;

use crate::turns::Turns;

/// How long the API server's word is taken for a token. That the agent's pod is still there is looked at each time.
const CACHED: Duration = Duration::from_secs(60);

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How many tokens are reviewed at a time. Each takes a connection to the API server, and after a restart all agents come
/// at once.
const AT_ONCE: usize = 16;

/// How many tokens are remembered; beyond that all are forgotten, which costs a review each.
const MOST: usize = 20_000;

/// The claims that Kubernetes puts the name of the pod's node and the pod's UID in. Source: KEP-4193, GA in Kubernetes 1.32.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The node that the agent is on.
    pub node: String,
    /// The agent's own pod.
    pub pod: PodUid,
    /// When the token ends.
    pub until: Instant,
}

/// Reviews tokens of one ServiceAccount.
pub struct Reviewer {
    client: Client,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    user: String,
    /// Each with until when it is taken for good.
    known: Mutex<HashMap<[u8; 32], (Bearer, Instant)>>,
    turns: Semaphore,
    turns_of: Turns<Option<IpAddr>>,
}

/// Why a token is no agent's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("there is no Authorization: Bearer")]
    NoToken,
    /// The API server does not take it: it has ended, its pod is gone, or it is for somebody else.
    #[error("the API server does not accept the token for the audience {AUDIENCE}: {0}")]
    NotAuthenticated(String),
    /// It is somebody else's.
    #[error("the token is of {0}, not of the node agent's ServiceAccount")]
    NotAnAgent(String),
    /// It says no node.
    #[error("the token names no node and pod: Kubernetes 1.32 or newer puts them in the tokens of pods")]
    NoNode,
    /// The API server does not answer.
    #[error("the API server cannot review the token now: {0}")]
    Unavailable(String),
}

impl Reviewer {
    /// A reviewer for the tokens of a ServiceAccount.
    #[must_use]
    pub fn new(client: Client, namespace: &str, service_account: &str) -> Self {
        let user = format!("system:serviceaccount:{namespace}:{service_account}");
        Self { client, user, known: Mutex::default(), turns: Semaphore::new(AT_ONCE), turns_of: Turns::default() }
    }

    /// The agent whose token this is, and the node that it is on. Of one address one token is reviewed at a time, so that
    /// one that shows many has no more of the API server than another.
    ///
    /// # Errors
    /// If the token is not one of a node agent that is there now.
    pub async fn bearer(&self, token: &str, from: Option<IpAddr>) -> Result<Bearer, Refusal> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(bearer) = self.remembered(&key) {
            return Ok(bearer);
        }
        let own = self.turns_of.of(&from);
        let _own_turn = own.lock().await;
        let _turn = self.turns.acquire().await.map_err(|closed| Refusal::Unavailable(closed.to_string()))?;
        // Another request may have shown the same one meanwhile.
        if let Some(bearer) = self.remembered(&key) {
            return Ok(bearer);
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let asked = Instant::now();
        let reviewed = tokio::time::timeout(ANSWER, api.create(&PostParams::default(), &review)).await;
        let reviewed = reviewed.map_err(|_| Refusal::Unavailable("it takes too long to answer".to_owned()))?;
        let status = reviewed.map_err(|error| Refusal::Unavailable(error.to_string()))?.status.unwrap_or_default();
        let (node, pod) = judge(&status, &self.user)?;
        let left = left(token, jiff::Timestamp::now()).unwrap_or_default();
        let bearer = Bearer { node, pod, until: asked + left };
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, (bearer.clone(), asked + left.min(CACHED)));
        Ok(bearer)
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Bearer> {
        let known = self.known();
        let (bearer, until) = known.get(key)?;
        (Instant::now() < *until).then(|| bearer.clone())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Bearer, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(status: &TokenReviewStatus, agent: &str) -> Result<(String, PodUid), Refusal> {
    let audiences = status.audiences.iter().flatten();
    if status.authenticated != Some(true) || !audiences.into_iter().any(|audience| audience == AUDIENCE) {
        let why = status.error.clone().unwrap_or_else(|| "it is not valid".to_owned());
        return Err(Refusal::NotAuthenticated(why));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != agent {
        return Err(Refusal::NotAnAgent(name));
    }
    let mut claims = user.extra.unwrap_or_default();
    match (claims.remove(NODE_NAME).as_deref(), claims.remove(POD_UID).as_deref()) {
        (Some([node]), Some([pod])) => {
            let pod = PodUid::try_from(pod.as_str()).map_err(|_| Refusal::NoNode)?;
            Ok((node.clone(), pod))
        }
        (_, _) => Err(Refusal::NoNode),
    }
}

/// For how long a token that the API server accepts goes on: what it says of itself may be believed then.
fn left(token: &str, now: jiff::Timestamp) -> Option<Duration> {
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

    const AGENT: &str = "system:serviceaccount:podmeta-system:podmeta-agent";

    fn status(audience: &str, user: &str, nodes: &[&str]) -> TokenReviewStatus {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(BTreeMap::from([
                    (NODE_NAME.to_owned(), nodes),
                    (POD_UID.to_owned(), vec!["u1".to_owned()]),
                ])),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn the_node_is_the_one_in_the_claims_of_an_agent_s_token() {
        let pod: PodUid = "u1".try_into().unwrap();
        assert_eq!(judge(&status(AUDIENCE, AGENT, &["a"]), AGENT), Ok(("a".to_owned(), pod)));
    }

    #[test]
    fn a_token_that_is_not_an_agent_s_for_us_is_refused() {
        let other = "system:serviceaccount:shop:web";
        assert_eq!(judge(&status(AUDIENCE, other, &["a"]), AGENT), Err(Refusal::NotAnAgent(other.into())));
        assert!(matches!(judge(&status("https://api", AGENT, &["a"]), AGENT), Err(Refusal::NotAuthenticated(_))));
        let unauthenticated = TokenReviewStatus { authenticated: Some(false), ..status(AUDIENCE, AGENT, &["a"]) };
        assert!(matches!(judge(&unauthenticated, AGENT), Err(Refusal::NotAuthenticated(_))));
        assert!(matches!(judge(&TokenReviewStatus::default(), AGENT), Err(Refusal::NotAuthenticated(_))));
        for nodes in [&[][..], &["a", "b"]] {
            assert_eq!(judge(&status(AUDIENCE, AGENT, nodes), AGENT), Err(Refusal::NoNode));
        }
    }

    #[test]
    fn a_token_is_never_remembered_beyond_its_end() {
        use base64::Engine as _;
        let now = jiff::Timestamp::from_second(1000).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":1007}"#);
        assert_eq!(left(&format!("h.{claims}.s"), now), Some(Duration::from_secs(7)));
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":900}"#);
        assert_eq!(left(&format!("h.{claims}.s"), now), Some(Duration::ZERO));
        assert_eq!(left("no token", now), None);
    }
}
