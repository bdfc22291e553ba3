//! Issues credentials: from the cache, or by a call to the cloud that concurrent requests share. Renews them before need.

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

use super::cache::{CacheState, CredentialsCache, Jitter};
use super::failure::ProviderError;
use super::fair_rate::FairRate;
use super::providers::Providers;
use super::request::{RoleRequest, resolve};
use super::settings::ClusterId;
use crate::metrics::Metrics;
use crate::reconcile::SharedState;
use report::ResultReporter;

/// The interval at which due credentials are renewed, and those of deleted pods are dropped.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// The timeout of all steps of one call, without the wait for its turn.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);

/// Issues credentials of cloud roles.
pub struct CredentialsIssuer {
    cluster: ClusterId,
    providers: Providers,
    cache: Mutex<CredentialsCache>,
    calls: SharedCalls<RoleRequest, Result<Credentials, CredentialsFailure>>,
    aws_rate: FairRate,
    aliyun_rate: FairRate,
    reporter: ResultReporter,
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
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            providers,
            cache: Mutex::default(),
            calls: SharedCalls::default(),
            aws_rate: FairRate::start(calls_per_second),
            aliyun_rate: FairRate::start(calls_per_second),
            reporter: ResultReporter::new(metrics, recorder),
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
    /// If the provider fails and there are none that have not expired.
    pub async fn issue(self: &Arc<Self>, request: RoleRequest) -> Result<Credentials, CredentialsFailure> {
        let state = self.cache().state(&request, Timestamp::now());
        match state {
            CacheState::Ready(result) => result,
            CacheState::Missing => self.renew(request).await,
            CacheState::Stale { credentials, max_wait } => {
                // The renewal continues if the request stops waiting.
                timeout(max_wait, self.renew(request)).await.unwrap_or(Ok(credentials))
            }
        }
    }

    /// Renews credentials before need, and drops those of pods that were deleted or have another role now.
    pub async fn run(self: Arc<Self>, shared: Arc<SharedState>, stop: CancellationToken) {
        let run = async {
            loop {
                self.maintain(&shared, Timestamp::now());
                sleep(RENEW_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(run).await;
    }

    fn maintain(self: &Arc<Self>, shared: &SharedState, now: Timestamp) {
        let state = shared.read();
        let is_current = |request: &RoleRequest| {
            let pod = state.pod_on_node(&request.node, &request.pod.uid);
            let Some(workload) = pod.and_then(|pod| pod.item.outcome.workload()) else { return false };
            let current = resolve(workload, request.dialect, &request.node, &self.cluster);
            current.is_ok_and(|current| current.as_ref() == Some(request))
        };
        let mut cache = self.cache();
        cache.retain(now, is_current);
        let due = cache.due(now);
        drop((cache, state));
        for request in due {
            let issuer = Arc::clone(self);
            tokio::spawn(async move { issuer.renew(request).await });
        }
    }

    /// Calls the provider and updates the cache. Concurrent renewals with the same parameters share one call.
    async fn renew(self: &Arc<Self>, request: RoleRequest) -> Result<Credentials, CredentialsFailure> {
        let (issuer, called) = (Arc::clone(self), request.clone());
        let call = async move { issuer.call_provider(&called).await };
        let panicked = || {
            let error = ProviderError::new(FailureCause::ProviderFailed, "internal error: the call did not end");
            error.to_failure(&request.role, Timestamp::now())
        };
        self.calls.join(request.clone(), call).await.unwrap_or_else(|| Err(panicked()))
    }

    async fn call_provider(&self, request: &RoleRequest) -> Result<Credentials, CredentialsFailure> {
        // A call that ended between the look-up and the start of this one has filled the cache.
        if let CacheState::Ready(result) = self.cache().peek(request, Timestamp::now()) {
            return result;
        }
        self.rate(request.role.kind()).acquire(&request.pod.namespace).await;
        let called = timeout(CALL_TIMEOUT, self.providers.create_session(request, Timestamp::now())).await;
        let timed_out =
            || Err(ProviderError::new(FailureCause::ProviderUnavailable, "the call to the provider timed out"));
        let result = called.unwrap_or_else(|_| timed_out());
        self.reporter.report(request, &result);
        let now = Timestamp::now();
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

    fn cache(&self) -> MutexGuard<'_, CredentialsCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a random part. Without random bytes, it is the whole: it spreads less, and renews early.
fn jitter() -> Jitter {
    let mut bytes = [0xff; 4];
    let _random = aws_lc_rs::rand::fill(&mut bytes);
    Jitter::new(u32::from_be_bytes(bytes))
}
