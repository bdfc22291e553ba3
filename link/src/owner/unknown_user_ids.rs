//! Pods whose user IDs the container runtime does not report.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time for which a pod is part of the finding after its last connection.
const KEPT_TIME: Duration = Duration::from_mins(15);

/// The time of the last connection of each pod, by name. Entries expire after 15 minutes ([`KEPT_TIME`]).
#[derive(Debug, Default)]
pub(super) struct PodsWithUnknownUserIds(Mutex<BTreeMap<String, Instant>>);

impl PodsWithUnknownUserIds {
    pub(super) fn add(&self, pod: &str, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pod.to_owned(), now);
    }

    /// Returns the message of the finding, or `None` if there is no such pod now.
    pub(super) fn finding(&self, now: Instant) -> Option<String> {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.retain(|_, last| now.saturating_duration_since(*last) < KEPT_TIME);
        let (first, _) = pods.first_key_value()?;
        Some(format!(
            "the container runtime does not report the user IDs of pods with hostUsers: false, such as {first}, so \
             allowedUsers and deniedUsers reject all their requests; use a runtime that reports them, or hostUsers: true"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_names_a_pod_until_15_minutes_after_its_last_connection() {
        let (pods, start) = (PodsWithUnknownUserIds::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pods.finding(start), None);
        pods.add("shop/web", at(0));
        pods.add("shop/api", at(30));
        pods.add("shop/web", at(40));
        assert!(pods.finding(at(929)).unwrap().contains("such as shop/api,"));
        assert!(pods.finding(at(939)).unwrap().contains("such as shop/web,"));
        assert_eq!(pods.finding(at(940)), None);
    }
}
