//! The broker of a node. Everything comes from the operator. Credentials are cached, so that a pod causes at most one
//! call per minute, and are served until they expire while the operator is unavailable. Signed documents are cached as
//! long as they match the pod.

mod call;
mod credentials_cache;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use podmeta_agent_api::calls::{
    CREDENTIALS, CredentialsRequest, CredentialsResponse, DOCUMENT, DocumentRequest, ProfileGeneration, SECRETS,
    UserDataRequest, UserDataResponse,
};
use podmeta_metadata::credentials::{Credentials, CredentialsFailure};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::profile::KeyRef;
use podmeta_metadata::role::Role;
use podmeta_metadata::signature::SignedDocument;
use podmeta_metadata::workload::{Link, Workload};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::call::{call, call_until};
use self::credentials_cache::{CacheState, CredentialsCache};
use crate::operator_client::{OperatorClient, OperatorError};

pub use saved::{PodRecord, RoleCredentials, SavedBrokerState};

/// Time for which user data is served without a call to the operator.
const USER_DATA_FRESH: Duration = Duration::from_secs(60);

/// The result of each pod's last credentials call, by dialect: the failure message, or `None` after a success.
pub type CredentialsOutcomes = BTreeMap<PodUid, BTreeMap<Dialect, Option<String>>>;

/// The broker of a node.
pub struct OperatorBroker {
    client: Arc<OperatorClient>,
    credentials: Mutex<HashMap<(PodUid, Dialect), Arc<CredentialsCache>>>,
    documents: Mutex<HashMap<(PodUid, Dialect), SignedDocument>>,
    user_data: Mutex<HashMap<PodUid, CachedUserData>>,
    outcomes: Mutex<CredentialsOutcomes>,
    /// The number of changes of the saved state or the outcomes.
    changes: watch::Sender<u64>,
}

/// User data of a Secret.
#[derive(Clone)]
struct CachedUserData {
    key: KeyRef,
    bytes: Bytes,
    fetched: Instant,
}

impl OperatorBroker {
    /// Creates a broker with saved data.
    #[must_use]
    pub fn new(client: Arc<OperatorClient>, saved: SavedBrokerState) -> Arc<Self> {
        let mut outcomes = CredentialsOutcomes::new();
        for saved in &saved.credentials {
            outcomes.entry(saved.pod.clone()).or_default().insert(saved.dialect, None);
        }
        let cache = |saved: PodRecord<RoleCredentials>| {
            let RoleCredentials { role, credentials } = saved.value;
            ((saved.pod, saved.dialect), Arc::new(CredentialsCache::restored(role, credentials)))
        };
        let document = |saved: PodRecord<SignedDocument>| ((saved.pod, saved.dialect), saved.value);
        Arc::new(Self {
            client,
            credentials: Mutex::new(saved.credentials.into_iter().map(cache).collect()),
            documents: Mutex::new(saved.documents.into_iter().map(document).collect()),
            user_data: Mutex::default(),
            outcomes: Mutex::new(outcomes),
            changes: watch::Sender::new(0),
        })
    }

    /// Subscribes to changes of the saved state and the outcomes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns the data to save.
    #[must_use]
    pub fn saved_state(&self) -> SavedBrokerState {
        let caches = lock(&self.credentials);
        let credentials = caches.iter().filter_map(|((pod, dialect), cache)| {
            let value = RoleCredentials { role: cache.role().clone(), credentials: cache.credentials()? };
            Some(PodRecord { pod: pod.clone(), dialect: *dialect, value })
        });
        let credentials = credentials.collect();
        drop(caches);
        let documents = lock(&self.documents);
        let document = |((pod, dialect), signed): (&(PodUid, Dialect), &SignedDocument)| PodRecord {
            pod: pod.clone(),
            dialect: *dialect,
            value: signed.clone(),
        };
        SavedBrokerState { credentials, documents: documents.iter().map(document).collect() }
    }

    /// Returns the result of each pod's last credentials call.
    #[must_use]
    pub fn outcomes(&self) -> CredentialsOutcomes {
        lock(&self.outcomes).clone()
    }

