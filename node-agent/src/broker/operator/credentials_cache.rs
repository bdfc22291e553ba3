//! The cached credentials of one pod in one dialect, and when to refresh them. Time is an argument.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use podmeta_metadata::credentials::CredentialsFailure;
use podmeta_metadata::role::Role;
use podmeta_service::shared_calls::SharedCalls;
use tokio::time::Instant;

use super::FAILURE_AGE;
use crate::broker::IssuedCredentials;

/// Age up to which credentials are returned without a refresh. The age counts from the last refresh or its failure.
const FRESH_AGE: Duration = Duration::from_secs(60);

/// Age from which a request waits for the refresh, because the Secret may have changed.
const STALE_AGE: Duration = Duration::from_secs(300);

/// Longest time that a request waits for the refresh of stale credentials.
const MAX_STALE_WAIT: Duration = Duration::from_millis(300);

/// A pod's credentials in one dialect.
#[derive(Debug)]
pub(super) struct CredentialsCache {
    role: Role,
    entry: Mutex<CacheEntry>,
    calls: SharedCalls<(), Result<IssuedCredentials, CredentialsFailure>>,
}

#[derive(Debug, Default)]
struct CacheEntry {
    credentials: Option<IssuedCredentials>,
    /// The last failure, returned while there are no credentials.
    failure: Option<CredentialsFailure>,
    /// The start of the last refresh, or its end if it has ended.
    requested: Option<Instant>,
}

/// State of the cache at a request for credentials, and what the request must do.
#[derive(Debug, PartialEq)]
pub(super) enum CacheState {
    /// Return this result.
    Fresh(Result<IssuedCredentials, CredentialsFailure>),
    /// Refresh. Return these credentials if the refresh takes longer than `max_wait`.
    Stale { credentials: IssuedCredentials, max_wait: Duration },
    /// Refresh and return the result.
    Missing,
}

impl CredentialsCache {
    /// Creates an empty cache.
    pub(super) fn new(role: Role) -> Self {
        Self { role, entry: Mutex::default(), calls: SharedCalls::default() }
    }

    /// Creates a cache with saved credentials of unknown age.
    pub(super) fn restored(role: Role, credentials: IssuedCredentials) -> Self {
        let entry = CacheEntry { credentials: Some(credentials), ..CacheEntry::default() };
        Self { role, entry: Mutex::new(entry), calls: SharedCalls::default() }
    }

    /// Returns the role of the credentials.
    pub(super) fn role(&self) -> &Role {
        &self.role
    }

    pub(super) fn credentials(&self) -> Option<IssuedCredentials> {
        self.lock().credentials.clone()
    }

    /// Returns the state for a request, and records the start of a refresh. Of concurrent requests for stale credentials,
    /// only the first one refreshes.
    pub(super) fn state(&self, now: Timestamp, instant: Instant) -> CacheState {
        let mut entry = self.lock();
        if let Some(result) = entry.fresh(now, instant) {
            return CacheState::Fresh(result);
        }
        let Some(credentials) = entry.valid(now) else { return CacheState::Missing };
        let is_recent = entry.age(instant).is_some_and(|age| age < STALE_AGE);
        entry.requested = Some(instant);
        CacheState::Stale { credentials, max_wait: if is_recent { Duration::ZERO } else { MAX_STALE_WAIT } }
    }

    /// Returns the result for a request that need not refresh, or `None`.
    pub(super) fn fresh(
        &self,
        now: Timestamp,
        instant: Instant,
    ) -> Option<Result<IssuedCredentials, CredentialsFailure>> {
        self.lock().fresh(now, instant)
    }

    /// Returns the calls in flight: at most one refresh.
    pub(super) fn calls(&self) -> &SharedCalls<(), Result<IssuedCredentials, CredentialsFailure>> {
        &self.calls
    }

    /// Stores new credentials and removes the last failure. Always returns `Ok` with the credentials: the other functions that
    /// store a result have the same type.
    pub(super) fn store(
        &self,
        credentials: IssuedCredentials,
        instant: Instant,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        *self.lock() = CacheEntry { credentials: Some(credentials.clone()), failure: None, requested: Some(instant) };
        Ok(credentials)
    }

    /// Stores a failure that the operator reported and returns it. Removes the credentials.
    pub(super) fn store_failure(
        &self,
        failure: CredentialsFailure,
        instant: Instant,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        *self.lock() = CacheEntry { credentials: None, failure: Some(failure.clone()), requested: Some(instant) };
        Err(failure)
    }

