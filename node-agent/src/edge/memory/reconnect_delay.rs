//! Delays the new connections of a pod over its memory budget. Its clients reconnect immediately, and each new connection
//! evicts another one. Without a delay, accepting and evicting the connections of one pod would use the worker thread's time
//! for other pods.

use std::time::Duration;

use tokio::time::Instant;

/// Time after an eviction in which new connections of the pod are delayed.
const DELAY_PERIOD: Duration = Duration::from_secs(1);

/// Interval between the starts of two delayed connections.
const START_INTERVAL: Duration = Duration::from_millis(10);

/// Longest delay of a connection. Up to 1,000 delayed connections start one after the other. Further ones start after this
/// time.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// The state of one pod. Time is an argument.
#[derive(Debug, Default)]
pub(super) struct ReconnectDelay {
    evicted_at: Option<Instant>,
    /// The latest start that is reserved.
    last_start: Option<Instant>,
}

impl ReconnectDelay {
    /// Records the eviction of a connection because the pod is over its budget.
    pub(super) fn record_eviction(&mut self, now: Instant) {
        self.evicted_at = Some(now);
    }

    /// Reserves the start of a new connection. Returns `None` if it may start immediately.
    pub(super) fn reserve_start(&mut self, now: Instant) -> Option<Instant> {
        self.evicted_at.filter(|at| now < *at + DELAY_PERIOD)?;
        let last = self.last_start.map_or(now, |start| start.max(now));
        let start = (last + START_INTERVAL).min(now + MAX_DELAY);
        self.last_start = Some(start);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_of_a_pod_without_evictions_starts_immediately() {
        let mut delay = ReconnectDelay::default();
        assert_eq!(delay.reserve_start(Instant::now()), None);
    }

    #[test]
    fn connections_after_an_eviction_start_one_after_the_other() {
        let (mut delay, now) = (ReconnectDelay::default(), Instant::now());
        delay.record_eviction(now);
        for number in 1..=1000 {
            assert_eq!(delay.reserve_start(now), Some(now + START_INTERVAL * number));
        }
    }

    #[test]
    fn connection_waits_ten_seconds_at_most() {
        let (mut delay, now) = (ReconnectDelay::default(), Instant::now());
        delay.record_eviction(now);
        let last = (0..5000).filter_map(|_| delay.reserve_start(now)).last();
        assert_eq!(last, Some(now + MAX_DELAY));
    }

    #[test]
    fn delay_ends_a_second_after_the_last_eviction() {
        let (mut delay, now) = (ReconnectDelay::default(), Instant::now());
        delay.record_eviction(now);
        for _ in 0..1000 {
            assert!(delay.reserve_start(now).is_some());
        }
        assert_eq!(delay.reserve_start(now + DELAY_PERIOD), None, "others still wait");
    }
}
