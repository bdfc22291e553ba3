//! The broker of a node. Everything comes from the operator. Credentials are cached, so that a pod causes at most one
//! call per minute, and are served until they expire while the operator is unavailable. Signed documents are cached as
//! long as they match the pod.
//!
//! A pod must not delay other pods. So concurrent requests share a call, and a failure is cached for some seconds.
//! [`lane`] limits the calls in flight.

mod call;
mod credentials_cache;
mod documents;
mod lane;
mod saved;
#[cfg(test)]
mod tests;
mod user_data;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use podmeta_agent_api::calls::{CREDENTIALS, CredentialsRequest, CredentialsResponse, ProfileGeneration};
use podmeta_metadata::credentials::{CredentialsFailure, FailureCause};
use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::names::PodUid;
use podmeta_metadata::role::Role;
use podmeta_metadata::workload::Workload;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::call::PodCall;
use self::credentials_cache::{CacheState, CredentialsCache};
use self::documents::DocumentCache;
use self::lane::Lanes;
use self::user_data::UserDataCache;
use crate::broker::IssuedCredentials;
use crate::operator_client::OperatorClient;

pub use saved::{PodRecord, RoleCredentials, SavedBrokerState};

/// Time for which a failure is returned without a new call.
const FAILURE_AGE: Duration = Duration::from_secs(3);

/// Message of a call that panicked.
const CALL_PANICKED: &str = "internal error: the call to the operator did not end";

/// The result of each pod's last credentials call, by dialect: the failure, or `None` after a success.
pub type CredentialsOutcomes = BTreeMap<PodUid, BTreeMap<Dialect, Option<CredentialsFailure>>>;

/// The broker of a node.
pub struct OperatorBroker {
    client: Arc<OperatorClient>,
    credentials: Mutex<HashMap<(PodUid, Dialect), Arc<CredentialsCache>>>,
    documents: DocumentCache,
    user_data: UserDataCache,
    lanes: Lanes,
    outcomes: Mutex<CredentialsOutcomes>,
    /// The number of changes of the saved state or the outcomes.
    changes: watch::Sender<u64>,
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
            ((saved.pod, saved.dialect), {
                let issued = IssuedCredentials::new(credentials, saved.dialect);
                Arc::new(CredentialsCache::restored(role, issued))
            })
        };
        Arc::new(Self {
            client,
            credentials: Mutex::new(saved.credentials.into_iter().map(cache).collect()),
            documents: DocumentCache::restored(saved.documents),
            user_data: UserDataCache::default(),
            lanes: Lanes::default(),
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
            let credentials = cache.credentials()?.credentials().clone();
            let value = RoleCredentials { role: cache.role().clone(), credentials };
            Some(PodRecord { pod: pod.clone(), dialect: *dialect, value })
        });
        let credentials = credentials.collect();
        drop(caches);
        SavedBrokerState { credentials, documents: self.documents.saved() }
    }

    /// Returns the result of each pod's last credentials call.
    #[must_use]
    pub fn outcomes(&self) -> CredentialsOutcomes {
        lock(&self.outcomes).clone()
    }

    /// Removes the data of all pods for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&PodUid) -> bool) {
        lock(&self.credentials).retain(|(pod, _), _| keep(pod));
        self.documents.retain(&keep);
        self.user_data.retain(&keep);
        self.lanes.retain(&keep);
        lock(&self.outcomes).retain(|pod, _| keep(pod));
        self.notify();
    }

    /// Returns credentials of a pod's role, from the cache if possible.
    pub(super) async fn credentials(
        self: &Arc<Self>,
        workload: &Workload,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let profile = workload.profile.as_ref();
        let profile =
            profile.map(|profile| ProfileGeneration { uid: profile.uid.clone(), generation: profile.generation });
        let request = CredentialsRequest { pod: workload.pod.uid.clone(), dialect, profile };
        self.request_credentials(request, role, now).await
    }

    async fn request_credentials(
        self: &Arc<Self>,
        request: CredentialsRequest,
        role: &Role,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let cache = self.cache(&request.pod, request.dialect, role);
        match cache.state(now, Instant::now()) {
            CacheState::Fresh(result) => result,
            CacheState::Missing => self.refresh(request, cache, now).await,
            CacheState::Stale { credentials, max_wait } => {
                // The refresh continues if the request stops waiting.
                timeout(max_wait, self.refresh(request, cache, now)).await.unwrap_or(Ok(credentials))
            }
        }
    }

    /// Returns the cached result for a pod's role, or `None` if it must be refreshed. Changes nothing.
    pub(super) fn cached_credentials(
        &self,
        pod: &PodUid,
        dialect: Dialect,
        role: &Role,
        now: Timestamp,
    ) -> Option<Result<IssuedCredentials, CredentialsFailure>> {
        let caches = lock(&self.credentials);
        let cache = caches.get(&(pod.clone(), dialect)).filter(|cache| cache.role() == role)?;
        cache.fresh(now, Instant::now())
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
        self: &Arc<Self>,
        request: CredentialsRequest,
        cache: Arc<CredentialsCache>,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let (broker, refreshed) = (Arc::clone(self), Arc::clone(&cache));
        let call = async move { broker.fetch_credentials(&request, &refreshed, now).await };
        let failure = || CredentialsFailure::failed(CALL_PANICKED.to_owned(), FailureCause::ProviderFailed, now);
        cache.calls().join((), call).await.unwrap_or_else(|| Err(failure()))
    }

    async fn fetch_credentials(
        &self,
        request: &CredentialsRequest,
        cache: &CredentialsCache,
        now: Timestamp,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let (pod, dialect, lane) = (&request.pod, request.dialect, self.lanes.of_role(cache.role()));
        let call = PodCall { client: &self.client, lane, pod, path: CREDENTIALS, request };
        let is_complete = |response: &CredentialsResponse| !matches!(response, CredentialsResponse::Pending);
        let result = match call.send_until(is_complete).await {
            Ok(CredentialsResponse::Issued(credentials)) => {
                cache.store(IssuedCredentials::new(credentials, dialect), Instant::now())
            }
            Ok(CredentialsResponse::Failed(failure)) if failure.cause.is_temporary() => {
                cache.store_unavailable(failure, now, Instant::now())
            }
            Ok(CredentialsResponse::Failed(failure)) => cache.store_failure(failure, Instant::now()),
            Ok(CredentialsResponse::Pending) => {
                tracing::warn!(pod_uid = %pod, %dialect, "the cloud has not responded to the operator yet; serving cached credentials while they are valid, else an error document");
                let message = "the cloud has not responded to podmeta yet; retry later".to_owned();
                let failure = CredentialsFailure::failed(message, FailureCause::ProviderUnavailable, now);
                cache.store_unavailable(failure, now, Instant::now())
            }
            Err(error) => {
                tracing::warn!(pod_uid = %pod, %dialect, %error, "cannot get credentials from the operator; serving cached credentials while they are valid, else an error document");
                let message = "podmeta cannot reach its operator for credentials; retry later".to_owned();
                let failure = CredentialsFailure::failed(message, FailureCause::ProviderUnavailable, now);
                cache.store_unavailable(failure, now, Instant::now())
            }
        };
        let failure = result.as_ref().err().cloned();
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
