//! The lines of one pod's served tokens and credentials. The first request of a second gets its own line. Later ones are
//! counted, and share a line at the end of the second, so that a busy pod does not wait for its log. No request is left
//! out. Time is an argument, except in [`PendingLine`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podmeta_metadata::dialect::Dialect;
use podmeta_metadata::request::PathClass;
use podmeta_metadata::workload::PodRef;
use tokio::time::{Instant, sleep_until};

/// Time after a line in which requests of the same kind are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Requests that can share a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineKind {
    pub(super) dialect: Dialect,
    pub(super) class: PathClass,
    pub(super) status: u16,
    /// True if the requests have a token header.
    pub(super) token: bool,
}

/// The state of a pod's lines, one entry for each kind.
#[derive(Debug, Default)]
pub(super) struct AccessLog(Mutex<Vec<CountedRequests>>);

/// Requests since the last line of a kind.
#[derive(Debug)]
struct CountedRequests {
    kind: LineKind,
    /// End of the interval after the last line.
    end: Instant,
    requests: u64,
    longest: Duration,
}

/// Action after a request.
#[derive(Debug, PartialEq, Eq)]
enum LineAction {
    /// Log it.
    Log,
    /// It is counted, as the first one: log the count at this time.
    LogCountAt(Instant),
    /// It is counted.
    None,
}

impl AccessLog {
    /// Logs a request, or counts it for a line within a second. Must be called in a runtime.
    pub(super) fn record(self: &Arc<Self>, pod: &PodRef, kind: LineKind, duration: Duration, now: Instant) {
        match self.count(kind, duration, now) {
            LineAction::Log => log(pod, kind, 1, duration),
            LineAction::LogCountAt(end) => {
                let pending = PendingLine { log: Arc::clone(self), pod: pod.clone(), kind };
                tokio::spawn(async move {
                    let _pending = pending;
                    sleep_until(end).await;
                });
            }
            LineAction::None => {}
        }
    }

    fn count(&self, kind: LineKind, duration: Duration, now: Instant) -> LineAction {
        let mut entries = self.lock();
        let Some(entry) = entries.iter_mut().find(|entry| entry.kind == kind) else {
            entries.push(CountedRequests { kind, end: now + COUNT_INTERVAL, requests: 0, longest: Duration::ZERO });
            return LineAction::Log;
        };
        if entry.requests == 0 && now >= entry.end {
            entry.end = now + COUNT_INTERVAL;
            return LineAction::Log;
        }
        entry.requests += 1;
        entry.longest = entry.longest.max(duration);
        if entry.requests == 1 { LineAction::LogCountAt(entry.end) } else { LineAction::None }
    }

    /// Returns the number of counted requests and the longest duration, and starts a new interval.
    fn take(&self, kind: LineKind, now: Instant) -> Option<(u64, Duration)> {
        let mut entries = self.lock();
        let entry = entries.iter_mut().find(|entry| entry.kind == kind)?;
        entry.end = now + COUNT_INTERVAL;
        Some((std::mem::take(&mut entry.requests), std::mem::take(&mut entry.longest)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<CountedRequests>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the counted requests when it is dropped, also if the runtime ends before the interval.
struct PendingLine {
    log: Arc<AccessLog>,
    pod: PodRef,
    kind: LineKind,
}

impl Drop for PendingLine {
    fn drop(&mut self) {
        if let Some((requests, longest)) = self.log.take(self.kind, Instant::now()) {
            log(&self.pod, self.kind, requests, longest);
        }
    }
}

/// Logs a line. `duration` is the longest of all requests.
fn log(pod: &PodRef, kind: LineKind, requests: u64, duration: Duration) {
    let LineKind { dialect, class, status, token } = kind;
    let (dialect, path) = (dialect.as_str(), class.as_str());
    tracing::info!(target: "access", %pod, dialect, path, status, token, ?duration, requests, "served");
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: LineKind =
        LineKind { dialect: Dialect::Ec2, class: PathClass::Credentials, status: 200, token: true };
    const TOKEN: LineKind = LineKind { class: PathClass::Token, token: false, ..CREDENTIALS };

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn first_request_is_logged_and_later_ones_of_the_second_are_counted() {
        let (log, start) = (AccessLog::default(), Instant::now());
        assert_eq!(log.count(CREDENTIALS, ms(1), start), LineAction::Log);
        assert_eq!(log.count(CREDENTIALS, ms(2), start + ms(10)), LineAction::LogCountAt(start + ms(1000)));
        assert_eq!(log.count(CREDENTIALS, ms(9), start + ms(20)), LineAction::None);
        assert_eq!(log.count(CREDENTIALS, ms(3), start + ms(1001)), LineAction::None, "the line is not logged yet");
        assert_eq!(log.take(CREDENTIALS, start + ms(1002)), Some((3, ms(9))));
        assert_eq!(log.count(CREDENTIALS, ms(1), start + ms(1003)), LineAction::LogCountAt(start + ms(2002)));
    }

    #[test]
    fn request_after_a_second_without_one_is_logged_immediately() {
        let (log, start) = (AccessLog::default(), Instant::now());
        for seconds in 0..5 {
            assert_eq!(log.count(CREDENTIALS, ms(1), start + ms(1000 * seconds)), LineAction::Log);
        }
    }

    #[test]
    fn kinds_are_counted_apart() {
        let (log, start) = (AccessLog::default(), Instant::now());
        assert_eq!(log.count(CREDENTIALS, ms(1), start), LineAction::Log);
        assert_eq!(log.count(TOKEN, ms(1), start), LineAction::Log);
        assert_eq!(log.count(LineKind { status: 503, ..TOKEN }, ms(1), start), LineAction::Log);
    }
}
