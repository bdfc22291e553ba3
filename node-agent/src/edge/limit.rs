//! What a pod may use: a rate of requests, and a number of connections. Time is an argument.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use podmeta_metadata::options::Limits;
use tokio::time::Instant;

/// The longest that a request waits for its turn. One that would wait longer waits as long and is refused then, so that
/// who asks again at once cannot make us busy with refusals.
pub(super) const MAX_WAIT: Duration = Duration::from_millis(100);

/// How often it is said that a pod asks too much, so that it does not fill the log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How many connections all pods may hold before each has no more than a few.
const CROWD: i64 = 10_240;
/// How many those are.
const FEW: u32 = 16;

/// A token bucket (GCRA): the instant at which it will be full again says all there is to say. It reserves turns, so
/// that requests that wait do not overtake one another.
#[derive(Debug, Default)]
pub(super) struct Bucket(Mutex<Level>);

#[derive(Debug, Default)]
struct Level {
    full_at: Option<Instant>,
    told: Told,
}

/// More was asked than the limits allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    /// Whether it is time to say so.
    pub(super) tell: bool,
}

impl Bucket {
    /// Takes a turn: how long to wait for it. A turn that is refused is not taken.
    pub(super) fn take(&self, limits: &Limits, now: Instant) -> Result<Duration, TooMany> {
        let interval = Duration::from_secs(1) / limits.requests_per_second.get();
        let burst = interval * limits.burst.get();
        let mut level = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = level.full_at.unwrap_or(now).max(now) + interval;
        let wait = next.saturating_duration_since(now).saturating_sub(burst);
        if wait > MAX_WAIT {
            return Err(TooMany { tell: level.told.tell(now) });
        }
        level.full_at = Some(next);
        Ok(wait)
    }
}

/// The connections that a pod has open.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    taken: u32,
    told: Told,
}

/// How many connections a pod may hold while all pods together hold `open`. A connection takes 16 KiB once its client has
/// begun to send, so that all of them take 160 MiB at most, and 64 MiB more where 250 pods each have their few.
pub(super) fn share(limit: NonZeroU32, open: i64) -> u32 {
    if open < CROWD { limit.get() } else { limit.get().min(FEW) }
}

/// One of them; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Open(Connections);

impl Connections {
    /// Takes a place, if the pod has less than `limit` connections open.
    pub(super) fn open(&self, limit: u32, now: Instant) -> Result<Open, TooMany> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.taken >= limit {
            return Err(TooMany { tell: places.told.tell(now) });
        }
        places.taken += 1;
        Ok(Open(self.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).taken -= 1;
    }
}

/// When it was last said that a pod is at a limit.
#[derive(Debug, Default)]
struct Told(Option<Instant>);

impl Told {
    /// Whether it is time to say so; then it counts as said.
    fn tell(&mut self, now: Instant) -> bool {
        let tell = self.0.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY);
        if tell {
            self.0 = Some(now);
        }
        tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: u32, burst: u32) -> Limits {
        let nonzero = |number| NonZeroU32::new(number).unwrap();
        Limits { requests_per_second: nonzero(rate), burst: nonzero(burst), connections: nonzero(2) }
    }

    #[test]
    fn a_burst_passes_at_once_then_the_rate_holds_then_requests_are_refused() {
        let (bucket, limits, now) = (Bucket::default(), limits(100, 5), Instant::now());
        for _ in 0..5 {
            assert_eq!(bucket.take(&limits, now), Ok(Duration::ZERO));
        }
        // Ten more may wait, each 10 ms longer than the one before.
        for turn in 1..=10 {
            assert_eq!(bucket.take(&limits, now), Ok(Duration::from_millis(10 * turn)));
        }
        assert_eq!(bucket.take(&limits, now), Err(TooMany { tell: true }));
        assert_eq!(bucket.take(&limits, now), Err(TooMany { tell: false }), "a refused turn is not taken");
        assert_eq!(bucket.take(&limits, now + Duration::from_millis(10)), Ok(MAX_WAIT));
    }

    #[test]
    fn that_a_pod_asks_too_much_is_said_once_a_second() {
        let (bucket, limits, now) = (Bucket::default(), limits(100, 1), Instant::now());
        let mut told = 0;
        for millisecond in 0..3500 {
            let turn = bucket.take(&limits, now + Duration::from_millis(millisecond));
            told += i32::from(turn == Err(TooMany { tell: true }));
        }
        assert_eq!(told, 4);
    }

    #[test]
    fn a_pod_that_was_quiet_has_its_burst_back_and_no_more() {
        let (bucket, limits, now) = (Bucket::default(), limits(100, 2), Instant::now());
        let later = now + Duration::from_secs(3600);
        for at in [now, now, later, later] {
            assert_eq!(bucket.take(&limits, at), Ok(Duration::ZERO));
        }
        assert_ne!(bucket.take(&limits, later), Ok(Duration::ZERO));
    }

    #[test]
    fn in_a_crowd_a_pod_with_few_connections_may_open_more_and_one_with_many_may_not() {
        let limit = NonZeroU32::new(256).unwrap();
        assert_eq!((share(limit, CROWD - 1), share(limit, CROWD)), (256, FEW));
        assert_eq!(share(NonZeroU32::new(3).unwrap(), CROWD), 3);
    }

    #[test]
    fn a_closed_connection_gives_its_place_back() {
        let (connections, now) = (Connections::default(), Instant::now());
        let (first, second) = (connections.open(2, now).unwrap(), connections.open(2, now).unwrap());
        assert_eq!(connections.open(2, now).unwrap_err(), TooMany { tell: true });
        assert_eq!(connections.open(2, now).unwrap_err(), TooMany { tell: false });
        drop(first);
        assert!(connections.open(2, now).is_ok());
        drop(second);
    }
}
