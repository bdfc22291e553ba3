//! The limits of a pod: request rate and open connections. Time is an argument.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podmeta_metadata::options::Limits;
use tokio::time::Instant;

use podmeta_service::log_throttle::LogThrottle;

/// Longest time that a request waits for the rate limit. A rejected request waits as long, so that a client that retries
/// in a loop cannot keep the agent busy.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(100);

/// A limit was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitExceeded {
    /// True if it should be logged.
    pub(super) log: bool,
}

/// A token bucket (GCRA) that stores only the time at which it is full again. It reserves a slot for each request, so
/// that waiting requests keep their order.
#[derive(Debug, Default)]
pub(super) struct RateLimiter(Mutex<BucketState>);

#[derive(Debug, Default)]
struct BucketState {
    full_at: Option<Instant>,
    throttle: LogThrottle,
}

impl RateLimiter {
    /// Reserves a slot and returns how long to wait for it. A rejected request reserves none.
    pub(super) fn reserve(&self, limits: &Limits, now: Instant) -> Result<Duration, LimitExceeded> {
        let mut bucket = self.lock();
        bucket.reserve(limits, now, MAX_WAIT).ok_or_else(|| LimitExceeded { log: bucket.throttle.should_log(now) })
    }

    /// Reserves a slot if the request need not wait. Otherwise reserves none and returns false.
    pub(super) fn try_reserve(&self, limits: &Limits, now: Instant) -> bool {
        self.lock().reserve(limits, now, Duration::ZERO).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BucketState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BucketState {
    /// Reserves a slot and returns how long to wait for it. Reserves none if the wait is longer than `max_wait`.
    fn reserve(&mut self, limits: &Limits, now: Instant, max_wait: Duration) -> Option<Duration> {
        let interval = Duration::from_secs(1) / limits.requests_per_second.get();
        let burst = interval * limits.burst.get();
        let next = self.full_at.unwrap_or(now).max(now) + interval;
        let wait = next.saturating_duration_since(now).saturating_sub(burst);
        if wait > max_wait {
            return None;
        }
        self.full_at = Some(next);
        Some(wait)
    }
}

/// Limits the open connections of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionLimiter(Arc<Mutex<ConnectionCount>>);

#[derive(Debug, Default)]
struct ConnectionCount {
    open: u32,
    throttle: LogThrottle,
    eviction_throttle: LogThrottle,
}

/// Identifies a pod, published or unknown. Unique while one of its connections is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PodKey(pub(super) usize);

/// The permit of an open connection. The connection counts until the permit is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit(ConnectionLimiter);

impl ConnectionLimiter {
    /// Returns a permit if fewer than `limit` connections are open.
    pub(super) fn open(&self, limit: u32, now: Instant) -> Result<ConnectionPermit, LimitExceeded> {
        let mut count = self.lock();
        if count.open >= limit {
            return Err(LimitExceeded { log: count.throttle.should_log(now) });
        }
        count.open += 1;
        Ok(ConnectionPermit(self.clone()))
    }

    /// Returns true if a connection is open.
    pub(super) fn is_in_use(&self) -> bool {
        self.lock().open > 0
    }

    /// Returns the key of the limiter's pod: the address of the shared count.
    pub(super) fn key(&self) -> PodKey {
        PodKey(Arc::as_ptr(&self.0).addr())
    }

    /// Returns true if the eviction of a connection should be logged.
    pub(super) fn should_log_eviction(&self, now: Instant) -> bool {
        self.lock().eviction_throttle.should_log(now)
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionCount> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.lock().open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limits(rate: u32, burst: u32) -> Limits {
        let nonzero = |number| NonZeroU32::new(number).unwrap();
        Limits { requests_per_second: nonzero(rate), burst: nonzero(burst), connections: nonzero(2) }
    }

    #[test]
    fn requests_pass_up_to_the_burst_then_wait_then_are_rejected() {
        let (limiter, limits, now) = (RateLimiter::default(), limits(100, 5), Instant::now());
        for _ in 0..5 {
            assert_eq!(limiter.reserve(&limits, now), Ok(Duration::ZERO));
        }
        // Ten more may wait, each 10 ms longer than the one before.
        for number in 1..=10 {
            assert_eq!(limiter.reserve(&limits, now), Ok(Duration::from_millis(10 * number)));
        }
        assert_eq!(limiter.reserve(&limits, now), Err(LimitExceeded { log: true }));
        assert_eq!(limiter.reserve(&limits, now), Err(LimitExceeded { log: false }));
        let later = now + Duration::from_millis(10);
        assert_eq!(limiter.reserve(&limits, later), Ok(MAX_WAIT), "rejected requests reserved no slot");
    }

    #[test]
    fn request_that_would_wait_reserves_no_slot() {
        let (limiter, limits, now) = (RateLimiter::default(), limits(100, 2), Instant::now());
        let reserved = [(); 4].map(|()| limiter.try_reserve(&limits, now));
        assert_eq!(reserved, [true, true, false, false]);
        assert_eq!(limiter.reserve(&limits, now), Ok(Duration::from_millis(10)));
    }

    #[test]
    fn rejected_requests_are_logged_once_per_second() {
        let (limiter, limits, now) = (RateLimiter::default(), limits(100, 1), Instant::now());
        let mut logged = 0;
        for millisecond in 0..3500 {
            let result = limiter.reserve(&limits, now + Duration::from_millis(millisecond));
            logged += i32::from(result == Err(LimitExceeded { log: true }));
        }
        assert_eq!(logged, 4);
    }

    #[test]
    fn idle_pod_regains_its_burst_and_no_more() {
        let (limiter, limits, now) = (RateLimiter::default(), limits(100, 2), Instant::now());
        let later = now + Duration::from_secs(3600);
        for at in [now, now, later, later] {
            assert_eq!(limiter.reserve(&limits, at), Ok(Duration::ZERO));
        }
        assert_ne!(limiter.reserve(&limits, later), Ok(Duration::ZERO));
    }

    #[test]
    fn closed_connection_frees_its_permit() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        let (first, second) = (limiter.open(2, now).unwrap(), limiter.open(2, now).unwrap());
        assert_eq!(limiter.open(2, now).unwrap_err(), LimitExceeded { log: true });
        assert_eq!(limiter.open(2, now).unwrap_err(), LimitExceeded { log: false });
        drop(first);
        assert!(limiter.open(2, now).is_ok());
        drop(second);
    }
}
