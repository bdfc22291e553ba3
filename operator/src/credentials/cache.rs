//! The credentials of all pods, and when to renew them. Time and randomness are arguments.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use podmeta_metadata::credentials::{Credentials, CredentialsFailure};

use super::request::RoleRequest;

/// The time that is left on credentials when their renewal starts at the latest. Credentials with a shorter lifetime have
/// half of it left.
const MIN_LEFT: SignedDuration = SignedDuration::from_mins(30);

/// Renewals are spread over this time before need, or over a quarter of a shorter lifetime.
const RENEW_WINDOW: SignedDuration = SignedDuration::from_mins(10);

/// The longest time for which the first failure is returned without a new call. It doubles with each further failure.
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(2);

/// The maximum time for which a failure is returned without a new call.
const MAX_BACKOFF: SignedDuration = SignedDuration::from_mins(2);

/// A random number from 0 to 1, exclusive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// Maps a random number to 0 to 1.
    #[must_use]
    pub fn new(random: u32) -> Self {
        Self(f64::from(random) / (f64::from(u32::MAX) + 1.0))
    }

    /// Returns a random part of a duration.
    fn of(self, duration: SignedDuration) -> SignedDuration {
        duration.mul_f64(self.0)
    }
}

/// The cached credentials.
#[derive(Debug, Default)]
pub struct SessionCache {
    entries: BTreeMap<RoleRequest, SessionEntry>,
}

#[derive(Debug)]
struct SessionEntry {
    issued: Option<Issued>,
    failure: Option<CachedFailure>,
    last_requested: Timestamp,
}

#[derive(Debug)]
struct Issued {
    credentials: Credentials,
    /// Time at which a renewal starts.
    renew_at: Timestamp,
}

#[derive(Debug)]
struct CachedFailure {
    failure: CredentialsFailure,
    /// Time until which no new call is made.
    retry_at: Timestamp,
    /// The number of failures since the last success.
    count: u32,
}

/// Result of a lookup in the cache.
#[derive(Debug, PartialEq)]
pub enum SessionCacheState {
    /// Return this result.
    Ready(Result<Credentials, CredentialsFailure>),
    /// Start a renewal and return these credentials.
    Stale(Credentials),
    /// Call the provider and return its result.
    Missing,
}

impl SessionCache {
    /// Returns what a request must do, and records that the credentials are in use.
    pub fn state(&mut self, request: &RoleRequest, now: Timestamp) -> SessionCacheState {
        if let Some(entry) = self.entries.get_mut(request) {
            entry.last_requested = now;
        }
        self.peek(request, now)
    }

    /// Returns what a request must do. Does not record that the credentials are in use.
    #[must_use]
    pub fn peek(&self, request: &RoleRequest, now: Timestamp) -> SessionCacheState {
        let Some(entry) = self.entries.get(request) else { return SessionCacheState::Missing };
        let is_backing_off = entry.is_backing_off(now);
        match (entry.valid(now), &entry.failure) {
            (Some(issued), _) if now < issued.renew_at || is_backing_off => {
                SessionCacheState::Ready(Ok(issued.credentials.clone()))
            }
            (Some(issued), _) => SessionCacheState::Stale(issued.credentials.clone()),
            (None, Some(failure)) if is_backing_off => SessionCacheState::Ready(Err(failure.failure.clone())),
            (None, _) => SessionCacheState::Missing,
        }
    }

    /// Stores new credentials. `jitter` spreads their renewal.
    pub fn store(&mut self, request: &RoleRequest, credentials: Credentials, now: Timestamp, jitter: Jitter) {
        let lifetime = credentials.expiration.duration_since(now).max(SignedDuration::ZERO);
        let min_left = MIN_LEFT.min(lifetime / 2);
        let window = RENEW_WINDOW.min(lifetime / 4);
        let renew_at = credentials.expiration.saturating_sub(min_left + jitter.of(window)).unwrap_or(now);
        let entry = self.entry(request, now);
        entry.issued = Some(Issued { credentials, renew_at });
        entry.failure = None;
    }

    /// Stores a failure. Returns the credentials if they have not expired, else the failure.
    ///
    /// # Errors
    /// The failure.
    pub fn store_failure(
        &mut self,
        request: &RoleRequest,
        failure: CredentialsFailure,
        now: Timestamp,
        jitter: Jitter,
    ) -> Result<Credentials, CredentialsFailure> {
        let entry = self.entry(request, now);
        let count = entry.failure.as_ref().map_or(1, |failure| failure.count.saturating_add(1));
        let doubled = 2_i32.saturating_pow((count - 1).min(16));
        let backoff = FIRST_BACKOFF.saturating_mul(doubled).min(MAX_BACKOFF);
        // At least half of it, so that pods that failed together do not retry together.
        let backoff = backoff / 2 + jitter.of(backoff / 2);
        let retry_at = now.saturating_add(backoff).unwrap_or(now);
        entry.failure = Some(CachedFailure { failure: failure.clone(), retry_at, count });
        entry.valid(now).map(|issued| issued.credentials.clone()).ok_or(failure)
    }

    /// Returns the requests whose credentials must be renewed. Leaves out expired credentials, credentials that no pod requested
    /// for their lifetime, and requests whose retry is delayed by a backoff.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<RoleRequest> {
        let is_due = |entry: &SessionEntry| {
            entry.valid(now).is_some_and(|issued| {
                let unused = now.duration_since(entry.last_requested);
                let lifetime = issued.credentials.expiration.duration_since(issued.credentials.last_updated);
                now >= issued.renew_at && !entry.is_backing_off(now) && unused < lifetime
            })
        };
        self.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(request, _)| request.clone()).collect()
    }

    /// Removes the entries for which `keep` returns false, and those without valid credentials that nobody requests.
    pub fn retain(&mut self, now: Timestamp, keep: impl Fn(&RoleRequest) -> bool) {
        let is_used = |entry: &SessionEntry| {
            entry.valid(now).is_some() || now.duration_since(entry.last_requested) < MAX_BACKOFF * 2
        };
        self.entries.retain(|request, entry| is_used(entry) && keep(request));
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&mut self, request: &RoleRequest, now: Timestamp) -> &mut SessionEntry {
        let new = || SessionEntry { issued: None, failure: None, last_requested: now };
        self.entries.entry(request.clone()).or_insert_with(new)
    }
}

impl SessionEntry {
    /// Returns the credentials if they have not expired.
    fn valid(&self, now: Timestamp) -> Option<&Issued> {
        self.issued.as_ref().filter(|issued| now < issued.credentials.expiration)
    }

    /// Returns true if no new call is made yet. If more than the maximum backoff is left, the clock was set back, so the
    /// backoff has ended.
    fn is_backing_off(&self, now: Timestamp) -> bool {
        self.failure.as_ref().is_some_and(|failure| {
            let left = failure.retry_at.duration_since(now);
            left.is_positive() && left <= MAX_BACKOFF
        })
    }
}
