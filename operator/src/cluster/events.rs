//! Publishes Kubernetes events.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::runtime::events::{Event, Recorder};
use podmeta_crds::metadataprofile::MetadataProfile;

use crate::text::{format_object, replace_control_characters, truncate};

/// The timeout of one API request.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum length of an event's note, in bytes. Source: validation of Kubernetes `events.k8s.io/v1`.
const MAX_NOTE_BYTES: usize = 1024;

/// Publishes an event. Shortens its note, and replaces control characters in it. A failure is logged and not retried.
/// Events with the same reason and action on one object are counted as one, with the note of the first.
pub async fn publish(recorder: &Recorder, mut event: Event, object: &ObjectReference) {
    event.note = event.note.as_deref().map(to_note);
    let name = format_object(object.namespace.as_deref(), object.name.as_deref().unwrap_or_default());
    match tokio::time::timeout(API_TIMEOUT, recorder.publish(&event, object)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(
                error = %format_chain(&error),
                object_kind = object.kind,
                object = %name,
                reason = event.reason,
                "cannot publish an event; it is dropped"
            );
        }
        Err(_) => tracing::warn!(
            object_kind = object.kind,
            object = %name,
            reason = event.reason,
            "cannot publish an event: timeout; it is dropped"
        ),
    }
}

/// Returns a text that the API server accepts as a note.
fn to_note(text: &str) -> String {
    truncate(&replace_control_characters(text), MAX_NOTE_BYTES)
}

/// Returns a reference to a MetadataProfile, for an event.
#[must_use]
pub fn profile_reference(namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(MetadataProfile::api_version(&()).into_owned()),
        kind: Some(MetadataProfile::kind(&()).into_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// Returns a reference to a Node, for an event.
#[must_use]
pub fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        // The kubelet also sets the name here, and `kubectl describe node` searches for it.
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// Formats an error with its sources.
#[must_use]
pub fn format_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some errors already include their source.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_has_at_most_1024_bytes_on_one_line() {
        let note = to_note(&"ä\n".repeat(1000));
        assert!(note.starts_with("ä ä ") && note.ends_with('…') && !note.contains('\n'), "{note}");
        assert!((1020..=1024).contains(&note.len()), "{}", note.len());
        assert_eq!(to_note("short"), "short");
    }
}
