//! Reports agents that request data of pods or addresses that are not theirs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder};
use podmeta_service::log_throttle::LogThrottle;
use tokio::time::Instant;

use crate::cluster::events;

/// The minimum interval between two events on one node.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);

/// The time for which violations must continue before an event is published. An agent may know a pod before this replica
/// does.
const EVENT_DELAY: Duration = Duration::from_secs(5);

/// Logs violations and publishes events on nodes.
pub(super) struct ViolationReporter {
    recorder: Recorder,
    throttle: Mutex<ViolationThrottle>,
}

impl ViolationReporter {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, throttle: Mutex::default() }
    }

    /// Logs a violation, at most one line a second for each node. Publishes an event if violations of the node's agent
    /// continue.
    pub(super) fn report(&self, node: &str, violation: &str) {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let (should_publish, suppressed) = throttle.record(node, Instant::now());
        drop(throttle);
        if let Some(suppressed) = suppressed {
            tracing::warn!(
                node,
                violation,
                suppressed,
                "rejecting a request (403): if this continues, check what runs on the node"
            );
        }
        if !should_publish {
            return;
        }
        let event = Event {
            type_: EventType::Warning,
            reason: "AgentRefused".to_owned(),
            note: Some(violation.to_owned()),
            action: "Serve".to_owned(),
            secondary: None,
        };
        let node = events::node_reference(node);
        let recorder = self.recorder.clone();
        tokio::spawn(async move { events::publish(&recorder, event, &node).await });
    }
}

/// The violations of each node in the last [`EVENT_INTERVAL`].
#[derive(Debug, Default)]
struct ViolationThrottle(HashMap<String, NodeViolations>);

#[derive(Debug)]
struct NodeViolations {
    first: Instant,
    is_published: bool,
    log: LogThrottle,
}

impl ViolationThrottle {
    /// Records a violation. Returns true if an event must be published, and the number of violations without a log line
    /// if this one is logged.
    fn record(&mut self, node: &str, now: Instant) -> (bool, Option<u64>) {
        self.0.retain(|_, violations| now.duration_since(violations.first) < EVENT_INTERVAL);
        let new = || NodeViolations { first: now, is_published: false, log: LogThrottle::default() };
        let violations = self.0.entry(node.to_owned()).or_insert_with(new);
        let continues = now.duration_since(violations.first) >= EVENT_DELAY;
        let should_publish = continues && !std::mem::replace(&mut violations.is_published, true);
        (should_publish, violations.log.admit(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_violations_are_one_event_a_minute_and_a_single_one_is_none() {
        let (mut throttle, start) = (ViolationThrottle::default(), Instant::now());
        let mut should_publish = |node, second| throttle.record(node, start + Duration::from_secs(second)).0;
        let published: Vec<u64> = (0..130).filter(|second| should_publish("a", *second)).collect();
        assert_eq!(published, [5, 65, 125]);
        assert!(!should_publish("b", 130));
        assert!(!should_publish("b", 200), "the interval has started again");
    }

    #[test]
    fn violations_of_a_node_are_one_log_line_a_second() {
        let (mut throttle, start) = (ViolationThrottle::default(), Instant::now());
        let logged = (0..1500).filter_map(|ms| throttle.record("a", start + Duration::from_millis(ms)).1);
        assert_eq!(logged.collect::<Vec<_>>(), [0, 999]);
        assert_eq!(throttle.record("b", start).1, Some(0));
    }
}
