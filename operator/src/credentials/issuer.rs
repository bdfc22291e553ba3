//! Issues credentials: from the cache, or by a call to the cloud that concurrent requests share. Renews them before they expire.

mod report;
#[cfg(test)]
pub(crate) mod tests;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::events::Recorder;
use podmeta_metadata::credentials::{Credentials, CredentialsFailure, FailureCause};
use podmeta_metadata::role::ProviderKind;
use podmeta_service::shared_calls::SharedCalls;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cache::{Jitter, SessionCache, SessionCacheState};
use super::failure::ProviderError;
use super::fair_rate::FairRate;
use super::providers::Providers;
use super::request::RoleRequest;
use crate::cluster::cluster_id::ClusterId;
use crate::metrics::Metrics;
use report::ResultReporter;

/// The interval at which due credentials are renewed, and those of deleted pods are dropped.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// Timeout of all steps that create a session, without the time in the queue.
const SESSION_TIMEOUT: Duration = Duration::from_secs(12);

/// Returns true if the pod of a request still has this role.
pub type IsCurrent = Arc<dyn Fn(&RoleRequest) -> bool + Send + Sync>;

/// Issues credentials of cloud roles.
pub struct CredentialsIssuer {
    cluster: ClusterId,
    providers: Providers,
    cache: Mutex<SessionCache>,
    calls: SharedCalls<RoleRequest, Result<Credentials, CredentialsFailure>>,
    aws_rate: FairRate,
    aliyun_rate: FairRate,
    reporter: ResultReporter,
    is_current: IsCurrent,
    /// Returns the time.
    clock: fn() -> Timestamp,
}

impl CredentialsIssuer {
    /// Creates an issuer with an empty cache.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        providers: Providers,
        calls_per_second: NonZeroU32,
        metrics: Metrics,
        recorder: Recorder,
        is_current: IsCurrent,
        clock: fn() -> Timestamp,
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            providers,
            cache: Mutex::default(),
            calls: SharedCalls::default(),
            aws_rate: FairRate::start(calls_per_second),
            aliyun_rate: FairRate::start(calls_per_second),
            reporter: ResultReporter::new(metrics, recorder),
            is_current,
            clock,
        })
    }

    /// Returns the ID of the cluster in external IDs.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Returns the credentials of a role.
    ///
    /// # Errors
    /// If the provider fails and the cache has no unexpired credentials of the role.
    pub async fn issue(self: &Arc<Self>, request: RoleRequest) -> Result<Credentials, CredentialsFailure> {
        let state = self.cache().state(&request, (self.clock)());
        match state {
            SessionCacheState::Ready(result) => result,
            SessionCacheState::Missing => self.renew(request).await,
            SessionCacheState::Stale(credentials) => {
                self.start_renewal(request);
                Ok(credentials)
            }
        }
    }

    /// Renews credentials before they expire, and drops those of pods that were deleted or have another role now. Returns when
    /// `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let run = async {
            loop {
                self.maintain((self.clock)());
                sleep(RENEW_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(run).await;
    }

    fn maintain(self: &Arc<Self>, now: Timestamp) {
        let mut cache = self.cache();
        cache.retain(now, &*self.is_current);
        let due = cache.due(now);
        drop(cache);
        for request in due {
            self.start_renewal(request);
        }
    }

    /// Starts a renewal unless one is in the queue or in flight. Does not wait for it.
    fn start_renewal(self: &Arc<Self>, request: RoleRequest) {
        let (issuer, called) = (Arc::clone(self), request.clone());
        self.calls.start(request, async move { issuer.call_provider(&called).await });
    }

    /// Calls the provider and updates the cache. Concurrent renewals with the same parameters share one call.
    async fn renew(self: &Arc<Self>, request: RoleRequest) -> Result<Credentials, CredentialsFailure> {
        let (issuer, called) = (Arc::clone(self), request.clone());
        let call = async move { issuer.call_provider(&called).await };
        let panicked = || {
            let error =
                ProviderError::new(FailureCause::ProviderFailed, "internal error: the task of the call panicked");
            error.to_failure(&request.role, (self.clock)())
        };
        self.calls.join(request.clone(), call).await.unwrap_or_else(|| Err(panicked()))
    }

    async fn call_provider(&self, request: &RoleRequest) -> Result<Credentials, CredentialsFailure> {
        // A call that ended between the lookup and the start of this one has filled the cache.
        if let SessionCacheState::Ready(result) = self.cache().peek(request, (self.clock)()) {
            return result;
        }
        let (is_current, queued) = (Arc::clone(&self.is_current), request.clone());
        let is_needed = move || is_current(&queued);
        if !self.rate(request.role.kind()).acquire(&request.pod.namespace, is_needed).await {
            let error = ProviderError::new(FailureCause::ProviderUnavailable, "the role of the pod has changed");
            return Err(error.to_failure(&request.role, (self.clock)()));
        }
        let called = timeout(SESSION_TIMEOUT, self.providers.create_session(request, (self.clock)())).await;
        let timed_out =
            || Err(ProviderError::new(FailureCause::ProviderUnavailable, "the call to the provider timed out"));
        let result = called.unwrap_or_else(|_| timed_out());
        self.reporter.report(request, &result);
        let now = (self.clock)();
        match result {
            Ok(session) => {
                self.cache().store(request, session.credentials.clone(), now, jitter());
                Ok(session.credentials)
            }
            Err(error) => {
                let failure = error.to_failure(&request.role, now);
                self.cache().store_failure(request, failure, now, jitter())
            }
        }
    }

    fn rate(&self, provider: ProviderKind) -> &FairRate {
        match provider {
            ProviderKind::AliyunOidc => &self.aliyun_rate,
            ProviderKind::AwsWebIdentity | ProviderKind::AwsAssumeRole | ProviderKind::Secret => &self.aws_rate,
        }
    }

    fn cache(&self) -> MutexGuard<'_, SessionCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a random jitter, or the maximum if no random bytes are available.
fn jitter() -> Jitter {
    let mut bytes = [0xff; 4];
    let _random = aws_lc_rs::rand::fill(&mut bytes);
    Jitter::new(u32::from_be_bytes(bytes))
}
