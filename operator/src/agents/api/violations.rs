//! Reports agents that request data of pods or addresses that are not theirs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use crate::cluster::events;

/// The minimum interval between two events on one node.
const EVENT_INTERVAL: Duration = Duration::from_secs(60);

/// The time for which violations must continue before an event is published. An agent may know a pod before this replica
/// does.
const EVENT_DELAY: Duration = Duration::from_secs(5);

/// Logs violations and publishes events on nodes.
pub(super) struct ViolationReporter {
    recorder: Recorder,
    throttle: Mutex<EventThrottle>,
}

impl ViolationReporter {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, throttle: Mutex::default() }
    }

    /// Logs a violation, and publishes an event if violations of the node's agent continue.
    pub(super) fn report(&self, node: &str, violation: &str) {
        tracing::warn!(node, violation, "rejecting a request (403): if this continues, check what runs on the node");
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if !throttle.should_publish(node, Instant::now()) {
            return;
        }
        let event = Event {
            type_: EventType::Warning,
            reason: "AgentRefused".to_owned(),
            note: Some(violation.to_owned()),
            action: "Serve".to_owned(),
            secondary: None,
        };
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // The kubelet uses the name too, and `kubectl describe node` searches for it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        let recorder = self.recorder.clone();
        tokio::spawn(async move { events::publish(&recorder, &event, &node).await });
    }
}

/// The time of the first violation of each node, and whether an event was published for it.
#[derive(Debug, Default)]
struct EventThrottle(HashMap<String, (Instant, bool)>);

impl EventThrottle {
    fn should_publish(&mut self, node: &str, now: Instant) -> bool {
        self.0.retain(|_, (first, _)| now.duration_since(*first) < EVENT_INTERVAL);
        let (first, published) = self.0.entry(node.to_owned()).or_insert((now, false));
        now.duration_since(*first) >= EVENT_DELAY && !std::mem::replace(published, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_violations_are_one_event_a_minute_and_a_single_one_is_none() {
        let (mut throttle, start) = (EventThrottle::default(), Instant::now());
        let mut should_publish = |node, second| throttle.should_publish(node, start + Duration::from_secs(second));
        let published: Vec<u64> = (0..130).filter(|second| should_publish("a", *second)).collect();
        assert_eq!(published, [5, 65, 125]);
        assert!(!should_publish("b", 130));
        assert!(!should_publish("b", 200), "the interval has started again");
    }
}
