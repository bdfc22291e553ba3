//! The events of a status change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};
use podmeta_crds::conditions::{ACCEPTED, CONFLICTED, CREDENTIALS_READY, PODS_EXCLUDED, PROGRAMMED};
use podmeta_crds::metadataprofile::MetadataProfileStatus;

/// Returns a warning for each condition that reports a problem and has a new status or reason, and a normal event when all
/// agents have the data. The note of an event is the message of the condition.
pub(super) fn events(previous: Option<&MetadataProfileStatus>, next: &MetadataProfileStatus) -> Vec<Event> {
    let before = |kind: &str| previous.and_then(|status| status.conditions.iter().find(|before| before.type_ == kind));
    let has_changed = |condition: &&Condition| {
        before(&condition.type_)
            .is_none_or(|before| (&before.status, &before.reason) != (&condition.status, &condition.reason))
    };
    let events = next.conditions.iter().filter(has_changed).filter_map(|condition| {
        let type_ = match (condition.type_.as_str(), condition.status.as_str()) {
            (ACCEPTED | CREDENTIALS_READY, "False") | (CONFLICTED | PODS_EXCLUDED, "True") => EventType::Warning,
            (PROGRAMMED, "True") if condition.reason != "NoPods" => EventType::Normal,
            _ => return None,
        };
        Some(Event {
            type_,
            reason: condition.reason.clone(),
            note: Some(condition.message.clone()),
            action: "Reconcile".to_owned(),
            secondary: None,
        })
    });
    events.collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> MetadataProfileStatus {
        let condition = |(kind, status, reason): &(&str, &str, &str)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "message".to_owned(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        MetadataProfileStatus { conditions: conditions.iter().map(condition).collect(), ..Default::default() }
    }

    #[test]
    fn condition_that_became_bad_is_one_warning() {
        let bad = status(&[
            (ACCEPTED, "False", "Invalid"),
            (CONFLICTED, "True", "Conflicted"),
            (PROGRAMMED, "False", "Pending"),
        ]);
        let published: Vec<_> = events(None, &bad).into_iter().map(|event| (event.type_, event.reason)).collect();
        assert_eq!(
            published,
            [(EventType::Warning, "Invalid".to_owned()), (EventType::Warning, "Conflicted".to_owned())]
        );
        assert!(events(Some(&bad), &bad).is_empty());
        let other = status(&[(ACCEPTED, "False", "PolicyForbids")]);
        assert_eq!(events(Some(&bad), &other)[0].reason, "PolicyForbids");
    }

    #[test]
    fn excluded_pods_are_one_warning() {
        let excluded = status(&[(PODS_EXCLUDED, "True", "HostNetwork")]);
        let published = events(Some(&status(&[(PODS_EXCLUDED, "False", "NoHostNetworkPods")])), &excluded);
        let [event] = &published[..] else { panic!("{} events", published.len()) };
        assert_eq!((event.type_, event.reason.as_str()), (EventType::Warning, "HostNetwork"));
        assert!(events(Some(&excluded), &status(&[(PODS_EXCLUDED, "False", "NoHostNetworkPods")])).is_empty());
    }

    #[test]
    fn programmed_is_a_normal_event_unless_there_are_no_pods() {
        let programmed = status(&[(ACCEPTED, "True", "Accepted"), (PROGRAMMED, "True", "Programmed")]);
        let published = events(None, &programmed);
        assert_eq!((published.len(), published[0].type_), (1, EventType::Normal));
        assert!(events(None, &status(&[(PROGRAMMED, "True", "NoPods")])).is_empty());
    }
}