    /// Records that the operator or the provider is unavailable. Returns the credentials if they have not expired, else the
    /// failure.
    pub(super) fn store_unavailable(
        &self,
        failure: CredentialsFailure,
        now: Timestamp,
        instant: Instant,
    ) -> Result<IssuedCredentials, CredentialsFailure> {
        let mut entry = self.lock();
        entry.requested = Some(instant);
        match entry.valid(now) {
            Some(credentials) => Ok(credentials),
            None => {
                entry.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, CacheEntry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheEntry {
    fn fresh(&self, now: Timestamp, instant: Instant) -> Option<Result<IssuedCredentials, CredentialsFailure>> {
        let age = self.age(instant)?;
        match self.valid(now) {
            Some(credentials) => (age < FRESH_AGE).then_some(Ok(credentials)),
            None => self.failure.clone().filter(|_| age < FAILURE_AGE).map(Err),
        }
    }

    /// Returns the time since the last refresh.
    fn age(&self, instant: Instant) -> Option<Duration> {
        self.requested.map(|requested| instant.saturating_duration_since(requested))
    }

    /// Returns the credentials if they have not expired.
    fn valid(&self, now: Timestamp) -> Option<IssuedCredentials> {
        self.credentials.clone().filter(|issued| issued.credentials().expiration > now)
    }
}

#[cfg(test)]
mod tests {
    use podmeta_metadata::credentials::{Credentials, FailureCause};
    use podmeta_metadata::dialect::Dialect;
    use podmeta_metadata::role::Provider;
    use podmeta_metadata::secret::SecretString;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn credentials(id: &str, expiration: i64) -> IssuedCredentials {
        let credentials = Credentials {
            access_key_id: id.to_owned(),
            secret_access_key: SecretString::new("s".to_owned()),
            session_token: SecretString::new(String::new()),
            last_updated: at(0),
            expiration: at(expiration),
        };
        IssuedCredentials::new(credentials, Dialect::Ec2)
    }

    fn role() -> Role {
        let provider = Provider::Secret { name: "keys".to_owned() };
        Role { name: "r".to_owned().try_into().unwrap(), provider }
    }

    fn failure(message: &str) -> CredentialsFailure {
        CredentialsFailure::failed(message.to_owned(), FailureCause::ProviderFailed, at(0))
    }

    #[test]
    fn credentials_are_fresh_for_a_minute_and_then_refreshed_by_one_request() {
        let (cache, start) = (CredentialsCache::new(role()), Instant::now());
        assert_eq!(cache.state(at(0), start), CacheState::Missing);
        let one = cache.store(credentials("one", 1000), start).unwrap();
        let fresh = CacheState::Fresh(Ok(one.clone()));
        assert_eq!(cache.state(at(59), start + Duration::from_secs(59)), fresh);
        let minute = start + FRESH_AGE;
        let stale = CacheState::Stale { credentials: one, max_wait: Duration::ZERO };
        assert_eq!(cache.state(at(60), minute), stale, "the first request refreshes without waiting");
        assert_eq!(cache.state(at(60), minute), fresh, "a concurrent request does not");
    }

    #[test]
    fn request_waits_for_the_refresh_of_restored_or_old_credentials() {
        let cache = CredentialsCache::restored(role(), credentials("saved", 1000));
        let waits = |state| matches!(state, CacheState::Stale { max_wait: MAX_STALE_WAIT, .. });
        assert!(waits(cache.state(at(0), Instant::now())));
        let (cache, start) = (CredentialsCache::new(role()), Instant::now());
        drop(cache.store(credentials("one", 1000), start));
        assert!(waits(cache.state(at(1), start + STALE_AGE)));
    }

    #[test]
    fn credentials_are_kept_while_the_operator_is_unavailable_and_removed_on_a_failure() {
        let (cache, start) = (CredentialsCache::new(role()), Instant::now());
        let one = cache.store(credentials("one", 100), start).unwrap();
        assert_eq!(cache.store_unavailable(failure("unavailable"), at(99), start), Ok(one));
        let expired = cache.store_unavailable(failure("unavailable"), at(100), start);
        assert_eq!(expired, Err(failure("unavailable")));
        drop(cache.store(credentials("two", 1000), start));
        assert_eq!(cache.store_failure(failure("no Secret"), start), Err(failure("no Secret")));
        assert_eq!(cache.credentials(), None);
        assert_eq!(cache.state(at(0), start), CacheState::Fresh(Err(failure("no Secret"))));
        assert_eq!(cache.state(at(0), start + FAILURE_AGE), CacheState::Missing);
    }
}
