//! Limits how often a repeated event is logged.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two log lines of one throttle.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Allows one log line per second.
#[derive(Debug, Default)]
pub struct LogThrottle {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// Returns the number of events without a line since the last line, if this event may have a line at `now`. Otherwise
    /// counts the event and returns `None`.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Returns true if this event may have a line at `now`, like [`admit`](Self::admit). The number of suppressed events is
    /// dropped.
    pub fn should_log(&mut self, now: Instant) -> bool {
        self.admit(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_logged_per_interval_with_the_number_of_suppressed_events() {
        let (mut throttle, now) = (LogThrottle::default(), Instant::now());
        let lines: Vec<u64> = (0..3500).filter_map(|ms| throttle.admit(now + Duration::from_millis(ms))).collect();
        assert_eq!(lines, [0, 999, 999, 999]);
    }
}