    /// Removes the data of all pods for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&PodUid) -> bool) {
        lock(&self.credentials).retain(|(pod, _), _| keep(pod));
        lock(&self.documents).retain(|(pod, _), _| keep(pod));
        lock(&self.user_data).retain(|pod, _| keep(pod));
        lock(&self.outcomes).retain(|pod, _| keep(pod));
        self.notify();
    }

    /// Returns user data of a Secret. It is cached for a minute, and while the operator is unavailable.
    pub(super) async fn user_data(&self, pod: &PodUid, key: &KeyRef) -> Result<Bytes, String> {
        let cached = lock(&self.user_data).get(pod).filter(|cached| cached.key == *key).cloned();
        if let Some(cached) = &cached
            && cached.fetched.elapsed() < USER_DATA_FRESH
        {
            return Ok(cached.bytes.clone());
        }
        let request = UserDataRequest { pod: pod.clone(), key: key.clone() };
        match (call::<_, UserDataResponse>(&self.client, SECRETS, &request).await, cached) {
            (Ok(response), _) => {
                let bytes = STANDARD.decode(response.data.expose());
                let bytes = Bytes::from(bytes.map_err(|_| "user data of the operator is not valid base64".to_owned())?);
                let cached = CachedUserData { key: request.key, bytes: bytes.clone(), fetched: Instant::now() };
                lock(&self.user_data).insert(request.pod, cached);
                Ok(bytes)
            }
            (Err(OperatorError::Unreachable(_) | OperatorError::Timeout | OperatorError::Status(_)), Some(cached)) => {
                Ok(cached.bytes)
            }
            (Err(error), _) => {
                // A rejection is final: the value must not be served later, while the operator is unavailable.
                lock(&self.user_data).remove(pod);
                Err(error.to_string())
            }
        }
    }

    /// Returns the signed form of a document without an audience. While the operator is unavailable, returns the cached
    /// one if its text is the same.
    pub(super) async fn document(
        &self,
        pod: &PodUid,
        link: &Link,
        dialect: Dialect,
        text: &str,
    ) -> Result<SignedDocument, String> {
        let key = (pod.clone(), dialect);
        let request = DocumentRequest { pod: pod.clone(), dialect, audience: None, link: link.clone() };
        let is_current = |signed: &SignedDocument| signed.document == text;
        match call_until(&self.client, DOCUMENT, &request, is_current).await {
            Ok(signed) if signed.document == text => {
                lock(&self.documents).insert(key, signed.clone());
                self.notify();
                Ok(signed)
            }
            Ok(_) => Err("the operator has another version of the pod than this agent; retry later".to_owned()),
            Err(error @ OperatorError::Rejected { .. }) => Err(error.to_string()),
            Err(error) => {
                let cached = lock(&self.documents).get(&key).filter(|cached| cached.document == text).cloned();
                cached.ok_or_else(|| error.to_string())
            }
        }
    }

    /// Has the operator sign the pod's document now. The result is not cached.
    pub(super) async fn sign(
        &self,
        pod: &PodUid,
        link: &Link,
        dialect: Dialect,
        audience: Option<String>,
    ) -> Result<SignedDocument, String> {
        let request = DocumentRequest { pod: pod.clone(), dialect, audience, link: link.clone() };
        call(&self.client, DOCUMENT, &request).await.map_err(|error| error.to_string())
    }

    /// Returns credentials of a pod's role, from the cache if possible.
    pub(super) async fn credentials(
        self: &Arc<Self>,
        workload: &Workload,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let profile = workload.profile.as_ref();
        let profile =
            profile.map(|profile| ProfileGeneration { uid: profile.uid.clone(), generation: profile.generation });
        let request = CredentialsRequest { pod: workload.pod.uid.clone(), dialect, profile };
        let cache = self.cache(&request.pod, dialect, role);
        match cache.state(now, Instant::now()) {
            CacheState::Fresh(result) => result,
            CacheState::Missing => self.refresh(&request, &cache, now).await,
            CacheState::Stale { credentials, max_wait } => {
                let broker = Arc::clone(self);
                // The refresh continues if the request stops waiting.
                let refresh = tokio::spawn(async move { broker.refresh(&request, &cache, now).await });
                match timeout(max_wait, refresh).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) | Err(_) => Ok(credentials),
                }
            }
        }
    }

    /// Returns the cache of a pod's role. Replaces the cache of another role.
    fn cache(&self, pod: &PodUid, dialect: Dialect, role: &Role) -> Arc<CredentialsCache> {
        let mut caches = lock(&self.credentials);
        let new = || Arc::new(CredentialsCache::new(role.clone()));
        let cache = caches.entry((pod.clone(), dialect)).or_insert_with(new);
        if cache.role() != role {
            *cache = new();
        }
        Arc::clone(cache)
    }

    /// Calls the operator and updates the cache. Concurrent refreshes of one cache share one call.
    async fn refresh(
        &self,
        request: &CredentialsRequest,
        cache: &CredentialsCache,
        now: Timestamp,
    ) -> Result<Credentials, CredentialsFailure> {
        let started = Instant::now();
        let _lock = cache.lock_refresh().await;
        if let Some(result) = cache.refreshed_since(started, now) {
            return result;
        }
        let result = match call(&self.client, CREDENTIALS, request).await {
            Ok(CredentialsResponse::Given(credentials)) => cache.store(credentials, Instant::now()),
            Ok(CredentialsResponse::Failed(failure)) => cache.store_failure(failure, Instant::now()),
            Err(error) => {
                let (pod, dialect) = (&request.pod, request.dialect);
                tracing::warn!(%pod, %dialect, %error, "cannot get credentials from the operator; serving cached ones until they expire");
                let message = "podmeta cannot reach its operator for credentials; retry later".to_owned();
                let failure = CredentialsFailure { code: "Failed".into(), message, at: now };
                cache.store_unavailable(failure, now, Instant::now())
            }
        };
        let failure = result.as_ref().err().map(|failure| failure.message.clone());
        lock(&self.outcomes).entry(request.pod.clone()).or_default().insert(request.dialect, failure);
        self.notify();
        result
    }

    fn notify(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for OperatorBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorBroker(..)")
    }
}
