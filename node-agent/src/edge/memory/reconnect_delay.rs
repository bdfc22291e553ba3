//! Delays the new connections of a pod whose connections are evicted. Its clients reconnect at once, and each connection evicts
//! another one. Without a delay, the accepts and evictions of one pod would take the time of other pods.

use std::time::Duration;

use tokio::time::Instant;

/// Time after an eviction in which new connections of the pod wait.
const DELAY_PERIOD: Duration = Duration::from_secs(1);

/// Time between the starts of two connections that wait. 1,024 connections start within two seconds.
const START_INTERVAL: Duration = Duration::from_millis(2);

/// The state of one pod. Time is an argument.
#[derive(Debug, Default)]
pub(super) struct ReconnectDelay {
    evicted_at: Option<Instant>,
    /// Start of the last connection that waits.
    last_start: Option<Instant>,
}

impl ReconnectDelay {
    /// Records the eviction of a connection because the pod is over its budget.
    pub(super) fn record_eviction(&mut self, now: Instant) {
        self.evicted_at = Some(now);
    }

    /// Returns the start of a new connection, or `None` if it may start at once.
    pub(super) fn start_of_new(&mut self, now: Instant) -> Option<Instant> {
        let is_waiting = self.last_start.is_some_and(|start| start > now);
        let is_evicting = self.evicted_at.is_some_and(|at| now < at + DELAY_PERIOD);
        if !is_waiting && !is_evicting {
            return None;
        }
        let start = self.last_start.map_or(now, |start| start.max(now)) + START_INTERVAL;
        self.last_start = Some(start);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_of_a_pod_without_evictions_starts_at_once() {
        let mut delay = ReconnectDelay::default();
        assert_eq!(delay.start_of_new(Instant::now()), None);
    }

    #[test]
    fn connections_after_an_eviction_start_one_after_the_other() {
        let (mut delay, now) = (ReconnectDelay::default(), Instant::now());
        delay.record_eviction(now);
        for number in 1..=1024 {
            assert_eq!(delay.start_of_new(now), Some(now + START_INTERVAL * number));
        }
        let later = now + DELAY_PERIOD;
        assert_eq!(delay.start_of_new(later), Some(now + START_INTERVAL * 1025), "others still wait");
    }

    #[test]
    fn delay_ends_a_second_after_the_last_eviction() {
        let (mut delay, now) = (ReconnectDelay::default(), Instant::now());
        delay.record_eviction(now);
        assert!(delay.start_of_new(now).is_some());
        assert_eq!(delay.start_of_new(now + DELAY_PERIOD), None);
    }
}
