//! Limits how often a repeated event is logged.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two log lines of one throttle.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Allows one log line per [`LOG_INTERVAL`].
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Option<Instant>);

impl LogThrottle {
    /// Returns true if a line may be logged at `now`, and records it as logged.
    pub(crate) fn should_log(&mut self, now: Instant) -> bool {
        let log = self.0.is_none_or(|last| now.saturating_duration_since(last) >= LOG_INTERVAL);
        if log {
            self.0 = Some(now);
        }
        log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_logged_per_interval() {
        let (mut throttle, now) = (LogThrottle::default(), Instant::now());
        let logged = (0..3500).filter(|ms| throttle.should_log(now + Duration::from_millis(*ms))).count();
        assert_eq!(logged, 4);
    }
}
